"""The file ``sweep.json``, and the order of runs."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnistcnn import train
from mnistcnn.config.load import FORMAT
from mnistcnn.experiments import sweep_file
from mnistcnn.experiments.summary import summarise
from mnistcnn.experiments.sweep_file import (
    jobs_not_started,
    record_sweep,
    sort_as_typed,
    typed_values,
)
from mnistcnn.runs.directory import METRICS, SWEEP
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import find_runs
from mnistcnn.system.errors import WriteError

from .conftest import ROOT
from .synthetic_runs import make_run, settings
from .test_multirun import QUICK_TRAIN, quick_train


def record(path, *jobs: str, keys=("aug", "optimizer.lr", "seed")) -> dict:
    path.mkdir(exist_ok=True)
    command = ["python", "-m", "mnistcnn.train", "-m", *jobs]
    record_sweep(path, command, keys, [settings(*job.split()) for job in jobs])
    return json.loads((path / SWEEP).read_text())


def test_the_command_and_its_values_are_recorded(tmp_path):
    content = record(tmp_path, "aug=full optimizer.lr=1e-3", "aug=none optimizer.lr=.25")
    assert content.pop("started_at").startswith("20")
    jobs = [("aug=full", "optimizer.lr=1e-3"), ("aug=none", "optimizer.lr=.25")]
    hashes = [config_sha256(settings(*job)) for job in jobs]
    labels = ["aug=full optimizer.lr=0.001", "aug=none optimizer.lr=0.25"]
    assert content == {
        "jobs": dict(zip(hashes, labels, strict=True)),
        "format": FORMAT,
        "threads": None,
        "commands": [
            [
                "python",
                "-m",
                "mnistcnn.train",
                "-m",
                "aug=full optimizer.lr=1e-3",
                "aug=none optimizer.lr=.25",
            ]
        ],
        "values": {"aug": ["full", "none"], "optimizer.lr": ["0.001", "0.25"], "seed": ["0"]},
    }


def test_a_further_command_keeps_the_order_and_appends_its_values(tmp_path):
    first = record(tmp_path, "aug=full", "aug=none", keys=["aug"])
    second = record(tmp_path, "seed=1 aug=prose", "seed=1 aug=none", keys=["seed", "aug"])
    assert second["started_at"] == first["started_at"]
    assert second["values"] == {"aug": ["full", "none", "prose"], "seed": ["1"]}
    assert [command[-1] for command in second["commands"]] == ["aug=none", "seed=1 aug=none"]
    # a repeated command changes nothing; the default of a key that is not typed is appended
    third = record(tmp_path, "aug=full", "aug=none", keys=["aug"])
    assert [*third.pop("jobs").values()] == ["aug=full seed=0", "aug=none seed=0"]
    assert {**third, "jobs": second["jobs"]} == {
        **second,
        "values": {**second["values"], "seed": ["1", "0"]},
    }


def test_the_number_of_threads_is_that_of_the_first_command(tmp_path):
    def threads(number: int | None) -> int | None:
        return record_sweep(tmp_path, ["python"], ["seed"], [settings()], number)

    # a command for a cluster does not know the number
    assert [threads(number) for number in (None, 4, 1, None)] == [None, 4, 4, 4]


def test_the_jobs_that_were_not_started(tmp_path):
    record(tmp_path / "sweep", *(f"seed={seed}" for seed in range(4)), keys=["seed"])
    make_run(tmp_path / "sweep" / "0", "seed=0")
    # epochs were added: the name has the hash that it had before
    name = f"seed-1-{config_sha256(settings('seed=1'))[:10]}"
    make_run(tmp_path / "sweep" / name, "seed=1", "epochs=20")
    runs = find_runs(tmp_path)
    assert jobs_not_started(runs, tmp_path) == {tmp_path / "sweep": ["seed=2", "seed=3"]}
    record(tmp_path / "sweep", "seed=0", keys=["seed"])  # the last command counts
    assert jobs_not_started(runs, tmp_path) == {tmp_path / "sweep": []}


DAMAGED = [
    "",
    "{",
    "3",
    "null",
    "{}",
    f'{{"format": {FORMAT}, "started_at": "", "commands": [], "values": 5}}',
    f'{{"format": {FORMAT}, "started_at": "", "commands": [], "values": {{"aug": 5}}}}',
    f'{{"format": {FORMAT}, "started_at": "", "commands": [], "values": {{"aug": [[1]]}}}}',
    f'{{"format": {FORMAT}, "started_at": NaN, "commands": [], "values": {{}}}}',
    f'{{"format": {FORMAT}, "started_at": "", "commands": [3], "values": {{}}}}',
    '{"format": -1, "started_at": "", "commands": [], "values": {"aug": ["none", "full"]}}',
]


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(
        sweep_file.log, "warning", lambda form, *values: lines.append(form % values)
    )
    return lines


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_counts_as_missing(tmp_path, content, warnings):
    full, none = (make_run(tmp_path / name, f"aug={name}") for name in ("full", "none"))
    (tmp_path / SWEEP).write_text(content)
    assert typed_values(tmp_path) == {}
    assert sort_as_typed([none, full], tmp_path) == [full, none]  # by their start
    assert warnings == []
    assert record(tmp_path, "aug=none", "aug=full")["values"]["aug"] == ["none", "full"]
    assert sort_as_typed([full, none], tmp_path) == [none, full]
    assert warnings == [f"{tmp_path / SWEEP} cannot be read and is replaced"]
    record(tmp_path, "aug=prose")
    assert len(warnings) == 1


def test_a_file_that_cannot_be_written_is_a_line(tmp_path, monkeypatch, warnings):
    def fail(path, _):
        raise WriteError(f"{path} cannot be written")

    monkeypatch.setattr(sweep_file, "write_json", fail)
    record_sweep(tmp_path, [], ["aug"], [settings()])
    assert warnings == [f"{tmp_path / SWEEP} cannot be written"]


def test_commands_that_are_recorded_at_the_same_time_are_all_kept(tmp_path, monkeypatch, warnings):
    read = sweep_file._read

    def read_slowly(sweep_dir):
        content = read(sweep_dir)
        time.sleep(0.1)
        return content

    monkeypatch.setattr(sweep_file, "_read", read_slowly)
    commands = [f"aug={aug}" for aug in ("none", "full", "prose")]
    jobs = {command: [settings(command)] for command in commands}
    with ThreadPoolExecutor(len(commands)) as pool:  # the lock also excludes other threads
        list(pool.map(lambda each: record_sweep(tmp_path, [each], ["aug"], jobs[each]), commands))
    content = json.loads((tmp_path / SWEEP).read_text())
    assert sorted(content["commands"]) == sorted([each] for each in commands)
    assert set(content["values"]["aug"]) == {"none", "full", "prose"}
    assert warnings == []


# The order of runs -------------------------------------------------------------------------------


def names(path) -> list[str]:
    return [run.path.relative_to(path).as_posix() for run in sort_as_typed(find_runs(path), path)]


def test_runs_are_sorted_by_the_values_as_typed_then_by_seed(tmp_path):
    for name in ("full-0.5", "none-0.5", "none-1", "full-1", "prose-1"):
        aug, fraction = name.split("-")
        for seed in (10, 2):
            make_run(
                tmp_path / f"{name}-{seed}",
                f"aug={aug}",
                f"data.fraction={fraction}",
                f"seed={seed}",
            )
    jobs = [f"data.fraction={f} aug={a}" for f in ("1", "0.5") for a in ("none", "full")]
    record(tmp_path, *jobs, keys=["data.fraction", "aug"])
    groups = ["prose-1", "none-1", "full-1", "none-0.5", "full-0.5"]  # prose was never typed
    assert names(tmp_path) == [f"{group}-{seed}" for group in groups for seed in (2, 10)]


def test_sweeps_below_a_directory_are_sorted_by_their_start(tmp_path):
    make_run(tmp_path / "b" / "full", "aug=full")
    make_run(tmp_path / "a" / "none", "aug=none", "epochs=3")
    make_run(tmp_path / "a" / "full", "aug=full", "epochs=3")
    make_run(tmp_path / "b" / "none", "aug=none")
    record(tmp_path / "b", "aug=none", "aug=full")
    assert names(tmp_path) == ["b/none", "b/full", "a/none", "a/full"]


def test_runs_without_a_start_or_settings_are_last(tmp_path):
    for name in "abcd":
        make_run(tmp_path / name, f"epochs={ord(name)}", status="failed")
    for name in "ab":
        file = tmp_path / name / METRICS
        file.write_text(file.read_text().replace("started_at", "other"))
    (tmp_path / "c" / "config.yaml").unlink()
    assert names(tmp_path) == ["c", "d", "a", "b"]


def test_table_and_picture_have_the_order_as_typed(command, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "mnistcnn.evaluation.figures.overlaid_curves",
        lambda _, errors, note="": drawn.append(list(errors)),
    )
    arguments = ["-m", "aug=prose,none,full", "seed=1,0", "hydra.sweep.dir=sweep"]
    code, out, _ = command(quick_train, *arguments)
    assert code == 0
    content = json.loads((tmp_path / "sweep" / SWEEP).read_text())
    assert content["commands"] == [["python", "-m", "mnistcnn.train", *arguments]]
    assert content["values"] == {"aug": ["prose", "none", "full"], "seed": ["1", "0"]}
    shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
    for name in ("sweep", "copy"):
        summary = summarise(tmp_path / name)
        assert [group.settings["aug.name"] for group in summary.groups] == ["prose", "none", "full"]
    assert drawn == [["aug=prose", "aug=none", "aug=full"]]
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert rows == ["aug", "prose", "none", "full"]


# The next step -----------------------------------------------------------------------------------


def test_a_sweep_ends_with_the_best_group_and_the_next_command(command, tmp_path):
    _, out, err = command(quick_train, "-m", "aug=none,full", "hydra.sweep.dir='a sweep'")
    assert err == ""
    assert out.endswith(
        f"Results: {tmp_path / 'a sweep'}\n\n"
        "Lowest validation error: aug=none, 12.50% (n=1)\n\n"
        f"To compare the groups: python -m mnistcnn.compare '{tmp_path / 'a sweep'}'\n"
    )


def test_a_sweep_with_one_group_has_no_next_command(command, tmp_path):
    _, out, _ = command(quick_train, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
    assert out.endswith(f"Results: {tmp_path / 'sweep'}\n")


def test_a_study_ends_with_the_best_trial(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    arguments = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.params=null",
        "optimizer.lr=interval(0.1,0.9)",
        f"hydra.sweep.dir={tmp_path}",
    ]
    result = subprocess.run(
        [sys.executable, "-c", QUICK_TRAIN, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    first = summarise(tmp_path).groups[0].settings["optimizer.lr"]
    assert f"Best trial: optimizer.lr={first:.3g}, 12.50% (n=1)" in result.stdout.splitlines()
    content = json.loads((tmp_path / SWEEP).read_text())
    assert content["values"] == {} and "hydra/sweeper=optuna" in content["commands"][0]


def test_jobs_that_were_not_started_are_counted_with_those_that_failed(
    command, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mnistcnn.experiments.multirun.subprocesses.start_process", stop)
    code, out, err = command(train.main, "-m", "data=mnist5k", "seed=0,1", "hydra.sweep.dir=sweep")
    assert code == 130
    assert "Not complete" not in out
    assert err.splitlines()[-1] == (
        "mnistcnn: 2 runs are not complete (2 not started); to run only the missing ones, repeat "
        f"the command with hydra.sweep.dir={tmp_path / 'sweep'}"
    )
