"""Run the jobs of a sweep, each in a subprocess; jobs that are already complete are skipped."""

import contextlib
import enum
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mnistcnn.config.load import to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.runs import store
from mnistcnn.runs.directory import CONFIG, LAST, METRICS, remove_run_files
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import record_failure
from mnistcnn.system import errors, logs, subprocesses
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import CorruptFileError
from mnistcnn.system.locks import is_locked, lock_run_dir
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

Task = Callable[..., Any]  # task(settings, run_dir) or task(settings, run_dir, resume=True)


@dataclass
class Multirun:
    """Several runs in one directory.

    All state is in the directory: jobs may run concurrently, on several machines, and again after a
    crash.
    """

    directory: Path
    jobs: dict[str, TrainSettings] = field(default_factory=dict)  # by hash; empty if not known yet
    total: int | None = None  # number of jobs; None if not known
    threads: int | None = None  # per job; None: the default of torch
    # whether to run the jobs that other processes are running last: not if a sweeper or a parallel
    # launcher needs the result of each job
    defers_locked_jobs: bool = False
    started: float = field(default_factory=time.time)  # seconds since the epoch

    def __post_init__(self) -> None:
        runs = store.find_runs(self.directory) if self.directory.is_dir() else []
        self.complete_at_start = sum(run.complete for run in runs)
        self.metrics_at_start = {run.path: run.metrics for run in runs}
        self.deferred: list[Callable[[], object]] = []

    def run_job(
        self, task: Task, settings: Any, run_dir: Path, number: int, show_traceback: bool = False
    ) -> float | None:
        """Run job ``number`` (from 0) in ``run_dir`` unless it is already complete.

        ``task`` is a picklable function, called as ``task(settings, run_dir)``. If a run with the
        same configuration exists in another directory, that directory is used. Return the
        validation error, for a sweeper to minimise, or None if the run failed.
        """
        identity = _identity(settings)
        existing = self._find_run(identity)
        if existing is not None and existing.path != run_dir:
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # created by Hydra, and still empty
            run_dir = existing.path
        name = f"run {number + 1}" + (f" of {self.total}" if self.total else "")
        if existing is not None and existing.complete and not existing.pictures_to_draw(settings):
            log.info("%s is already complete: %s", name, run_dir.name)
            return _validation_error(existing)
        if identity and _holds_different_run(run_dir, identity):
            log.error(
                "%s: %s holds a run with other settings (were epochs added?) and is not "
                "overwritten: move it out of the sweep to run this job",
                name,
                run_dir,
            )
            return None
        run_dir.mkdir(parents=True, exist_ok=True)
        job = partial(self._run, task, settings, run_dir, number, name, identity, show_traceback)
        if self.defers_locked_jobs and is_locked(run_dir):
            log.info("%s is being run by another process: %s", name, run_dir.name)
            self.deferred.append(job)
            return None
        return job()

    def run_deferred_jobs(self) -> None:
        """Wait for the runs of other processes, and complete those that have failed there."""
        for job in self.deferred:
            job()

    def _run(
        self,
        task: Task,
        settings: Any,
        run_dir: Path,
        number: int,
        name: str,
        identity: dict[str, str],
        show_traceback: bool,
    ) -> float | None:
        """Run a job in a subprocess; return its validation error, or None if it failed."""
        log.info("%s%s: %s", name, self._time_left(number), run_dir.name)
        arguments = (task, settings, run_dir, identity, self.threads, show_traceback)
        preload = PRELOAD_MODULES + (PRELOAD_FOR_PICTURES if settings.pictures else [])
        code = subprocesses.run_in_subprocess(_run_job, *arguments, preload=preload)
        if code:
            reason = subprocesses.describe_exit_code(code)
            with lock_run_dir(run_dir, wait=True):
                _record_failure(run_dir, settings, reason, identity)
            run = store.read_run(run_dir)
            if run is None or not run.complete:
                return None
            not_drawn = ", ".join(run.pictures_to_draw(settings))
            log.warning("%s: %s; not drawn: %s", name, reason, not_drawn)
        return _validation_error(store.read_run(run_dir))

    def is_complete(self) -> bool:
        """Return whether all jobs are known and complete, with all their pictures."""
        runs = {run.config_sha256: run for run in self._complete_runs()}
        return bool(self.jobs) and all(
            sha256 in runs and not runs[sha256].pictures_to_draw(settings)
            for sha256, settings in self.jobs.items()
        )

    def count_incomplete(self) -> int:
        """Return the number of jobs that are not complete."""
        if self.jobs:
            complete = {run.config_sha256 for run in self._complete_runs()}
            return len(self.jobs.keys() - complete)
        runs = store.find_runs(self.directory)
        return sum(
            not run.complete and run.metrics != self.metrics_at_start.get(run.path) for run in runs
        )

    def count_not_started(self) -> int:
        """Return the number of jobs without a run's directory, as far as the jobs are known."""
        started = {run.config_sha256 for run in store.find_runs(self.directory)}
        return len(self.jobs.keys() - started)

    def _find_run(self, identity: dict[str, str]) -> store.Run | None:
        if not identity:
            return None
        return store.find_by_config(self.directory, identity["config_sha256"])

    def _complete_runs(self) -> list[store.Run]:
        if not self.directory.is_dir():
            return []
        return [run for run in store.find_runs(self.directory) if run.complete]

    def _time_left(self, number: int) -> str:
        """Return ``, about 5 min left`` for job ``number`` and all later ones.

        Return an empty string until a job has been completed since the start.
        """
        completed = len(self._complete_runs()) - self.complete_at_start
        if not (completed and self.total):
            return ""
        jobs = self.total - number
        if self.jobs:
            jobs = min(jobs, self.count_incomplete())  # later jobs may be complete already
        seconds = (time.time() - self.started) / completed * jobs
        return f", about {logs.format_duration(seconds)} left"


