"""Jobs of a sweep: each runs once in its own process, and failed ones run again."""

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock

from mnistcnn import evaluate, train
from mnistcnn.cli import hydra_command, planning
from mnistcnn.cli.hydra_command import run_hydra_command
from mnistcnn.config.load import to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.experiments import multirun
from mnistcnn.experiments.job_process import Action, Job, next_action
from mnistcnn.experiments.summary import SUMMARY_CSV, SUMMARY_MD
from mnistcnn.runs.directory import (
    CONFIG,
    LAST,
    LOG,
    METRICS,
    MODEL_SUMMARY,
    PICTURES,
    PREDICTIONS,
    TSNE,
    create_run_dir,
)
from mnistcnn.runs.history import append_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import record_run
from mnistcnn.runs.store import SPLITS, find_runs
from mnistcnn.system import signals
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.locks import LOCK_FILE, lock_run_dir

from .conftest import ROOT, TINY, settings
from .synthetic_runs import make_run

PROC = Path("/proc")  # Linux
KILLED = "killed by SIGKILL (out of memory?)"

# seeds with which quick_task fails, unless the directory of the sweep has a file "no_failures"
KILLED_AT_START, KILLED_LATER, EXITED, RAISED = 101, 102, 103, 104


def quick_task(settings: TrainSettings, run_dir: Path) -> None:
    """Write the files of a finished run without training.

    Appends the seed to the file ``starts`` in the parent directory.
    """
    with (run_dir.parent / "starts").open("a") as file:
        file.write(f"{settings.seed}\n")
    failure = None if (run_dir.parent / "no_failures").exists() else settings.seed
    if failure == KILLED_AT_START:
        os.kill(os.getpid(), signal.SIGKILL)
    run_dir = create_run_dir(run_dir, "hydra.run.dir")
    write_text(run_dir / CONFIG, to_yaml(settings))
    with record_run(run_dir, LOG, {"config_sha256": config_sha256(settings)}) as record:
        time.sleep(0.2)
        if failure == KILLED_LATER:
            os.kill(os.getpid(), signal.SIGKILL)
        if failure == EXITED:
            os._exit(3)
        if failure == RAISED:
            raise ArithmeticError("division\nby zero")
        scores = {"accuracy": 0.875, "error": 0.125}
        record.values |= {"epochs": 1, "data": {"train": 100}, "precision": "float32"}
        record.values |= dict.fromkeys(SPLITS, scores)
        append_history(run_dir, {"epoch": 1, "val_accuracy": 0.875})
        np.savez(run_dir / PREDICTIONS)
        record.values["status"] = "finished"


def quick_train() -> None:
    """Run ``mnistcnn.train`` with quick_task instead of the training."""
    with mock.patch.object(planning, "check_data"):  # quick_task needs no data
        run_hydra_command("train", quick_task)


# with epochs enough for a job to be stopped in one
TEN_EPOCHS = ["epochs=10", *(each for each in TINY if not each.startswith("epochs="))]
ONE_AT_A_TIME = "hydra.launcher.jobs=1"
QUICK_TRAIN = "from tests.test_multirun import quick_train; quick_train()"


def started_seeds(directory: Path) -> list[int]:
    return [int(line) for line in (directory / "starts").read_text().split()]


