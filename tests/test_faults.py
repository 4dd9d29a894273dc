"""Runs that are killed, run out of disk space or are stopped, and their resumption.

Each fault is injected in the subprocess that runs the command: the source has no code for testing.
"""

import contextlib
import io
import itertools
import json
import multiprocessing.forkserver
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnistcnn import train
from mnistcnn.evaluation import figures
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    CONFUSION_CSV,
    CURVES,
    HISTORY,
    LAST,
    LOG,
    METRICS,
    MODEL_SUMMARY,
    NEIGHBOURS,
    NEXT_BEST,
    PICTURES,
    PREDICTIONS,
    TSNE,
)
from mnistcnn.runs.history import read_history
from mnistcnn.system import atomic_files, signals
from mnistcnn.system.locks import LOCK_FILE
from mnistcnn.training import flat_parameters, trainer
from mnistcnn.training.train_run import train_run
from mnistcnn.training.trainer import Trainer

from .conftest import ROOT, settings
from .fault_injection import (
    MOMENTS,
    deny_writing,
    fill_disk,
    inject_fault,
    kill,
    run_in_process,
    start_process,
    without_measurements,
    write_data_instead_of_pictures,
)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits"),
    pytest.mark.usefixtures("own_fork_server"),
]

# A second of training and a second of drawing; three epochs of 22 batches.
SMALL = [
    "data=mnist5k",
    "epochs=3",
    "data.fraction=0.2",
    "batch_size=32",
    "aug=full",
    "tsne.samples=60",
    "tsne.perplexity=10",
]
# files that are equal to the byte for equal runs
EQUAL_FILES = [
    BEST,
    LAST,
    PREDICTIONS,
    CONFIG,
    CURVES,
    TSNE,
    CONFUSION_CSV,
    NEIGHBOURS,
    MODEL_SUMMARY,
]


def read_results(run_dir: Path) -> dict[str, object]:
    """Return the contents of all files that must be equal for equal runs, without measurements."""
    return {
        **{name: (run_dir / name).read_bytes() for name in EQUAL_FILES},
        METRICS: without_measurements(json.loads((run_dir / METRICS).read_text())),
        HISTORY: [without_measurements(row) for row in read_history(run_dir)],
    }


def file_names(run_dir: Path) -> set[str]:
    return {file.name for file in run_dir.iterdir()} - {LOCK_FILE}


def assert_same_results(run_dir: Path, expected_dir: Path) -> None:
    actual, expected = read_results(run_dir), read_results(expected_dir)
    assert [name for name in actual if actual[name] != expected[name]] == []
    assert file_names(run_dir) == file_names(expected_dir)  # no temporary files are left


def read_metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / METRICS).read_text())


def read_status(run_dir: Path) -> str | None:
    return read_metrics(run_dir)["status"] if (run_dir / METRICS).exists() else None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_run(settings(*SMALL), run_dir)
    return run_dir