def _identity(settings: Any) -> dict[str, str]:
    """Return the values that identify a run in ``metrics.json``; empty for an evaluation."""
    if not isinstance(settings, TrainSettings):
        return {}
    return {"config_sha256": config_sha256(settings)}


def _holds_different_run(run_dir: Path, identity: dict[str, str]) -> bool:
    run = store.read_run(run_dir)
    # an unreadable metrics.json has no config_sha256, and may be overwritten
    return run is not None and run.config_sha256 not in (*identity.values(), None)


def _validation_error(run: store.Run | None) -> float | None:
    return run.measure("validation", "error") if run is not None else None


# In the job's process ----------------------------------------------------------------------------


class _Action(enum.Enum):
    SKIP = enum.auto()  # the run is complete
    RESUME = enum.auto()
    START = enum.auto()
    RESTART = enum.auto()  # remove the files of an earlier attempt, then start


def _run_job(
    task: Task,
    settings: Any,
    run_dir: Path,
    identity: dict[str, str],
    threads: int | None,
    show_traceback: bool,
) -> None:
    logs.setup_logging()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        with lock_run_dir(run_dir, wait=True):
            action = _next_action(settings, run_dir, identity)
            if action is _Action.RESTART:
                remove_run_files(run_dir)
            if action is _Action.RESUME:
                task(settings, run_dir, resume=True)
            elif action is not _Action.SKIP:
                task(settings, run_dir)
    except Exception as error:
        if not (run_dir / METRICS).exists():  # the task failed before writing it
            _record_failure(run_dir, settings, f"{type(error).__name__}: {error}", identity)
        sys.exit(errors.report_error(error, show_traceback))


def _next_action(settings: Any, run_dir: Path, identity: dict[str, str]) -> _Action:
    """Decide how to run a job, given the files in ``run_dir``; call it with the lock held.

    Raises the UsageErrors of :func:`resume.load_resume_state`, except for corrupt files: the run is
    then restarted.
    """
    run = store.read_run(run_dir)
    if run is None or not identity:
        return _Action.START
    if run.complete and run.pictures_to_draw(settings):
        return _Action.RESUME
    if run.complete:
        log.info("already completed by another process: %s", run_dir.name)
        return _Action.SKIP
    if (run_dir / LAST).exists():
        try:
            resume.load_resume_state(run_dir, settings)
            return _Action.RESUME
        except CorruptFileError as error:
            log.warning("%s\nRestarting from scratch: %s", error, run_dir.name)
    return _Action.RESTART


def _record_failure(run_dir: Path, settings: Any, reason: str, identity: dict[str, str]) -> None:
    """Write ``metrics.json``, and ``config.yaml`` if missing, for a run that did not write them."""
    if isinstance(settings, TrainSettings) and not (run_dir / CONFIG).exists():
        write_text(run_dir / CONFIG, to_yaml(settings))
    record_failure(run_dir, reason, identity)