def run_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def summary_rows(directory: Path) -> list[dict[str, str]]:
    """Return the rows of ``summary.csv`` without their durations."""
    with (directory / SUMMARY_CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def status(run_dir: Path) -> str:
    return json.loads((run_dir / METRICS).read_text())["status"]


# Complete runs are not repeated ------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Return the directory of an uninterrupted sweep of the seeds 0 and 1, one at a time."""
    directory = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    with start_multirun(directory, "seed=0,1", ONE_AT_A_TIME) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    first, second = (line for line in out.splitlines() if line.startswith("run "))
    assert re.fullmatch(r"run 1 of 2: seed-0-[0-9a-f]{10}", first)
    assert re.fullmatch(r"run 2 of 2, about \d+ s left: seed-1-[0-9a-f]{10}", second)
    assert out.count("test accuracy") == 2  # printed by the jobs
    return directory


def start_multirun(directory: Path, *arguments: str) -> subprocess.Popen:
    """Start ``mnistcnn.train -m`` in a new session, as in a terminal."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mnistcnn.train",
            "-m",
            *TEN_EPOCHS,
            *arguments,
            f"hydra.sweep.dir={directory}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_only_missing_runs_are_run(undisturbed, command, tmp_path):
    directory = tmp_path / "sweep"
    shutil.copytree(undisturbed, directory)
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*/*")}
    assert len(before) > 20
    code, out, err = command(
        train.main, "-m", *TEN_EPOCHS, "seed=5,0,1", f"hydra.sweep.dir={directory}"
    )
    assert (code, err) == (0, "")
    lines = [
        line.partition(" seed-")[0]
        for line in out.splitlines()
        if re.match(r"run \d of 3\b(?! ended)", line)
    ]
    assert lines == [
        "run 1 of 3:",
        "run 2 of 3 is already complete:",
        "run 3 of 3 is already complete:",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    *old_rows, new_row = summary_rows(directory)
    assert old_rows == summary_rows(undisturbed)
    assert (new_row["seed"], new_row["status"]) == ("5", "finished")
    assert "| 3   |" in (directory / SUMMARY_MD).read_text()


def test_runs_are_recognised_by_their_configuration_not_by_their_name(command, tmp_path):
    directory = tmp_path / "sweep"

    def newly_run_seeds(*overrides: str) -> list[int]:
        count = len(started_seeds(directory)) if directory.exists() else 0
        code, _, err = command(quick_train, "-m", f"hydra.sweep.dir={directory}", *overrides)
        assert (code, err) == (0, "")
        return started_seeds(directory)[count:]

    assert newly_run_seeds("seed=0", "aug=none,full") == [0, 0]
    assert [name[:-11] for name in run_names(directory)] == ["aug-full", "aug-none"]
    assert newly_run_seeds("seed=0,1", "aug=none,full") == [1, 1]
    assert len(summary_rows(directory)) == 4
    # the device and the directory of the data do not make a different run
    assert newly_run_seeds("seed=0,1", "aug=none,full", "device=cpu") == []
    assert newly_run_seeds("seed=0,1", "aug=none,full", f"data.dir={tmp_path}") == []
    assert newly_run_seeds("aug=none,full") == []  # 0 is the default seed
    assert len(run_names(directory)) == 4
    # other settings do
    assert newly_run_seeds("seed=0,1", "batch_size=32") == [0, 1]
    assert [row["batch_size"] for row in summary_rows(directory)].count("32") == 2


def test_the_same_job_twice_in_one_command_runs_once(command, tmp_path):
    code, out, err = command(quick_train, "-m", "seed=3,3", "hydra.sweep.dir=sweep", ONE_AT_A_TIME)
    assert (code, err) == (0, "")
    assert started_seeds(tmp_path / "sweep") == [3]
    assert "run 2 of 2 is already complete: seed-3-" in out


def test_two_concurrent_multiruns_share_the_jobs(tmp_path):
    directory = tmp_path / "sweep"
    overrides = ["-m", "seed=0,1,2,3", f"hydra.sweep.dir={directory}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", QUICK_TRAIN, *overrides],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert errors == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(started_seeds(directory)) == [0, 1, 2, 3]
    assert [row["status"] for row in summary_rows(directory)] == ["finished"] * 4


# Directory names ---------------------------------------------------------------------------------


def test_directory_names_have_the_varying_settings_and_need_no_quotes(command, tmp_path):
    code, _, _ = command(
        quick_train,
        "-m",
        "optimizer=adam",
        "model.channels=[8,16],[32]",
        "optimizer.lr=1e-3,.25",
        "hydra.sweep.dir=sweep",
    )
    assert code == 0
    names = run_names(tmp_path / "sweep")
    assert [name[:-11] for name in names] == [
        "model.channels-32_optimizer.lr-0.001",
        "model.channels-32_optimizer.lr-0.25",
        "model.channels-8-16_optimizer.lr-0.001",
        "model.channels-8-16_optimizer.lr-0.25",
    ]
    hashes = {name[-10:] for name in names}
    assert len(hashes) == 4 and all(re.fullmatch("[0-9a-f]{10}", name) for name in hashes)
    for run in find_runs(tmp_path / "sweep"):
        assert run.metrics["config_sha256"].startswith(run.path.name[-10:])


def test_names_of_long_overrides_are_shortened_and_distinct(command, tmp_path):
    keys = ["data.validation", "model.dropout", "optimizer.rho", "optimizer.lr"]
    overrides = [f"{key}=choice(0.123456789012345)" for key in keys]
    code, _, err = command(quick_train, "-m", *overrides, "seed=1,2", "hydra.sweep.dir=sweep")
    assert (code, err) == (0, "")
    first, second = run_names(tmp_path / "sweep")
    assert first[:-11] == second[:-11] and first[-10:] != second[-10:]
    for name in (first, second):
        assert name.startswith("data.validation-0.123") and len(name.encode()) <= 255
        assert re.fullmatch(r"[\w.-]+", name, re.ASCII)


def test_the_name_of_a_single_job(command, tmp_path):
    assert command(quick_train, "-m", "seed=3", "hydra.sweep.dir=sweep")[0] == 0
    assert run_names(tmp_path / "sweep") == [f"run-{config_sha256(settings('seed=3'))[:10]}"]


def test_a_different_run_is_not_overwritten(command, tmp_path):
    code, out, err = command(
        quick_train, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same",
        ONE_AT_A_TIME,
    )  # fmt: skip
    run_dir = tmp_path / "sweep" / "same"
    assert code == 1
    line = (
        f"run 2 of 2: {run_dir} holds a run with other settings (were epochs added?) and is not "
        "overwritten: move it out of the sweep to run this job"
    )
    assert line in out.splitlines()
    assert err.startswith("mnistcnn: 1 run is not complete") and len(err.splitlines()) == 1
    assert started_seeds(tmp_path / "sweep") == [0] and status(run_dir) == "finished"
    assert [row["directory"] for row in summary_rows(tmp_path / "sweep")] == ["same"]
    before = {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    # not by a later command either
    code, _, _ = command(
        quick_train, "-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"
    )
    assert code == 1 and started_seeds(tmp_path / "sweep") == [0]
    assert {path: path.stat().st_mtime_ns for path in run_dir.iterdir()} == before


# Failures ----------------------------------------------------------------------------------------


def test_other_jobs_run_after_one_that_raises(command, tmp_path):
    code, _, _ = command(
        train.main, "-m", *TINY, "optimizer=sgd", "optimizer.lr=1e6,0.1", "hydra.sweep.dir=sweep"
    )
    assert code == 1
    bad, good = summary_rows(tmp_path / "sweep")
    assert (good["optimizer.lr"], good["status"], good["reason"]) == ("0.1", "finished", "")
    assert (bad["optimizer.lr"], bad["status"]) == ("1000000", "failed")
    assert bad["reason"].startswith("NonFiniteLoss: the loss became nan in epoch 1")
    text = (tmp_path / "sweep" / SUMMARY_MD).read_text()
    assert f"Not complete:\n\n- optimizer.lr=1000000: failed, {bad['reason']}" in text
    log = (tmp_path / "sweep" / bad["directory"] / LOG).read_text()
    assert "Traceback" in log and "NonFiniteLoss" in log


def test_failures_are_told_apart_and_run_again(command, tmp_path):
    directory = tmp_path / "sweep"
    seeds = [KILLED_AT_START, 0, KILLED_LATER, EXITED, RAISED, 1]
    override = f"seed={','.join(map(str, seeds))}"
    code, out, err = command(
        quick_train, "-m", override, f"hydra.sweep.dir={directory}", ONE_AT_A_TIME
    )
    assert code == 1
    assert err == (
        "mnistcnn: 4 runs are not complete; to run only the missing ones, repeat the command with "
        f"hydra.sweep.dir={directory}\n"
    )
    assert started_seeds(directory) == seeds
    outcomes = {int(row["seed"]): (row["status"], row["reason"]) for row in summary_rows(directory)}
    assert outcomes == {
        0: ("finished", ""),
        1: ("finished", ""),
        KILLED_AT_START: ("failed", KILLED),
        KILLED_LATER: ("failed", KILLED),
        EXITED: ("failed", "ended with exit code 3"),
        RAISED: ("failed", "ArithmeticError: division by zero"),
    }
    assert f"- seed={KILLED_LATER}: failed, {KILLED}" in out.splitlines()

    names = run_names(directory)
    (directory / "no_failures").touch()
    code, out, err = command(
        quick_train, "-m", override, f"hydra.sweep.dir={directory}", ONE_AT_A_TIME
    )
    assert (code, err) == (0, "")
    repeated = started_seeds(directory)[len(seeds) :]
    assert repeated == [KILLED_AT_START, KILLED_LATER, EXITED, RAISED]
    assert run_names(directory) == names
    assert {row["status"] for row in summary_rows(directory)} == {"finished"}
    (run_dir,) = directory.glob(f"seed-{RAISED}-*")
    log = (run_dir / LOG).read_text()
    assert "Traceback" in log and "Results: " in log  # of both attempts
    assert "error" not in json.loads((run_dir / METRICS).read_text())


def running_processes(session: int) -> list[int]:
    """Return the ids of a session's processes, without zombies."""
    running = []
    for file in PROC.glob("[0-9]*/stat"):
        try:
            state, _, _, process_session, *_ = file.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # the process has ended
            continue
        if int(process_session) == session and state != "Z":
            running.append(int(file.parent.name))
    return running


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def wait_for_second_job(process: subprocess.Popen, directory: Path) -> Path:
    """Wait until the run of seed 1 is being trained; return its directory."""
    wait_for(
        lambda: process.poll() is not None or list(directory.glob(f"seed-1-*/{LAST}")),
        seconds=300,
    )
    (run_dir,) = directory.glob("seed-1-*")
    assert process.poll() is None and status(run_dir) == "interrupted"
    return run_dir


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_ctrl_c_stops_a_multirun_which_can_be_resumed(undisturbed, command, tmp_path):
    directory = tmp_path / "sweep"
    with start_multirun(directory, "seed=0,1", ONE_AT_A_TIME) as process:
        run_dir = wait_for_second_job(process, directory)
        assert len(running_processes(process.pid)) >= 3  # the command, the fork server and the job
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "mnistcnn: stopped by Ctrl-C\n"
        "mnistcnn: 1 run is not complete; to run only the missing ones, repeat the command with "
        f"hydra.sweep.dir={directory}\n"
    )
    assert "Traceback" not in out
    metrics = json.loads((run_dir / METRICS).read_text())
    assert metrics["status"] == "interrupted" and "Ctrl-C" in metrics["error"]
    assert [row["status"] for row in summary_rows(directory)] == ["finished", "interrupted"]
    assert "- seed=1: interrupted" in (directory / SUMMARY_MD).read_text()
    wait_for(lambda: not running_processes(process.pid), seconds=10)

    code, out, err = command(
        train.main, "-m", *TEN_EPOCHS, "seed=0,1", f"hydra.sweep.dir={directory}"
    )
    assert (code, err) == (0, "") and "run 1 of 2 is already complete" in out
    assert summary_rows(directory) == summary_rows(undisturbed)


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_the_job_of_a_killed_multirun_ends_and_can_be_resumed(undisturbed, command, tmp_path):
    directory = tmp_path / "sweep"
    shutil.copytree(undisturbed, directory)
    shutil.rmtree(*directory.glob("seed-1-*"))
    with start_multirun(directory, "seed=0,1", ONE_AT_A_TIME) as process:
        run_dir = wait_for_second_job(process, directory)
        process.kill()
        wait_for(lambda: not running_processes(process.pid), seconds=10)
    assert status(run_dir) == "interrupted"
    assert len(run_names(directory)) == 2

    code, _, err = command(
        train.main, "-m", *TEN_EPOCHS, "seed=0,1", f"hydra.sweep.dir={directory}"
    )
    assert (code, err) == (0, "")
    assert summary_rows(directory) == summary_rows(undisturbed)
    resumed_files, undisturbed_files = (
        {path.relative_to(sweep) for path in sweep.rglob("*")} for sweep in (directory, undisturbed)
    )
    assert resumed_files == undisturbed_files


