"""Run a job of a sweep in a subprocess."""

import contextlib
import enum
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mnistcnn.config.load import to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.runs import store
from mnistcnn.runs.directory import CONFIG, LAST, LOG, remove_run_files
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import record_failure
from mnistcnn.system import errors, logs, subprocesses
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import CorruptFileError, UsageError
from mnistcnn.system.locks import lock_run_dir
from mnistcnn.training import resume

log = logging.getLogger(__name__)

# Modules that a run needs and that are slow to import. Those that are not installed are ignored.
PRELOAD_MODULES = ["mnistcnn.training.train_run", "sklearn.metrics", "torchinfo"]
PRELOAD_FOR_PICTURES = [
    "mnistcnn.evaluation.matplotlib_import",  # before other modules of matplotlib
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "openTSNE",
    "sklearn.manifold",
]

MAX_MESSAGE = 4000  # bytes: sending more than a pipe holds would block

Task = Callable[..., Any]  # task(settings, run_dir) or task(settings, run_dir, resume=True)


@dataclass(frozen=True)
class Job:
    """Job ``number`` (from 0) of a sweep, to be run in ``run_dir``."""

    number: int
    settings: Any
    run_dir: Path

    @cached_property
    def sha256(self) -> str | None:
        """The hash that identifies the run; None for an evaluation."""
        return config_sha256(self.settings) if isinstance(self.settings, TrainSettings) else None

    @property
    def identity(self) -> dict[str, str]:
        """The values that identify the run in ``metrics.json``."""
        return {} if self.sha256 is None else {"config_sha256": self.sha256}


@dataclass(frozen=True)
class RunningJob:
    """A job whose process has been started."""

    job: Job
    process: BaseProcess
    messages: Connection  # receives the error of a quiet process
    started: float  # seconds, monotonic


def start_job(
    task: Task,
    job: Job,
    gpu: str | None,
    threads: int | None,
    show_traceback: bool,
    quiet: bool,
) -> RunningJob:
    """Start the process of a job; if ``quiet``, the output of its Python code is discarded.

    ``gpu`` is a value for CUDA_VISIBLE_DEVICES and ``threads`` the number of threads, if not None.
    """
    started = time.monotonic()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    preload = PRELOAD_MODULES + (PRELOAD_FOR_PICTURES if job.settings.pictures else [])
    messages = sender if quiet else None
    with sender:
        process = subprocesses.start_process(
            _run_job, task, job, gpu, threads, show_traceback, messages, preload=preload
        )
    return RunningJob(job, process, receiver, started)


def failure_reason(ended: RunningJob) -> str:
    """Return why a process has failed; empty if it has not."""
    exit_code = ended.process.exitcode
    if not exit_code:
        return ""
    with contextlib.suppress(EOFError, OSError):  # it has sent nothing, or not all
        if ended.messages.poll():
            return ended.messages.recv()
    run = store.read_run(ended.job.run_dir)
    return (run.reason if run is not None else "") or subprocesses.describe_exit_code(exit_code)


# In the job's process ----------------------------------------------------------------------------


class Action(enum.Enum):
    """How to run a job, given the files of an earlier attempt."""

    SKIP = enum.auto()  # the run is complete
    RESUME = enum.auto()
    START = enum.auto()
    RESTART = enum.auto()  # remove the files of an earlier attempt, then start


def _run_job(
    task: Task,
    job: Job,
    gpu: str | None,
    threads: int | None,
    show_traceback: bool,
    messages: Connection | None,
) -> None:
    """Run a job on ``gpu``, as in CUDA_VISIBLE_DEVICES.

    With ``messages``, its output is discarded, since it would mix with that of other jobs; the text
    of an error is sent there.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if messages is not None:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  until the exit
    logs.setup_logging()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        with lock_run_dir(job.run_dir, wait=True), _failure_recorded(job):
            with logs.log_to_file(job.run_dir / LOG):
                action = next_action(job)
            if action is Action.RESTART:
                remove_run_files(job.run_dir)
            if action is Action.RESUME:
                task(job.settings, job.run_dir, resume=True)
            elif action is not Action.SKIP:
                task(job.settings, job.run_dir)
    except Exception as error:
        if messages is not None:
            text = errors.format_error(error)
            if show_traceback:
                text = "".join(traceback.format_exception(error))
            messages.send(text.encode()[-MAX_MESSAGE:].decode(errors="ignore"))
        sys.exit(errors.report_error(error, show_traceback))


@contextlib.contextmanager
def _failure_recorded(job: Job) -> Iterator[None]:
    """Record an exception inside the context, unless the task has done so."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(UsageError):  # a metrics.json of another format is kept
            record_job_failure(job, f"{type(error).__name__}: {error}")
        raise


def is_occupied(job: Job, run: store.Run | None) -> bool:
    """Return whether ``run``, in the job's directory, is another one, not to be overwritten."""
    # an unreadable metrics.json has no hash, and may be overwritten
    return run is not None and run.config_sha256 not in (None, job.sha256)


def occupied_message(job: Job) -> str:
    """Say that :func:`is_occupied` is true."""
    return (
        f"{job.run_dir} holds a run with other settings (were epochs added?) and is not "
        "overwritten: move it out of the sweep to run this job"
    )


def next_action(job: Job) -> Action:
    """Decide how to run a job, given the files in its directory; call it with the lock held.

    Raises the UsageErrors of :func:`resume.load_resume_state`, except for corrupt files: the run is
    then restarted. Raises UsageError if the directory holds another run.
    """
    run = store.read_run(job.run_dir)
    if run is None or job.sha256 is None:
        return Action.START
    if is_occupied(job, run):
        raise UsageError(occupied_message(job))
    if run.complete and not run.is_up_to_date(job.settings):
        return Action.RESUME
    if run.complete:
        log.info("already completed by another process: %s", job.run_dir.name)
        return Action.SKIP
    if (job.run_dir / LAST).exists():
        try:
            resume.load_resume_state(job.run_dir, job.settings)
            return Action.RESUME
        except CorruptFileError as error:
            log.warning("%s\nRestarting from scratch: %s", error, job.run_dir.name)
    return Action.RESTART


def record_job_failure(job: Job, reason: str) -> None:
    """Write ``metrics.json``, and ``config.yaml`` if missing, for a run that did not write them.

    Raises UsageError if ``metrics.json`` has another format. That of another run is kept.
    """
    if is_occupied(job, store.read_run(job.run_dir)):
        return
    if isinstance(job.settings, TrainSettings) and not (job.run_dir / CONFIG).exists():
        write_text(job.run_dir / CONFIG, to_yaml(job.settings))
    record_failure(job.run_dir, reason, job.identity)
