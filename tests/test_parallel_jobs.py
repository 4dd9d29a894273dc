"""Jobs of a sweep that run side by side: cores, GPUs, failures, stops and reproducibility."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mnistcnn import evaluate
from mnistcnn.cli import parallelism, planning
from mnistcnn.cli.hydra_command import run_hydra_command
from mnistcnn.config.load import FORMAT, to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.experiments import job_process, multirun
from mnistcnn.experiments.job_process import Job
from mnistcnn.experiments.summary import SUMMARY_CSV
from mnistcnn.runs.directory import BEST, CONFIG, HISTORY, LAST, LOG, METRICS, PREDICTIONS, SWEEP
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import record_run
from mnistcnn.runs.store import find_runs
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import UsageError, WriteError

from .conftest import ROOT
from .test_multirun import KILLED_AT_START, RAISED, quick_task

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="uses signals and a fork server"),
    pytest.mark.usefixtures("own_fork_server"),  # without OMP_NUM_THREADS
]

TIMEOUT = 60.0  # seconds for jobs to meet
STARTED, ENDED = "started", "ended"  # files in the sweep's directory, one line per job
FAILS = 100  # the seed of a job that fails


def append(file: Path, line: str) -> None:
    with file.open("a") as lines:  # shorter than what the system writes at once
        lines.write(line + "\n")


def read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def jobs_in_flight(sweep_dir: Path) -> int:
    return len(read_lines(sweep_dir / STARTED)) - len(read_lines(sweep_dir / ENDED))


def meet(settings: TrainSettings, run_dir: Path) -> None:
    """Wait until as many jobs as ``epochs`` run at the same time; then end."""
    sweep_dir, deadline = run_dir.parent, time.monotonic() + TIMEOUT
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    append(sweep_dir / STARTED, f"{settings.seed} {gpu} {torch.get_num_threads()}")
    round_size, started = settings.epochs, 0
    first = len(read_lines(sweep_dir / STARTED)) - 1
    while started < (first // round_size + 1) * round_size and time.monotonic() < deadline:
        started = len(read_lines(sweep_dir / STARTED))
        time.sleep(0.01)
    append(sweep_dir / "in_flight", str(jobs_in_flight(sweep_dir)))
    counted = 0
    while counted < (first // round_size + 1) * round_size and time.monotonic() < deadline:
        counted = len(read_lines(sweep_dir / "in_flight"))
        time.sleep(0.01)
    append(sweep_dir / ENDED, str(settings.seed))
    quick_task(settings, run_dir)


def fail_or_wait(settings: TrainSettings, run_dir: Path) -> None:
    """Fail, or wait to be stopped, once two jobs have started."""
    (run_dir / CONFIG).write_text(to_yaml(settings))
    with record_run(run_dir, LOG, {"config_sha256": config_sha256(settings)}):
        append(run_dir.parent / STARTED, str(settings.seed))
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if settings.seed == FAILS and len(read_lines(run_dir.parent / STARTED)) > 1:
                raise ArithmeticError("division by zero")
            time.sleep(0.01)


@pytest.fixture
def sweep(command, tmp_path, monkeypatch) -> Callable:
    """Run ``mnistcnn.train -m`` with another task; return its exit code, output and errors."""
    monkeypatch.setattr(planning, "check_data", lambda _: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def run(task: Callable, *arguments: str) -> tuple[int, str, str]:
        overrides = ["-m", "pictures=false", f"hydra.sweep.dir={tmp_path}/sweep", *arguments]
        return command(lambda: run_hydra_command("train", task), *overrides)

    return run


# Cores and GPUs ----------------------------------------------------------------------------------


def test_sixteen_jobs_on_eight_cores_run_in_two_rounds(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(parallelism, "available_cores", lambda: 8)
    monkeypatch.setattr(parallelism, "available_memory", lambda: 64 << 30)
    code, out, err = sweep(meet, "seed=range(16)", "epochs=8")
    assert (code, err) == (0, ""), out + err
    directory = tmp_path / "sweep"
    assert len(read_lines(directory / STARTED)) == 16
    in_flight = [int(line) for line in read_lines(directory / "in_flight")]
    assert in_flight[:8] == [8] * 8  # each waited for the others
    assert max(in_flight) == 8
    assert {line.split()[2] for line in read_lines(directory / STARTED)} == {"1"}
    assert json.loads((directory / SWEEP).read_text())["threads"] == 1
    lines = [line for line in out.splitlines() if line.startswith("run ")]
    assert len([line for line in lines if " ended: test error 12.50%, " in line]) == 16
    assert sum(", about " in line for line in lines) == 8  # of the second round


def test_each_gpu_has_a_job_of_its_own(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(parallelism, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(parallelism, "available_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(planning, "_check_machine", lambda _: None)
    code, out, err = sweep(meet, "seed=range(6)", "epochs=2")
    assert (code, err) == (0, ""), out + err
    started = [line.split() for line in read_lines(tmp_path / "sweep" / STARTED)]
    assert sorted(int(seed) for seed, _, _ in started) == [*range(6)]
    gpus = [gpu for _, gpu, _ in started]
    assert {threads for _, _, threads in started} == {"4"}
    assert gpus.count("0") == gpus.count("1") == 3
    assert {*gpus[:2]} == {"0", "1"}
    in_flight = [int(line) for line in read_lines(tmp_path / "sweep" / "in_flight")]
    assert max(in_flight) == 2


# Failures and stops ------------------------------------------------------------------------------


def test_fail_fast_stops_the_other_jobs(sweep, tmp_path):
    arguments = [f"seed=0,{FAILS},1,2", "hydra.launcher.jobs=2", "hydra.launcher.fail_fast=true"]
    code, out, err = sweep(fail_or_wait, *arguments)
    assert code == 1
    assert "\nrun 2 of 4 failed: ArithmeticError: division by zero (HYDRA_FULL_ERROR=1" in out
    assert "\nstopped because a run failed: hydra.launcher.fail_fast\n" in out
    assert err.startswith("mnistcnn: 4 runs are not complete (2 not started); to run only")
    runs = {run.seed: run.outcome for run in find_runs(tmp_path / "sweep")}
    assert runs == {
        0: "interrupted, stopped by SIGTERM",
        FAILS: "failed, ArithmeticError: division by zero",
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_fail_fast_ends_a_sweep_in_batches(sweep, tmp_path, jobs):
    batches = ["hydra.sweeper.max_batch_size=2", "hydra.launcher.fail_fast=true"]
    code, _, _ = sweep(quick_task, f"seed=0,{RAISED},1,2", f"hydra.launcher.jobs={jobs}", *batches)
    assert code == 1
    assert sorted(read_lines(tmp_path / "sweep" / "starts")) == ["0", str(RAISED)]


def refuse(settings: TrainSettings, run_dir: Path) -> None:
    """Fail before anything about this attempt is recorded in ``metrics.json``."""
    reason = {"status": "interrupted", "error": "stopped by Ctrl-C"}
    write_json(run_dir / METRICS, {"format": FORMAT} | reason)
    raise UsageError("last.pt was written by another version")


@pytest.mark.parametrize("show_traceback", ["0", "1"])
def test_the_error_of_a_parallel_job_is_shown(sweep, tmp_path, monkeypatch, show_traceback):
    run = sweep
    if show_traceback == "1":
        monkeypatch.setattr("mnistcnn.cli.hydra_command.wants_traceback", lambda: True)
    code, out, _ = run(refuse, "seed=0,1", "hydra.launcher.jobs=2")
    assert code == 1
    message = "last.pt was written by another version"
    for number in (1, 2):
        if show_traceback == "1":
            assert f"run {number} of 2 failed: Traceback" in out and f"UsageError: {message}" in out
        else:
            assert f"\nrun {number} of 2 failed: {message}\n" in out


def test_an_error_about_one_job_does_not_stop_the_others(sweep, tmp_path, monkeypatch):
    def fail(job: Job, *_: object) -> None:
        raise WriteError(f"{job.run_dir / METRICS} cannot be written: No space left on device")

    monkeypatch.setattr(multirun, "record_job_failure", fail)
    code, out, _ = sweep(quick_task, f"seed={KILLED_AT_START},0,1", "hydra.launcher.jobs=2")
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("run 1 of 3 failed: ")]
    assert line.endswith("metrics.json cannot be written: No space left on device")
    assert [run.seed for run in find_runs(tmp_path / "sweep") if run.complete] == [0, 1]


def test_two_jobs_in_one_directory(sweep, tmp_path):
    arguments = ["seed=0,1", "hydra.sweep.subdir=same", "hydra.launcher.jobs=2"]
    code, out, err = sweep(quick_task, *arguments)
    assert code == 1 and "mnistcnn: 1 run is not complete" in err
    # found by the command, or by the process that waited for the first one
    assert re.search("\nrun 2 of 2( failed)?: .* holds a run with other settings", out)
    (run,) = find_runs(tmp_path / "sweep")
    assert (run.seed, run.complete) == (0, True)


def test_a_sweep_of_evaluations_that_cannot_start(command, tmp_path, finished_run, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr(job_process.subprocesses, "start_process", fail)
    arguments = ["-m", f"ckpt={finished_run}", "tsne.samples=20,30", "hydra.sweep.dir=sweep"]
    code, out, _ = command(evaluate.main, *arguments)
    assert code == 1 and out.count("failed: OSError: Resource temporarily unavailable") == 2


SWEEP_ARGUMENTS = [
    "-m",
    "data=mnist5k",
    "seed=range(4)",
    "epochs=20",
    "batch_size=32",
    "pictures=false",
    "hydra.launcher.jobs=3",
]


def start_sweep(directory: Path, *arguments: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "mnistcnn.train", *SWEEP_ARGUMENTS, *arguments,
         f"hydra.sweep.dir={directory}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def summary_rows(directory: Path) -> list[dict[str, str]]:
    with (directory / SUMMARY_CSV).open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def epochs_of(directory: Path) -> dict[str, int]:
    """Return the number of completed epochs of each run that has one."""
    return {path.parent.name: len(read_lines(path)) for path in directory.glob(f"*/{HISTORY}")}


def read_results(directory: Path) -> dict[str, list[bytes]]:
    """Return the files of each run that are equal to the byte for equal runs."""
    names = (BEST, LAST, PREDICTIONS, CONFIG)
    return {
        run.path.name: [(run.path / name).read_bytes() for name in names]
        for run in find_runs(directory)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Return the directory of a sweep that was left alone."""
    directory = tmp_path_factory.mktemp("undisturbed") / "sweep"
    with start_sweep(directory) as process:
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    return directory


STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_stopped_sweep_loses_nothing(undisturbed, tmp_path, request, number):
    """Stop a sweep at random moments with several jobs in flight, then repeat its command."""
    for seed in range(max(1, request.config.getoption("--kills") // 20)):
        directory = tmp_path / str(seed)
        generator = random.Random(f"{number} {seed}")
        epoch, delay = generator.randint(1, 12), generator.uniform(0, 0.2)
        with start_sweep(directory) as process:
            while (
                process.poll() is None
                and sorted([0, 0, *epochs_of(directory).values()])[-2] < epoch
            ):
                time.sleep(0.01)
            time.sleep(delay)
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does
            else:
                process.send_signal(number)
            _, err = process.communicate(timeout=60)
        epochs = epochs_of(directory)
        print(f"{number.name} {seed}: exit code {process.returncode}, {epochs}")
        assert process.returncode == STOPS[number] and "Traceback" not in err
        with start_sweep(directory) as process:
            _, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, "")
        assert summary_rows(directory) == summary_rows(undisturbed)
        assert read_results(directory) == read_results(undisturbed)
        logs = {path.parent.name: path.read_text() for path in directory.glob(f"*/{LOG}")}
        stopped = [name for name, count in epochs.items() if 0 < count < 19]
        assert len(stopped) >= 2
        assert all("resuming after epoch" in logs[name] for name in stopped)


# Reproducibility ---------------------------------------------------------------------------------


def test_a_job_equals_a_single_run_with_as_many_threads(undisturbed, tmp_path):
    threads = json.loads((undisturbed / SWEEP).read_text())["threads"]
    run = next(run for run in find_runs(undisturbed) if run.seed == 2)
    assert run.metrics["threads"] == threads
    single = tmp_path / "single"
    arguments = [each for each in SWEEP_ARGUMENTS[1:] if not each.startswith(("seed=", "hydra."))]
    subprocess.run(
        [sys.executable, "-m", "mnistcnn.train", *arguments, "seed=2", f"hydra.run.dir={single}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    for name in (BEST, LAST, PREDICTIONS, CONFIG):
        assert (single / name).read_bytes() == (run.path / name).read_bytes()