# Evaluations -------------------------------------------------------------------------------------


def test_evaluations_of_several_runs_are_summarised(undisturbed, command, tmp_path):
    ckpt = ",".join(str(undisturbed / name) for name in run_names(undisturbed))
    code, out, err = command(
        evaluate.main, "-m", f"ckpt={ckpt}", "tsne.samples=20", "hydra.sweep.dir=sweep"
    )
    assert (code, err) == (0, "")
    rows = summary_rows(tmp_path / "sweep")
    assert [row["directory"] for row in rows] == ["0", "1"]
    columns = [f"{split}_{name}" for split in SPLITS for name in ("accuracy", "error")]
    training_rows = summary_rows(undisturbed)
    assert [[row[column] for column in columns] for row in rows] == [
        [row[column] for column in columns] for row in training_rows
    ]
    assert rows[0]["seed"] == "0" and rows[1]["seed"] == "1"
    assert "| 2   |" in out


def test_failed_evaluations_are_listed(command, tmp_path):
    code, out, err = command(evaluate.main, "-m", "ckpt=/nowhere,/etc", "hydra.sweep.dir=sweep")
    assert code == 1
    assert "mnistcnn: 2 runs are not complete" in err
    first, second = (line for line in out.splitlines() if line.startswith("- "))
    assert first.startswith("- 0: failed, CorruptFileError: /nowhere cannot be read")
    assert second.startswith("- 1: failed, UsageError: ckpt=/etc is not the directory of a run")


