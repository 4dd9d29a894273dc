"""Many jobs in one directory: each apart, each done once, whatever ends them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnistcnn import command_line, evaluate, multirun, rundir, signals, sweep, train
from mnistcnn.config import TrainSettings, fingerprint, to_yaml

from .conftest import ROOT, TINY, settings

PROC = Path("/proc")  # of Linux
KILLED = "killed by SIGKILL (out of memory?)"

# What befalls a quick job with this seed, as long as the sweep's directory holds no file "luck".
KILLED_AT_ONCE, KILLED_LATER, ENDED, RAISED = 101, 102, 103, 104


def quick(chosen: TrainSettings, out: Path) -> None:
    """What a training leaves, without the training. Its start is noted in the directory above."""
    with open(out.parent / "starts", "a") as file:
        file.write(f"{chosen.seed}\n")
    befalls = None if (out.parent / "luck").exists() else chosen.seed
    if befalls == KILLED_AT_ONCE:
        os.kill(os.getpid(), signal.SIGKILL)
    out = rundir.create(out, "hydra.run.dir")
    rundir.write_text(out / rundir.CONFIG, to_yaml(chosen))
    with rundir.record(out, rundir.LOG, {"config_sha256": fingerprint(chosen)}) as record:
        time.sleep(0.2)
        if befalls == KILLED_LATER:
            os.kill(os.getpid(), signal.SIGKILL)
        if befalls == ENDED:
            os._exit(3)
        if befalls == RAISED:
            raise ArithmeticError("out of\nluck")
        scores = {"accuracy": 0.875, "error": 0.125}
        record.values |= {"epochs": 1, "data": {"train": 100}}
        record.values |= {part: scores for part in sweep.PARTS}
        rundir.append_history(out, {"epoch": 1, "val_accuracy": 0.875})
        (out / rundir.PREDICTIONS).write_bytes(b"of no interest here")
        record.values["status"] = "finished"


QUICK = f"{__name__}:quick"


def train_quickly() -> None:
    command_line.run_app("train", QUICK)


def starts(directory: Path) -> list[int]:
    return [int(line) for line in (directory / "starts").read_text().split()]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def summary(directory: Path) -> list[dict[str, str]]:
    """The rows of ``summary.csv``, but for the time that they took."""
    with open(directory / sweep.SUMMARY_CSV, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def status(run: Path) -> str:
    return json.loads((run / rundir.METRICS).read_text())["status"]


# Nothing is done twice ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    """A multirun that nobody disturbed: the seeds 0 and 1."""
    directory = tmp_path_factory.mktemp("sweeps") / "left-alone"
    with start(directory, "seed=0,1") as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    first, second = (line for line in out.splitlines() if line.startswith("run "))
    assert re.fullmatch(r"run 1 of 2: seed-0-[0-9a-f]{10}", first)
    assert re.fullmatch(r"run 2 of 2, about \d+ s left: seed-1-[0-9a-f]{10}", second)
    assert out.count("test accuracy") == 2  # what the jobs themselves say
    return directory


def start(directory: Path, *arguments: str) -> subprocess.Popen:
    """A multirun of the real command, in a session of its own as in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnistcnn.train", "-m", *TINY, *arguments,
         f"hydra.sweep.dir={directory}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_only_what_is_missing_is_run(left_alone, command, tmp_path):
    directory = tmp_path / "sweep"
    shutil.copytree(left_alone, directory)
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*/*")}
    assert len(before) > 20
    code, out, err = command(
        train.main, "-m", *TINY, "seed=5,0,1", f"hydra.sweep.dir={directory}"
    )  # fmt: skip
    assert (code, err) == (0, "")
    lines = [line.partition(" seed-")[0] for line in out.splitlines() if line.startswith("run ")]
    assert lines == ["run 1 of 3:", "run 2 of 3 is there already:", "run 3 of 3 is there already:"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    *others, new = summary(directory)
    assert others == summary(left_alone)
    assert (new["seed"], new["status"]) == ("5", "finished")
    assert "| 3   |" in (directory / sweep.SUMMARY_MD).read_text()


def test_a_run_is_known_by_what_it_is_not_by_its_name(command, tmp_path):
    directory = tmp_path / "sweep"

    def again(*typed: str) -> list[int]:
        """The seeds that were run this time."""
        before = len(starts(directory)) if directory.exists() else 0
        where = f"hydra.sweep.dir={directory}"
        code, _, err = command(train_quickly, "-m", where, *typed)
        assert (code, err) == (0, "")
        return starts(directory)[before:]

    assert again("seed=0", "aug=none,full") == [0, 0]
    assert [name[:-11] for name in names(directory)] == ["aug-full", "aug-none"]
    assert again("seed=0,1", "aug=none,full") == [1, 1]
    assert len(summary(directory)) == 4
    # where it is computed makes no other run
    assert again("seed=0,1", "aug=none,full", "device=cpu") == []
    assert again("seed=0,1", "aug=none,full", f"data.dir={tmp_path}") == []
    assert again("aug=none,full") == []  # 0 is the seed
    assert len(names(directory)) == 4
    # a setting does
    assert again("seed=0,1", "batch_size=32") == [0, 1]
    assert [row["batch_size"] for row in summary(directory)].count("32") == 2


def test_the_same_job_twice_in_one_command_is_done_once(command, tmp_path):
    code, out, err = command(train_quickly, "-m", "seed=3,3", "hydra.sweep.dir=sweep")
    assert (code, err) == (0, "")
    assert starts(tmp_path / "sweep") == [3]
    assert "run 2 of 2 is there already: seed-3-" in out


def test_two_multiruns_at_the_same_time_share_the_work(tmp_path):
    directory = tmp_path / "sweep"
    call = "from tests.test_multirun import train_quickly; train_quickly()"
    typed = ["-m", "seed=0,1,2,3", f"hydra.sweep.dir={directory}"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", call, *typed],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in both]
    assert said == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(starts(directory)) == [0, 1, 2, 3]
    assert [row["status"] for row in summary(directory)] == ["finished"] * 4


# Names -------------------------------------------------------------------------------------------


def test_names_say_what_varies_and_need_no_quotes(command, tmp_path):
    code, _, _ = command(
        train_quickly, "-m", "optimizer=adam", "model.channels=[8,16],[32]",
        "optimizer.lr=1e-3,.25", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert code == 0
    found = names(tmp_path / "sweep")
    assert [name[:-11] for name in found] == [
        "model.channels-32_optimizer.lr-0.001", "model.channels-32_optimizer.lr-0.25",
        "model.channels-8-16_optimizer.lr-0.001", "model.channels-8-16_optimizer.lr-0.25",
    ]  # fmt: skip
    hashes = {name[-10:] for name in found}
    assert len(hashes) == 4 and all(re.fullmatch("[0-9a-f]{10}", name) for name in hashes)
    for run in sweep.find(tmp_path / "sweep"):
        assert run.metrics["config_sha256"].startswith(run.path.name[-10:])


def test_names_of_very_long_overrides_are_short_and_different(command, tmp_path):
    keys = ["data.validation", "model.dropout", "optimizer.rho", "optimizer.lr"]
    long = [f"{key}=choice(0.123456789012345)" for key in keys]
    code, _, err = command(train_quickly, "-m", *long, "seed=1,2", "hydra.sweep.dir=sweep")
    assert (code, err) == (0, "")
    one, other = names(tmp_path / "sweep")
    assert one[:-11] == other[:-11] and one[-10:] != other[-10:]
    for name in (one, other):
        assert name.startswith("data.validation-0.123") and len(name.encode()) <= 255
        assert re.fullmatch(r"[\w.-]+", name, re.ASCII)


def test_a_multirun_of_one_job_has_a_name_too(command, tmp_path):
    assert command(train_quickly, "-m", "seed=3", "hydra.sweep.dir=sweep")[0] == 0
    assert names(tmp_path / "sweep") == [f"run-{fingerprint(settings('seed=3'))[:10]}"]


def test_a_directory_that_holds_another_run_is_left_alone(command, tmp_path):
    code, out, err = command(
        train_quickly, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"
    )
    run = tmp_path / "sweep" / "same"
    assert code == 1
    assert f"run 2 of 2: {run} holds another run, which is left alone" in out.splitlines()
    assert err.startswith("mnistcnn: 1 run is not complete") and len(err.splitlines()) == 1
    assert starts(tmp_path / "sweep") == [0] and status(run) == "finished"
    assert [row["directory"] for row in summary(tmp_path / "sweep")] == ["same"]
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    # nor does a later command touch it
    code, _, _ = command(
        train_quickly, "-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"
    )
    assert code == 1 and starts(tmp_path / "sweep") == [0]
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


# Accidents ---------------------------------------------------------------------------------------


def test_a_job_that_raises_takes_no_other_along(command, tmp_path):
    code, _, err = command(
        train.main, "-m", *TINY, "optimizer=sgd", "optimizer.lr=1e6,0.1", "hydra.sweep.dir=sweep"
    )
    assert code == 1
    good, bad = summary(tmp_path / "sweep")
    assert (good["optimizer.lr"], good["status"], good["reason"]) == ("0.1", "finished", "")
    assert (bad["optimizer.lr"], bad["status"]) == ("1000000", "failed")
    assert bad["reason"].startswith("NonFiniteLoss: the loss became nan in epoch 1")
    text = (tmp_path / "sweep" / sweep.SUMMARY_MD).read_text()
    assert f"1 of 2 runs not complete:\n\n- optimizer.lr=1000000: failed, {bad['reason']}" in text
    log = (tmp_path / "sweep" / bad["directory"] / rundir.LOG).read_text()
    assert "Traceback" in log and "NonFiniteLoss" in log


def test_jobs_that_end_badly_are_told_from_each_other_and_done_again(command, tmp_path):
    directory = tmp_path / "sweep"
    seeds = [KILLED_AT_ONCE, 0, KILLED_LATER, ENDED, RAISED, 1]
    typed = f"seed={','.join(map(str, seeds))}"
    code, out, err = command(train_quickly, "-m", typed, f"hydra.sweep.dir={directory}")
    assert code == 1
    assert err == (
        "mnistcnn: 4 runs are not complete; the same command with "
        f"hydra.sweep.dir={directory} does only these\n"
    )
    assert starts(directory) == seeds
    outcomes = {int(row["seed"]): (row["status"], row["reason"]) for row in summary(directory)}
    assert outcomes == {
        0: ("finished", ""),
        1: ("finished", ""),
        KILLED_AT_ONCE: ("failed", KILLED),
        KILLED_LATER: ("failed", KILLED),
        ENDED: ("failed", "ended with exit code 3"),
        RAISED: ("failed", "ArithmeticError: out of luck"),
    }
    assert f"- seed={KILLED_LATER}: failed, {KILLED}" in out.splitlines()

    before = names(directory)
    (directory / "luck").touch()
    code, out, err = command(train_quickly, "-m", typed, f"hydra.sweep.dir={directory}")
    assert (code, err) == (0, "")
    assert starts(directory)[len(seeds) :] == [KILLED_AT_ONCE, KILLED_LATER, ENDED, RAISED]
    assert names(directory) == before
    assert {row["status"] for row in summary(directory)} == {"finished"}
    (run,) = directory.glob(f"seed-{RAISED}-*")
    log = (run / rundir.LOG).read_text()
    assert "Traceback" in log and "everything is in" in log  # of both times
    assert "error" not in json.loads((run / rundir.METRICS).read_text())


def living(session: int) -> list[int]:
    """The processes of a session, but for those that only wait to be buried."""
    found = []
    for file in PROC.glob("[0-9]*/stat"):
        try:
            state, _, _, its_session, *_ = file.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(file.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def in_the_second_job(process: subprocess.Popen, directory: Path) -> Path:
    """Wait until the run of seed 1 has trained, with pictures still to come; its directory."""
    wait_for(lambda: process.poll() is not None or list(directory.glob("seed-1-*/history.jsonl")),
             seconds=300)  # fmt: skip
    (run,) = directory.glob("seed-1-*")
    assert process.poll() is None and status(run) == "interrupted"
    return run


@pytest.mark.skipif(not PROC.exists(), reason="asks /proc about processes")
def test_an_interrupt_from_the_keyboard(left_alone, command, tmp_path):
    directory = tmp_path / "sweep"
    with start(directory, "seed=0,1") as process:
        run = in_the_second_job(process, directory)
        assert len(living(process.pid)) >= 3  # the command, the server and the job
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "mnistcnn: interrupted from the keyboard\n"
        "mnistcnn: 1 run is not complete; the same command with "
        f"hydra.sweep.dir={directory} does only this one\n"
    )
    assert "Traceback" not in out
    written = json.loads((run / rundir.METRICS).read_text())
    assert written["status"] == "interrupted" and "keyboard" in written["error"]
    assert [row["status"] for row in summary(directory)] == ["finished", "interrupted"]
    assert "- seed=1: interrupted" in (directory / sweep.SUMMARY_MD).read_text()
    wait_for(lambda: not living(process.pid), seconds=10)

    code, out, err = command(
        train.main, "-m", *TINY, "seed=0,1", f"hydra.sweep.dir={directory}"
    )  # fmt: skip
    assert (code, err) == (0, "") and "run 1 of 2 is there already" in out
    assert summary(directory) == summary(left_alone)


