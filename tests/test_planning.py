"""What is checked before the first job of a sweep, and before a directory is made."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from mnistcnn import train

from .conftest import TINY
from .test_multirun import quick_train, started_seeds


def test_a_sweep_without_its_data_fails_once_and_leaves_no_directory(command, tmp_path):
    arguments = ["-m", "seed=0,1,2", f"data.dir={tmp_path}/none", "data.mirrors=[]"]
    code, _, err = command(train.main, *arguments, "hydra.sweep.dir=a/sweep")
    assert code == 2 and err.count("train-images-idx3-ubyte.gz is not in") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_a_warm_up_that_is_too_short_is_refused_before_the_first_job(command, tmp_path, sweep):
    arguments = [*sweep, *TINY, "scheduler=onecycle", "batch_size=10000"]
    code, out, err = command(train.main, *arguments)
    assert code == 2 and "run 1" not in out
    assert err == (
        "mnistcnn: scheduler.warmup=0.3 needs a run of at least 7 steps, and this one has 1: "
        "choose more epochs, a smaller batch_size or a larger scheduler.warmup\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "batch_size"),
        (["hydra.job.name=x", "device=cpu", "tsne.samples=60", "pictures=false"], "batch_size"),
        (["logger=tensorboard"], "batch_size"),
        (["seed=3", "data=mnist5k"], "batch_size_data-mnist5k_seed-3"),
        (["data=mnist5k", "seed=3"], "batch_size_data-mnist5k_seed-3"),
        (["data=mnist5k", "epochs=1", "seed=0"], "batch_size_data-mnist5k_epochs-1_seed-0"),
    ],
)
def test_the_directory_of_an_experiment_is_named_after_what_was_typed(overrides, name):
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        arguments = ["experiment=batch_size", *overrides]
        config = compose("train", arguments, return_hydra_config=True)
    assert config.hydra.sweep.dir == f"outputs/experiments/{name}"


def test_long_names_of_experiments_are_shortened_and_distinct():
    names = set()
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        for last in (1, 2):
            channels = ",".join(["100"] * 30 + [str(last)])
            arguments = ["experiment=batch_size", f"model.channels=[{channels}]"]
            config = compose("train", arguments, return_hydra_config=True)
            names.add(Path(config.hydra.sweep.dir).name)
    assert len(names) == 2 and all(len(name) < 130 for name in names)


def test_without_an_experiment_a_sweep_has_a_new_directory():
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        config = compose("train", ["seed=1"], return_hydra_config=True)
    assert re.fullmatch(r"outputs/[\d-]+/[\d-]+-multirun", config.hydra.sweep.dir)


def test_the_first_line_of_a_sweep_says_how_many_runs_are_complete(command, tmp_path):
    directory = "hydra.sweep.dir=sweep"
    _, out, _ = command(quick_train, "-m", "seed=0,1", directory)
    assert out.startswith(f"the sweep has 2 runs: {tmp_path}/sweep\nrun 1 of 2: ")
    _, out, _ = command(quick_train, "-m", "seed=range(3)", directory)
    assert out.startswith(
        f"the sweep has 3 runs, 2 of them already complete: {tmp_path}/sweep\nrun 1 of 3 is already"
    )
    code, out, err = command(quick_train, "-m", "seed=range(3)", directory)
    assert (code, err) == (0, "")
    first, *others = out.splitlines()
    assert first == f"the sweep has 3 runs, 3 of them already complete: {tmp_path}/sweep"
    assert not any(line.startswith("run ") for line in others)  # Hydra started no job
    assert out.endswith(f"Results: {tmp_path}/sweep\n")
    assert started_seeds(tmp_path / "sweep") == [0, 1, 2]


def test_a_run_is_not_written_into_a_sweep(command, tmp_path):
    command(quick_train, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command(train.main, *TINY, "hydra.run.dir=sweep")
    assert code == 2 and err.endswith(
        "hydra.run.dir=sweep holds a sweep: choose another directory\n"
    )
    code, _, err = command(train.main, "resume=sweep")
    assert code == 2 and err == (
        "mnistcnn: resume=sweep is a sweep: repeat its command with hydra.sweep.dir=sweep\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("resume", ["resume=a", "resume=a,b"])
def test_a_sweep_cannot_resume_single_runs(command, tmp_path, resume):
    code, out, err = command(train.main, "-m", "seed=0", resume)
    assert (code, out) == (2, "") and err.startswith("mnistcnn: resume is for one run, without -m")
    assert list(tmp_path.iterdir()) == []