def test_a_signal_while_the_summary_is_written(command, tmp_path, monkeypatch):
    def raise_stopped(_):
        raise signals.Stopped(signal.SIGTERM)

    monkeypatch.setattr(hydra_command, "summarise", raise_stopped)
    code, _, err = command(quick_train, "-m", "seed=0", "hydra.sweep.dir=sweep")
    assert (code, err) == (143, "mnistcnn: stopped by SIGTERM\n")


def test_a_job_that_is_killed_while_it_draws_is_complete(
    tmp_path, monkeypatch, replace_job_process, caplog
):
    def draw_and_die(function: Callable, task: Callable, job: Job, *_: object) -> int:
        shutil.rmtree(job.run_dir)
        make_run(job.run_dir, "seed=3", missing_pictures=["tsne.png"])
        return -signal.SIGKILL

    replace_job_process(draw_and_die)
    monkeypatch.setattr(logging.getLogger("mnistcnn"), "propagate", True)
    job = settings("seed=3")
    sweep = multirun.Multirun(tmp_path, {config_sha256(job): job}, total=1)
    error = sweep.run_job(quick_task, job, tmp_path / "run", 0)
    assert error == pytest.approx(0.09)  # of make_run
    assert f"run 1 of 1: {KILLED}; not drawn: tsne.png" in caplog.text
    assert sweep.count_incomplete() == 0 and not sweep.is_complete()


