"""The disk space of a sweep: the estimate, and the line before the first job."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mnistcnn import train
from mnistcnn.experiments import disk_space
from mnistcnn.experiments.disk_space import OTHER_FILES, checkpoint_sizes, sweep_size
from mnistcnn.runs.directory import BEST, LAST
from mnistcnn.training.train_run import train_run

from .conftest import TINY, settings
from .test_multirun import quick_train


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adadelta"],
        ["optimizer=adam"],
        ["optimizer=sgd", "optimizer.momentum=0"],
        ["model=custom", "model.width=0.05", "optimizer=rmsprop"],
    ],
    ids=" ".join,
)
def test_estimated_sizes_are_those_of_the_files(tmp_path, overrides):
    run_settings = settings(*TINY, *overrides)
    train_run(run_settings, tmp_path / "run")
    files = {file.name: file.stat().st_size for file in (tmp_path / "run").iterdir()}
    sizes = checkpoint_sizes(run_settings.model, run_settings.optimizer)
    assert sizes.best == pytest.approx(files[BEST], rel=0.02)
    assert sizes.last == pytest.approx(files[LAST], rel=0.02)
    others = sum(files.values()) - files[BEST] - files[LAST]
    assert 0.25 * OTHER_FILES < others < OTHER_FILES  # more with all of MNIST and more epochs


def test_size_of_a_sweep():
    jobs = [settings(f"seed={seed}") for seed in range(6)]
    sizes = checkpoint_sizes(jobs[0].model, jobs[0].optimizer)
    files = 6 * (sizes.best + OTHER_FILES)
    assert sweep_size(jobs, concurrent=1) == files + 7 * sizes.last
    assert sweep_size(jobs, concurrent=4) == files + 10 * sizes.last
    assert sweep_size(jobs, concurrent=1, keep_last=False) == files + 2 * sizes.last
    for job in jobs:
        job.checkpoint.keep_last = False
    assert sweep_size(jobs, concurrent=1) == files + 2 * sizes.last
    assert sweep_size([], concurrent=1) == 0


def test_a_large_network_writes_a_second_best_checkpoint():
    job = settings("model=custom")
    sizes = checkpoint_sizes(job.model, job.optimizer)
    assert sizes.next_best == sizes.best > 263e6
    files = sizes.best + OTHER_FILES
    assert sweep_size([job], concurrent=1) == files + 2 * sizes.last + sizes.best


def test_weights_are_not_allocated_and_each_network_is_built_once(monkeypatch):
    built = []

    def count_calls(*arguments):
        built.append(arguments)
        return checkpoint_sizes(*arguments)

    monkeypatch.setattr(disk_space, "checkpoint_sizes", count_calls)
    large = [settings("model=custom", "model.width=4", f"seed={seed}") for seed in range(20)]
    assert sweep_size(large, concurrent=1) > 20 * 12e9  # 1.05 billion parameters, with Adam
    assert len(built) == 1


def set_free_space(monkeypatch, free: float) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


# two runs of the default network, one after the other: 2.7 MB
SWEEP = ["-m", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.launcher.jobs=1"]


@pytest.mark.parametrize(
    ("free", "overrides", "line"),
    [
        (
            20e6,
            [],
            "about 3 MB of the 20 MB free in {}; with checkpoint.keep_last=false it takes 2 MB",
        ),
        (20e6, ["checkpoint.keep_last=false"], "about 2 MB of the 20 MB free in {}"),
        (20e6, ["select=last"], "about 3 MB of the 20 MB free in {}"),
        (1e6, ["select=last"], "about 3 MB, more than the 1 MB free in {}"),
        (200e6, [], None),
    ],
)
def test_a_line_if_the_sweep_takes_a_tenth_of_the_free_space(
    command, monkeypatch, tmp_path, free, overrides, line
):
    set_free_space(monkeypatch, free)
    code, out, err = command(quick_train, *SWEEP, *overrides)
    assert (code, err) == (0, "")
    lines = [each for each in out.splitlines() if "this sweep" in each]
    if line is None:
        assert lines == []
    else:
        assert lines == [f"this sweep takes {line.format(tmp_path / 'sweep')}"]
        assert out.index(lines[0]) < out.index("run 1 of ")
    # complete runs need no more space
    set_free_space(monkeypatch, 0)
    code, out, err = command(quick_train, *SWEEP, *overrides)
    assert (code, err) == (0, "") and "this sweep" not in out


def test_no_line_for_a_single_run(command, monkeypatch, tmp_path):
    set_free_space(monkeypatch, 0)
    code, out, _ = command(train.main, *TINY, "hydra.run.dir=run")
    assert code == 0 and "this sweep" not in out
    assert (Path(tmp_path) / "run" / LAST).exists()