@pytest.mark.skipif(not PROC.exists(), reason="asks /proc about processes")
def test_a_multirun_that_is_killed_takes_its_job_along_and_goes_on(left_alone, command, tmp_path):
    directory = tmp_path / "sweep"
    shutil.copytree(left_alone, directory)
    shutil.rmtree(*directory.glob("seed-1-*"))
    with start(directory, "seed=0,1") as process:
        run = in_the_second_job(process, directory)
        process.kill()
        wait_for(lambda: not living(process.pid), seconds=10)
    assert status(run) == "interrupted"
    assert len(names(directory)) == 2

    code, _, err = command(
        train.main, "-m", *TINY, "seed=0,1", f"hydra.sweep.dir={directory}"
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert summary(directory) == summary(left_alone)
    same = [{path.relative_to(d) for path in d.rglob("*")} for d in (directory, left_alone)]
    assert same[0] == same[1]


# Evaluations -------------------------------------------------------------------------------------


def test_evaluations_of_several_runs_give_a_summary(left_alone, command, tmp_path):
    ckpt = ",".join(str(left_alone / name) for name in names(left_alone))
    code, out, err = command(
        evaluate.main, "-m", f"ckpt={ckpt}", "tsne.samples=20", "hydra.sweep.dir=sweep"
    )
    assert (code, err) == (0, "")
    rows = summary(tmp_path / "sweep")
    assert [row["directory"] for row in rows] == ["0", "1"]
    scores = [f"{part}_{name}" for part in sweep.PARTS for name in ("accuracy", "error")]
    of_training = summary(left_alone)
    assert [[row[x] for x in scores] for row in rows] == [
        [row[x] for x in scores] for row in of_training
    ]
    assert rows[0]["seed"] == "0" and rows[1]["seed"] == "1"
    assert "| 2   |" in out


def test_evaluations_that_fail_are_listed_too(command, tmp_path):
    code, out, err = command(evaluate.main, "-m", "ckpt=/nowhere,/etc", "hydra.sweep.dir=sweep")
    assert code == 1
    assert "mnistcnn: 2 runs are not complete" in err
    first, second = (line for line in out.splitlines() if line.startswith("- "))
    assert first.startswith("- 0: failed, DamagedError: /nowhere cannot be read")
    assert second.startswith("- 1: failed, UsageError: ckpt=/etc is not the directory of a run")


def test_a_signal_while_the_summary_is_drawn(command, tmp_path, monkeypatch):
    def stopped(_):
        raise signals.Stopped(signal.SIGTERM)

    monkeypatch.setattr(sweep, "summarise", stopped)
    code, _, err = command(train_quickly, "-m", "seed=0", "hydra.sweep.dir=sweep")
    assert (code, err) == (143, "mnistcnn: stopped by SIGTERM\n")


# What is told ------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What is told while jobs are done in this process; each takes 10 s by the clock."""
    now, lines = [1000.0], []

    def call(
        do: Callable, explain: Callable, task: str, chosen: TrainSettings, out: Path, *_, **__
    ):
        now[0] += 10
        if chosen.seed == RAISED:
            return 1
        quick(chosen, out)
        return 0

    monkeypatch.setattr(multirun.time, "time", lambda: now[0])
    monkeypatch.setattr(multirun.apart, "call", call)
    monkeypatch.setattr(multirun.log, "info", lambda form, *values: lines.append(form % values))
    return lines


def do(directory: Path, *seeds: int, known: bool = True) -> None:
    """The jobs of these seeds; ``known`` is whether they are so before the first."""
    jobs = [settings(f"seed={seed}") for seed in seeds]
    fingerprints = [fingerprint(job) for job in jobs] if known else []
    many = multirun.Multirun(directory, fingerprints, len(jobs), started=multirun.time.time())
    for number, job in enumerate(jobs):
        many.job(print, QUICK, job, directory / f"seed-{job.seed}", number)


def test_the_time_left_is_told_once_a_job_was_done(told, tmp_path):
    do(tmp_path, 0, 1, 2, 3)
    assert told == [
        "run 1 of 4: seed-0", "run 2 of 4, about 30 s left: seed-1",
        "run 3 of 4, about 20 s left: seed-2", "run 4 of 4, about 10 s left: seed-3",
    ]  # fmt: skip


def test_the_time_left_counts_what_is_there_already_as_done(told, tmp_path):
    do(tmp_path, 0, 1, 2, 3)
    told.clear()
    do(tmp_path, 4, 5, 1, 6)
    assert told == [
        "run 1 of 4: seed-4", "run 2 of 4, about 20 s left: seed-5",
        "run 3 of 4 is there already: seed-1", "run 4 of 4, about 10 s left: seed-6",
    ]  # fmt: skip
    told.clear()
    do(tmp_path, 8, 9, known=False)  # as of a sweeper that decides as it goes
    assert told == ["run 1 of 2: seed-8", "run 2 of 2, about 10 s left: seed-9"]


def test_the_time_left_does_not_count_again_what_has_failed(told, tmp_path):
    do(tmp_path, 0, RAISED, 1)
    assert told == [
        "run 1 of 3: seed-0", f"run 2 of 3, about 20 s left: seed-{RAISED}",
        "run 3 of 3, about 20 s left: seed-1",
    ]  # fmt: skip


def test_who_finds_another_at_the_job_waits_for_it(tmp_path):
    chosen = settings("seed=1")
    out = tmp_path / f"run-{fingerprint(chosen)[:10]}"
    out.mkdir()
    call = "from tests.test_multirun import train_quickly; train_quickly()"
    with rundir.alone(out):
        with subprocess.Popen(
            [sys.executable, "-u", "-c", call, "-m", "seed=1", f"hydra.sweep.dir={tmp_path}"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        ) as late:  # fmt: skip
            assert late.stdout.readline() == f"run 1 of 1: {out.name}\n"
            assert late.stdout.readline() == f"another process is at it, waiting: {out.name}\n"
            quick(chosen, out)
            rundir.FileLock(out / rundir.LOCK, is_singleton=True).release()
            assert late.stdout.readline() == f"another process has done it: {out.name}\n"
            late.stdout.read()
    assert late.returncode == 0
    assert starts(tmp_path) == [1]