OPTIONAL = [name for name in PICTURES if name.endswith((".png", ".html"))]


@pytest.mark.parametrize(
    ("run_overrides", "sweep_overrides", "expected"),
    [
        ("pictures=false", "pictures=true", OPTIONAL),
        ("pictures=false", "pictures=false", []),
        ("pictures=true", "pictures=false", []),
        ("tsne.samples=0", "tsne.samples=20", [TSNE]),
        ("tsne.samples=20", "tsne.samples=0", []),
        ("tsne.samples=20", "tsne.samples=30", []),
        ("pictures=false", "tsne.samples=0", [name for name in OPTIONAL if name != TSNE]),
    ],
)
def test_a_repeated_sweep_draws_only_pictures_that_were_left_out(
    tmp_path, replace_job_process, run_overrides, sweep_overrides, expected
):
    run = make_run(tmp_path / "run", run_overrides)
    job = settings(sweep_overrides)
    assert run.config_sha256 == config_sha256(job)
    assert run.pictures_to_draw(job) == expected

    started = []
    replace_job_process(lambda *_: started.append(1) or 0)
    sweep = multirun.Multirun(tmp_path, {config_sha256(job): job}, total=1)
    assert sweep.is_complete() == (not expected) and sweep.count_incomplete() == 0
    sweep.run_job(quick_task, job, run.path, 0)
    assert started == ([1] if expected else [])
    assert next_action(Job(0, job, run.path)) is (Action.RESUME if expected else Action.SKIP)


def test_pictures_that_failed_before_they_were_left_out_are_not_missing(tmp_path):
    run = make_run(tmp_path / "run", "pictures=false", missing_pictures=[TSNE, MODEL_SUMMARY])
    assert run.missing_pictures == [MODEL_SUMMARY]