@pytest.fixture(scope="module")
def uninterrupted_undrawn(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_in_process(run_undrawn, run_dir)
    return run_dir


# Faults ------------------------------------------------------------------------------------------


def delete_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def fail_on_gpu(path: Path) -> None:
    def fail(*_, **__):
        raise RuntimeError(
            "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously "
            "reported at some other API call\nCompile with TORCH_USE_CUDA_DSA"
        )

    trainer.training_step = fail


# Functions that run in subprocesses --------------------------------------------------------------


def run_undrawn(run_dir: Path, overrides: Sequence[str] = SMALL) -> None:
    """Start or resume a run that writes the data of its pictures instead of drawing them.

    It takes a third of the time of a complete run.
    """
    write_data_instead_of_pictures()
    # without a configuration there is nothing to resume
    train_run(settings(*overrides), run_dir, resume=(run_dir / CONFIG).exists())


def run_undrawn_and_die(run_dir: Path, moment: str, number: int) -> None:
    inject_fault(moment, number, kill)
    run_undrawn(run_dir)


def run_large_and_die(run_dir: Path, moment: str, number: int) -> None:
    """Do as :func:`run_undrawn_and_die` with a network whose checkpoints are written rarely.

    The second of three epochs is the best, and nothing is saved between the first and the last.
    """

    def score(self: Trainer) -> dict[str, float]:
        val_accuracy = (0.5, 0.9, 0.7)[self.metrics.epoch - 1]
        losses = {"train_loss": 1.0, "val_loss": 1.0}
        return losses | {"train_accuracy": 0.5, "val_accuracy": val_accuracy}

    trainer.LARGE_NETWORK, Trainer._score = 0, score
    flat_parameters.PART_SIZE = 1000  # fourteen parts
    run_undrawn_and_die(run_dir, moment, number)


def send_writes(run_dir: Path, sender) -> None:
    """Send the name of each file that a run writes, then None."""
    as_write_error = atomic_files._as_write_error

    def send_name(path: Path):
        sender.send(path.name)
        return as_write_error(path)

    atomic_files._as_write_error = send_name
    run_undrawn(run_dir)
    sender.send(None)


def run_command(arguments: list[str], sender, number: int, fault: Callable) -> None:
    """Run the command with a fault at the start of a write; send its exit code and its output."""
    inject_fault("start", number, fault)
    sys.argv = ["mnistcnn", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
    sender.send((code, out.getvalue(), err.getvalue()))


def run_command_with_fault(
    arguments: list[str], number: int, fault: Callable
) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error of the command with a fault."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start_process(run_command, arguments, sender, number, fault)
    sender.close()  # then recv raises EOFError if the process dies
    result = receiver.recv()
    process.join()
    return result


@pytest.fixture(scope="module")
def writes(tmp_path_factory) -> list[str]:
    """Return the names of the files that a run writes, in order."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start_process(send_writes, tmp_path_factory.mktemp("writes") / "run", sender)
    sender.close()
    names = list(iter(receiver.recv, None))
    process.join()
    assert names[:4] == [CONFIG, METRICS, METRICS, LAST]
    assert names[-1] == METRICS and len(names) > 25
    return names


# Killed runs -------------------------------------------------------------------------------------


def test_runs_killed_at_random_moments_give_the_same_results(
    uninterrupted_undrawn, tmp_path, request
):
    """Kill each run once or twice; every other run saves a checkpoint after each batch."""
    frequent = [*SMALL, "checkpoint.minutes=0"]
    run_in_process(run_undrawn, tmp_path / "frequent", frequent)
    seconds = read_metrics(tmp_path / "frequent")["seconds"]["total"]
    start_process(time.sleep, 0).join()  # the fork server is running now
    killed = 0
    for seed in range(request.config.getoption("--kills")):
        generator, run_dir = random.Random(seed), tmp_path / f"seed-{seed}"
        if seed % 2:
            overrides, expected = SMALL, uninterrupted_undrawn
        else:
            overrides, expected = frequent, tmp_path / "frequent"
        delays = [generator.uniform(0, 1.2 * seconds) for _ in range(generator.randint(1, 2))]
        print(f"seed {seed}: killed after {delays} s")
        for delay in delays:
            process = start_process(run_undrawn, run_dir, overrides)
            time.sleep(delay)
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        run_in_process(run_undrawn, run_dir, overrides)
        assert_same_results(run_dir, expected)
    assert killed > 0


def test_large_networks_killed_while_writing_give_the_same_results(tmp_path):
    """Kill at every moment of the writes between the first epoch and the test."""

    def read_files(run_dir: Path) -> list[bytes]:  # metrics.json may have scores of the model
        return [(run_dir / name).read_bytes() for name in EQUAL_FILES]

    run_in_process(run_large_and_die, tmp_path / "uninterrupted", "after", 0)
    names, expected = [], read_files(tmp_path / "uninterrupted")
    for number in range(4, 16):
        for moment in MOMENTS:
            run_dir = tmp_path / f"{number}-{moment}"
            process = start_process(run_large_and_die, run_dir, moment, number)
            process.join()
            if process.exitcode == 0:  # a rename, of which no half exists, or an append
                continue
            assert process.exitcode == -signal.SIGKILL
            names.append(tuple(sorted(file_names(run_dir) & {BEST, NEXT_BEST})))
            if names[-1] == (NEXT_BEST,) and load_checkpoint(run_dir / LAST).epoch == 0:
                (run_dir / NEXT_BEST).write_bytes(b"damaged")  # not needed
            run_in_process(run_large_and_die, run_dir, moment, 0)
            assert read_files(run_dir) == expected
    # neither, only the one that is not valid yet, and only the valid one
    assert {*names} == {(), (NEXT_BEST,), (BEST,)}
    assert load_checkpoint(tmp_path / "uninterrupted" / BEST).epoch == 2


def test_runs_killed_while_writing_give_the_same_results(uninterrupted_undrawn, writes, tmp_path):
    """Kill at every moment of all writes of checkpoints, and at one of some other writes."""
    checkpoints = [n for n, name in enumerate(writes, 1) if name in (BEST, LAST)]
    others = [n for n in range(1, len(writes) + 1) if n not in checkpoints]
    generator = random.Random(0)
    cases = list(itertools.product(checkpoints, MOMENTS))
    cases += [(n, generator.choice(MOMENTS)) for n in generator.sample(others, 6)]
    for number, moment in cases:
        run_dir = tmp_path / f"{number}-{moment}"
        process = start_process(run_undrawn_and_die, run_dir, moment, number)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        run_in_process(run_undrawn, run_dir)
        assert_same_results(run_dir, uninterrupted_undrawn)


# Failing writes and devices ----------------------------------------------------------------------


def test_a_disk_that_is_full_from_any_write_on(uninterrupted_undrawn, writes, tmp_path):
    for number, name in enumerate(writes, 1):
        run_dir = tmp_path / f"{number}-{name}"
        arguments = [*SMALL, f"hydra.run.dir={run_dir}"]
        code, _, err = run_command_with_fault(arguments, number, fill_disk)
        lines = err.splitlines()
        assert code == 1 and "Traceback" not in err and len(lines) <= 2, (number, err)
        if name in PICTURES:
            assert lines[0] == f"mnistcnn: {run_dir / METRICS} cannot be written: File too large"
            assert read_metrics(run_dir)["test"]["accuracy"] > 0
            assert name in read_metrics(run_dir)["missing_pictures"]
        else:
            assert lines[0] == f"mnistcnn: {run_dir / name} cannot be written: File too large"
        if number > 1:
            assert lines[1] == f"to resume: python -m mnistcnn.train resume={run_dir}"
            # the status "failed" cannot be written either
            complete = PREDICTIONS in writes[: number - 2]
            assert read_status(run_dir) in (["finished"] if complete else ["interrupted", None])
        if number > writes.index(LAST) + 1:
            assert load_checkpoint(run_dir / LAST).training is not None
        run_in_process(run_undrawn, run_dir)
        assert_same_results(run_dir, uninterrupted_undrawn)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(deny_writing, "Permission denied"), (delete_directory, "No such file or directory")],
)
@pytest.mark.parametrize("name", [LAST, PREDICTIONS])
def test_a_directory_that_is_deleted_or_becomes_read_only(writes, tmp_path, fault, reason, name):
    run_dir = tmp_path / "run"
    number = len(writes) - writes[::-1].index(name)  # the last write of that file
    code, _, err = run_command_with_fault([*SMALL, f"hydra.run.dir={run_dir}"], number, fault)
    first, *others = err.splitlines()
    assert (code, first) == (1, f"mnistcnn: {run_dir / name} cannot be written: {reason}")
    if fault is delete_directory:
        assert others == [] and not run_dir.exists()
    else:
        assert others == [f"to resume: python -m mnistcnn.train resume={run_dir}"]
        assert load_checkpoint(run_dir / LAST).epoch >= 2


def test_a_run_can_be_resumed_after_a_gpu_error(uninterrupted, writes, tmp_path):
    run_dir = tmp_path / "run"
    number = writes.index(HISTORY) + 1
    arguments = [*SMALL, f"hydra.run.dir={run_dir}"]
    code, _, err = run_command_with_fault(arguments, number, fail_on_gpu)
    first, second = err.splitlines()
    assert code == 1 and first == (
        "mnistcnn: RuntimeError: CUDA error: unspecified launch failure "
        "(HYDRA_FULL_ERROR=1 shows the traceback)"
    )
    assert second == f"to resume: python -m mnistcnn.train resume={run_dir}"
    assert read_status(run_dir) == "failed" and "Traceback" in (run_dir / LOG).read_text()
    assert load_checkpoint(run_dir / LAST).epoch == 1
    train_run(settings(*SMALL), run_dir, resume=True)
    assert_same_results(run_dir, uninterrupted)


# Stopped runs ------------------------------------------------------------------------------------


def start_command(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mnistcnn.train", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.005)


STOPS = {
    signal.SIGINT: (130, "stopped by Ctrl-C"),
    signal.SIGTERM: (143, "stopped by SIGTERM"),
    signal.SIGUSR1: (138, "stopped by SIGUSR1"),
}


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_signal_stops_a_run_between_two_batches(uninterrupted, tmp_path, number):
    run_dir = tmp_path / "a run's"
    with start_command(*SMALL, f'hydra.run.dir="{run_dir}"') as process:
        wait_for(lambda: (run_dir / HISTORY).exists() or process.poll() is not None)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    code, reason = STOPS[number]
    first, second = err.splitlines()
    assert (process.returncode, first) == (code, f"mnistcnn: {reason}")
    metrics = read_metrics(run_dir)
    assert (metrics["status"], metrics["error"]) == ("interrupted", reason)
    assert (run_dir / LOG).read_text().count("stopped") <= 1
    last = load_checkpoint(run_dir / LAST)
    assert 1 <= last.epoch < 3 and last.step >= 22

    label, _, arguments = second.partition("python -m mnistcnn.train ")
    assert label == "to resume: "
    with start_command(*shlex.split(arguments)) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert f"resuming after epoch {last.epoch} of 3" in out
    assert_same_results(run_dir, uninterrupted)


def stop_after_checks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Stop by SIGTERM after ``count`` checks; each batch, trained on or scored, has one."""
    checks = itertools.count(1)

    def raise_if_stopped() -> None:
        if next(checks) > count:
            raise signals.Stopped(signal.SIGTERM)

    monkeypatch.setattr(signals, "raise_if_stopped", raise_if_stopped)


def test_a_stop_within_an_epoch_keeps_every_step(uninterrupted, tmp_path, monkeypatch):
    """Stop in the second epoch: during training, and while the epoch is scored."""
    for batches in (23, 30, 44, 45):  # 44 training batches, then one of each scored split
        run_dir = tmp_path / str(batches)
        with monkeypatch.context() as patch:
            # the first checkpoint has a check, and scoring the first epoch takes 2 batches
            stop_after_checks(patch, 1 + batches + 2)
            with pytest.raises(KeyboardInterrupt):
                train_run(settings(*SMALL), run_dir)
        last = load_checkpoint(run_dir / LAST)
        assert last.step == min(batches, 44) and last.epoch == 1
        train_run(settings(*SMALL), run_dir, resume=True)
        assert_same_results(run_dir, uninterrupted)


def test_a_stopped_large_network_saves_its_best_epoch(uninterrupted, tmp_path, monkeypatch):
    """Stop in the third epoch: no earlier one is saved, and each was the best."""
    run_dir = tmp_path / "run"
    monkeypatch.setattr(trainer, "LARGE_NETWORK", 0)
    with monkeypatch.context() as patch:
        stop_after_checks(patch, 51)
        with pytest.raises(KeyboardInterrupt):
            train_run(settings(*SMALL), run_dir)
    best, last = load_checkpoint(run_dir / BEST), load_checkpoint(run_dir / LAST)
    assert (best.epoch, best.step) == (2, 44)
    assert (last.epoch, last.step) == (2, 46)  # other checks: a checkpoint, scored batches
    train_run(settings(*SMALL), run_dir, resume=True)
    assert_same_results(run_dir, uninterrupted)


def test_a_large_network_that_stops_early_is_saved(tmp_path, monkeypatch):
    accuracies = (0.5, 0.9, 0.7, 0.7, 0.7)

    def score(self: Trainer) -> dict[str, float]:
        losses = {"train_loss": 1.0, "val_loss": 1.0, "train_accuracy": 0.5}
        return losses | {"val_accuracy": accuracies[self.metrics.epoch - 1]}

    monkeypatch.setattr(trainer, "LARGE_NETWORK", 0)
    monkeypatch.setattr(Trainer, "_score", score)
    overrides = [*SMALL, "epochs=5", "early_stopping.patience=2", "pictures=false"]
    metrics = train_run(settings(*overrides), tmp_path)
    assert (metrics["status"], metrics["epochs"]) == ("early_stopped", 4)
    epochs = [load_checkpoint(tmp_path / name).epoch for name in (BEST, LAST)]
    assert epochs == [2, 4]


def test_a_stop_during_scoring_does_not_lower_samples_per_second(tmp_path, monkeypatch):
    infer = trainer.infer

    def slow_infer(*arguments):
        time.sleep(1)
        return infer(*arguments)

    with monkeypatch.context() as patch:
        # the first checkpoint, 22 training batches, then one scored batch of 2
        stop_after_checks(patch, 24)
        patch.setattr(trainer, "infer", slow_infer)
        with pytest.raises(KeyboardInterrupt):
            train_run(settings(*SMALL, "epochs=2"), tmp_path)
    last = load_checkpoint(tmp_path / LAST)
    assert (last.epoch, last.step) == (0, 22)
    train_run(settings(*SMALL, "epochs=2"), tmp_path, resume=True)
    for row in read_history(tmp_path):
        assert row["samples_per_second"] > 680 / 0.9


class StopsInDestructor:
    """Sends a stop signal while Python cannot raise an exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


def test_a_signal_received_in_a_destructor_stops_the_run(tmp_path, monkeypatch):
    confusion_matrix = figures.confusion_matrix

    def draw_and_stop(*arguments):
        confusion_matrix(*arguments)
        StopsInDestructor()

    monkeypatch.setattr(figures, "confusion_matrix", draw_and_stop)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    signals.install_handlers()
    with pytest.raises(signals.Stopped):
        train_run(settings(*SMALL), tmp_path)
    assert read_status(tmp_path) == "finished" and not (tmp_path / TSNE).exists()
    assert not unraisable


def test_a_second_interrupt_ends_the_process_immediately(tmp_path):
    run_dir = tmp_path / "run"
    # a batch takes seconds, most of them in one call into torch
    slow = ["data=mnist5k", "model=custom", "batch_size=128", f"hydra.run.dir={run_dir}"]
    with start_command(*slow) as process:
        wait_for(lambda: (run_dir / LAST).exists())
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        err = process.stderr.read()
    assert (process.returncode, err) == (130, "mnistcnn: stopped immediately\n")
    assert load_checkpoint(run_dir / LAST).step == 0 and read_status(run_dir) == "interrupted"


@pytest.mark.parametrize("module", ["train", "evaluate", "compare", "reproduce"])
def test_an_interrupt_while_torch_is_imported(module):
    arguments = ["nowhere"] if module == "compare" else []
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", f"mnistcnn.{module}", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if line.endswith("numpy\n"):  # torch imports numpy early
                break
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "mnistcnn: stopped immediately" in err and "Traceback" not in err


def test_a_run_that_is_being_written_cannot_be_resumed(tmp_path):
    run_dir = tmp_path / "run"
    with start_command(*SMALL, "epochs=50", f"hydra.run.dir={run_dir}") as process:
        wait_for(lambda: (run_dir / HISTORY).exists())
        with start_command(f"resume={run_dir}") as second:
            _, err = second.communicate(timeout=60)
        assert process.poll() is None
        process.kill()
    assert second.returncode == 2
    assert err == (
        f"mnistcnn: {run_dir} is being written by another process: wait for it or stop it first\n"
    )


# Independence of earlier runs --------------------------------------------------------------------


def test_the_third_job_of_a_multirun_equals_a_single_run(tmp_path):
    sweep_dir = tmp_path / "sweep"
    with start_command("-m", *SMALL, "seed=1,2,0", f"hydra.sweep.dir={sweep_dir}") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    (third,) = sweep_dir.glob("seed-0-*")
    with start_command(*SMALL, "seed=0", f"hydra.run.dir={tmp_path}/single") as process:
        process.communicate(timeout=120)
    assert_same_results(third, tmp_path / "single")


def test_the_third_run_of_a_process_equals_a_single_run(uninterrupted, tmp_path):
    train_run(settings(*SMALL, "seed=1"), tmp_path / "first")
    train_run(settings(*SMALL, "model=fcnet", "aug=none"), tmp_path / "second")
    train_run(settings(*SMALL), tmp_path / "third")
    assert_same_results(tmp_path / "third", uninterrupted)


def test_a_stopped_job_is_resumed_by_the_same_command(tmp_path):
    """The command does not restart a run that has completed epochs."""
    sweep_dir, epochs = tmp_path / "sweep", 30  # the job is stopped only after a second
    arguments = ["-m", *SMALL, f"epochs={epochs}", "seed=0", f"hydra.sweep.dir={sweep_dir}"]
    with start_command(*arguments) as process:
        wait_for(lambda: list(sweep_dir.glob(f"*/{HISTORY}")))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    first, second = err.splitlines()
    assert first == "mnistcnn: stopped by SIGTERM" and second.startswith("mnistcnn: 1 run is not")
    (run_dir,) = (path for path in sweep_dir.iterdir() if path.is_dir())
    completed = load_checkpoint(run_dir / LAST).epoch
    assert read_status(run_dir) == "interrupted" and completed >= 1
    with start_command(*arguments) as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"resuming after epoch {completed} of {epochs}" in out
    train_run(settings(*SMALL, f"epochs={epochs}"), tmp_path / "uninterrupted")
    assert_same_results(run_dir, tmp_path / "uninterrupted")