# Messages ----------------------------------------------------------------------------------------


@pytest.fixture
def messages(monkeypatch, replace_job_process) -> list[str]:
    """Return the log messages of jobs that run in this process and take 10 s on a fake clock."""
    now, lines = [1000.0], []

    def run_in_this_process(function: Callable, task: Callable, job: Job, *_: object) -> int:
        now[0] += 10
        if job.settings.seed == RAISED:
            return 1
        task(job.settings, job.run_dir)
        return 0

    monkeypatch.setattr(multirun.time, "monotonic", lambda: now[0])
    replace_job_process(run_in_this_process)
    monkeypatch.setattr(multirun.log, "info", lambda form, *values: lines.append(form % values))
    return lines


def run_jobs(directory: Path, *seeds: int, known_in_advance: bool = True) -> None:
    """Run the jobs of these seeds.

    If not ``known_in_advance``, the sweep does not have the hashes of its jobs.
    """
    jobs = [settings(f"seed={seed}") for seed in seeds]
    known = {config_sha256(job): job for job in jobs if known_in_advance}
    runner = multirun.Multirun(directory, known, len(jobs))
    runner.run_jobs(
        quick_task,
        [Job(number, job, directory / f"seed-{job.seed}") for number, job in enumerate(jobs)],
    )


def test_the_time_left_is_shown_after_the_first_job(messages, tmp_path):
    run_jobs(tmp_path, 0, 1, 2, 3)
    assert messages == [
        "run 1 of 4: seed-0",
        "run 2 of 4, about 30 s left: seed-1",
        "run 3 of 4, about 20 s left: seed-2",
        "run 4 of 4, about 10 s left: seed-3",
    ]


def test_the_time_left_excludes_jobs_that_are_already_complete(messages, tmp_path):
    run_jobs(tmp_path, 0, 1, 2, 3)
    messages.clear()
    run_jobs(tmp_path, 4, 5, 1, 6)
    assert messages == [
        "run 1 of 4: seed-4",
        "run 2 of 4, about 20 s left: seed-5",
        "run 3 of 4 is already complete: seed-1",
        "run 4 of 4, about 10 s left: seed-6",
    ]
    messages.clear()
    run_jobs(tmp_path, 8, 9, known_in_advance=False)  # optuna chooses one job after the other
    assert messages == ["run 1 of 2: seed-8", "run 2 of 2, about 10 s left: seed-9"]


def test_the_time_left_excludes_jobs_that_have_failed(messages, tmp_path):
    run_jobs(tmp_path, 0, RAISED, 1)
    assert messages == [
        "run 1 of 3: seed-0",
        f"run 2 of 3, about 20 s left: seed-{RAISED}",
        "run 3 of 3, about 10 s left: seed-1",
    ]


def test_a_job_that_another_process_runs_comes_last(tmp_path):
    job = settings("seed=1")
    run_dir = tmp_path / f"seed-1-{config_sha256(job)[:10]}"
    run_dir.mkdir()
    overrides = ["seed=1,2", f"hydra.sweep.dir={tmp_path}", ONE_AT_A_TIME]
    with (
        lock_run_dir(run_dir),
        subprocess.Popen(
            [sys.executable, "-u", "-c", QUICK_TRAIN, "-m", *overrides],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        lines = [process.stdout.readline().rstrip("\n") for _ in range(4)]
        assert lines[0] == f"the sweep has 2 runs: {tmp_path}"
        assert lines[1] == f"run 1 of 2 is being run by another process: {run_dir.name}"
        assert lines[2].startswith("run 2 of 2: seed-2-")
        while not lines[-1].startswith("run 1 of 2, about"):
            lines.append(process.stdout.readline().rstrip("\n"))
        line = process.stdout.readline()
        assert line == f"waiting for the lock of {run_dir.name}: another process runs it\n"
        quick_task(job, run_dir)
        FileLock(run_dir / LOCK_FILE, is_singleton=True).release()
        line = process.stdout.readline()
        assert line == f"already completed by another process: {run_dir.name}\n"
        process.stdout.read()
    assert process.returncode == 0
    assert started_seeds(tmp_path) == [2, 1]
