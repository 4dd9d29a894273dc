"""Run the jobs of a sweep, each in a subprocess; jobs that are already complete are skipped."""

import contextlib
import logging
import math
import multiprocessing.connection
import signal
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnistcnn.config.schema import TrainSettings
from mnistcnn.experiments.job_process import (
    Job,
    RunningJob,
    Task,
    failure_reason,
    is_occupied,
    occupied_message,
    record_job_failure,
    start_job,
)
from mnistcnn.experiments.summary import summarise
from mnistcnn.runs import store
from mnistcnn.runs.directory import SUMMARY_HTML
from mnistcnn.system import errors, logs, subprocesses
from mnistcnn.system.errors import UsageError
from mnistcnn.system.locks import is_locked, lock_run_dir

log = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0  # of the progress bar
PAGE_SECONDS = 30.0  # between two versions of the sweep's page, at least
PAGE_SHARE = 0.05  # of the time, at most, is spent on the page


class FailedFast(BaseException):
    """Ends a sweep after its first failed job; no Exception, which a sweeper may catch."""

    def __str__(self) -> str:
        return "stopped because a run failed: hydra.launcher.fail_fast"


@dataclass
class Multirun:
    """Several runs in one directory.

    All state is in the directory: jobs may run concurrently, on several machines, and again after a
    crash. It is read before the first job and after the last; each job reads its own run only.
    """

    directory: Path
    jobs: dict[str, TrainSettings] = field(default_factory=dict)  # by hash; empty if not known yet
    total: int | None = None  # number of jobs; None if not known
    threads: int | None = None  # per job; None: the default of torch
    # the GPU of each job that runs at the same time, for CUDA_VISIBLE_DEVICES; None: as it is set
    slots: list[str | None] = field(default_factory=lambda: [None])
    fail_fast: bool = False  # whether to stop at the first job that fails
    # whether to run the jobs that other processes are running last: not if a sweeper needs the
    # result of each job
    defers_locked_jobs: bool = False

    def __post_init__(self) -> None:
        runs = store.find_runs(self.directory) if self.directory.is_dir() else []
        self.metrics_at_start = {run.path: run.metrics for run in runs}
        # of several runs of a job, a complete one
        runs.sort(key=lambda run: run.complete)
        self.paths = {run.config_sha256: run.path for run in runs if run.config_sha256}
        self.unfinished = self.jobs.keys() - {run.config_sha256 for run in runs if run.complete}
        self.durations: list[float] = []  # seconds, of the jobs that this process has run
        self.next_page = -math.inf  # time of the next version of the page

    @property
    def is_parallel(self) -> bool:
        """Whether several jobs run at the same time."""
        return len(self.slots) > 1

    @property
    def jobs_left(self) -> int | None:
        """Number of jobs that have not ended; None if the number of jobs is not known."""
        if self.jobs:
            return len(self.unfinished)
        return None if self.total is None else max(0, self.total - len(self.durations))

    # Running jobs --------------------------------------------------------------------------------

    def run_jobs(
        self, task: Task, jobs: Iterable[Job], show_traceback: bool = False
    ) -> dict[int, float | None]:
        """Run jobs, one per slot at a time, unless they are already complete.

        ``task`` is a picklable function, called as ``task(settings, run_dir)``. Return the
        validation error of each job by its number, for a sweeper to minimise, or None if it failed.
        If this process is interrupted, all running jobs are stopped; each saves its state. Raises
        FailedFast.
        """
        results: dict[int, float | None] = {}
        queue = self._jobs_to_run(jobs, results)
        running: dict[int, RunningJob] = {}  # by slot
        with self._progress_bar() as bar:
            try:
                while True:
                    self._fill_slots(task, queue, running, results, show_traceback)
                    if not running:
                        return results
                    for slot in self._wait_for_any(running, bar):
                        ended = running.pop(slot)
                        with self._job_errors(ended.job, results):
                            results[ended.job.number] = self._finish(ended)
                        bar.update()
            except BaseException as error:  # an interrupt, or the timeout exception of a launcher
                subprocesses.stop_children(getattr(error, "number", signal.SIGTERM))
                raise

    def run_job(
        self, task: Task, settings: Any, run_dir: Path, number: int, show_traceback: bool = False
    ) -> float | None:
        """Run a single job, as :meth:`run_jobs` does."""
        return self.run_jobs(task, [Job(number, settings, run_dir)], show_traceback)[number]

    @contextlib.contextmanager
    def _job_errors(self, job: Job, results: dict[int, float | None]) -> Iterator[None]:
        """Log an exception inside the context as the failure of a job; the others run."""
        try:
            yield
        except Exception as error:
            log.debug("%s failed", self._name(job), exc_info=True)
            log.error("%s failed: %s", self._name(job), errors.format_error(error))
            results[job.number] = None

    def _jobs_to_run(self, jobs: Iterable[Job], results: dict[int, float | None]) -> Iterator[Job]:
        """Yield the jobs that have to be run; add the results of the others to ``results``."""
        deferred, queued = [], set()
        for each in jobs:
            job = replace(each, run_dir=self._run_dir(each))
            with self._job_errors(job, results):
                if self._has_result(job, results):
                    continue
                job.run_dir.mkdir(parents=True, exist_ok=True)
                if job.run_dir in queued:  # the same job again
                    deferred.append(job)
                elif self.defers_locked_jobs and is_locked(job.run_dir):
                    name = self._name(job)
                    log.info("%s is being run by another process: %s", name, job.run_dir.name)
                    deferred.append(job)
                else:
                    queued.add(job.run_dir)
                    yield job
        for job in deferred:
            with self._job_errors(job, results):
                if not self._has_result(job, results):
                    yield job

    def _run_dir(self, job: Job) -> Path:
        """Return the directory of the run with a job's configuration, or else that of the job."""
        path = self.paths.get(job.sha256 or "", job.run_dir)
        if path != job.run_dir:
            with contextlib.suppress(OSError):
                job.run_dir.rmdir()  # created by Hydra, and still empty
        return path

    def _has_result(self, job: Job, results: dict[int, float | None]) -> bool:
        """Return whether a job is complete or cannot be run; add its result to ``results``."""
        run = store.read_run(job.run_dir) if job.sha256 else None
        if run is None or run.config_sha256 is None:
            return False
        if is_occupied(job, run):
            log.error("%s: %s", self._name(job), occupied_message(job))
            results[job.number] = None
        elif run.complete and run.is_up_to_date(job.settings):
            log.info("%s is already complete: %s", self._name(job), job.run_dir.name)
            self.unfinished.discard(job.sha256)
            results[job.number] = _validation_error(run)
        return job.number in results

    def _fill_slots(
        self,
        task: Task,
        queue: Iterator[Job],
        running: dict[int, RunningJob],
        results: dict[int, float | None],
        show_traceback: bool,
    ) -> None:
        """Start jobs until all slots are in use; add them to ``running``."""
        while len(running) < len(self.slots):
            self._raise_if_failed(results)
            if (job := next(queue, None)) is None:
                break
            name = ", ".join(filter(None, [self._name(job), self._time_left(running.values())]))
            log.info("%s: %s", name, job.run_dir.name)
            with self._job_errors(job, results):
                slot = min({*range(len(self.slots))} - running.keys())
                running[slot] = start_job(
                    task, job, self.slots[slot], self.threads, show_traceback, self.is_parallel
                )
        self._raise_if_failed(results)

    def _raise_if_failed(self, results: dict[int, float | None]) -> None:
        """Raise FailedFast if a job has failed and ``fail_fast`` is set."""
        if self.fail_fast and None in results.values():
            raise FailedFast

    def _wait_for_any(self, running: dict[int, RunningJob], bar: "tqdm[Any]") -> list[int]:
        """Wait until at least one job has ended; return the slots of those that have."""
        sentinels = [each.process.sentinel for each in running.values()]
        while True:
            ended = multiprocessing.connection.wait(sentinels, REFRESH_SECONDS)
            if ended:
                return [slot for slot, each in running.items() if each.process.sentinel in ended]
            self._update_page()
            bar.total = None if self.jobs_left is None else bar.n + self.jobs_left
            bar.set_postfix_str(self._time_left(running.values()))

    def _finish(self, ended: RunningJob) -> float | None:
        """Record how a job has ended; return its validation error, or None if it failed."""
        job, process = ended.job, ended.process
        process.join()
        self.durations.append(time.monotonic() - ended.started)
        self.unfinished.discard(job.sha256 or "")
        reason = failure_reason(ended)
        ended.messages.close()
        if process.exitcode:
            # another process that holds the lock runs the job now
            with contextlib.suppress(UsageError), lock_run_dir(job.run_dir):
                record_job_failure(job, reason)
        run = store.read_run(job.run_dir)
        if process.exitcode and (run is None or not run.complete):
            if self.is_parallel:
                log.error("%s failed: %s", self._name(job), reason)
            return None
        self._log_end(job, run, reason)
        return _validation_error(run)

    def _log_end(self, job: Job, run: store.Run | None, reason: str) -> None:
        """Log the result of a job that is complete, unless its process has printed it."""
        error = run.measure("test", "error") if run is not None else None
        if self.is_parallel and not reason:
            result = "" if error is None else f" test error {100 * error:.2f}%,"
            duration = logs.format_duration(self.durations[-1])
            log.info("%s ended:%s %s", self._name(job), result, duration)
        if run is not None and (self.is_parallel or reason):
            not_drawn = ", ".join(run.pictures_to_draw(job.settings))
            texts = [reason, not_drawn and f"not drawn: {not_drawn}"]
            if not run.is_logged(job.settings):
                texts.append("its logger failed: see train.log")
            if any(texts):
                log.warning("%s: %s", self._name(job), "; ".join(filter(None, texts)))

    # What is shown -------------------------------------------------------------------------------

    def _name(self, job: Job) -> str:
        return f"run {job.number + 1}" + (f" of {self.total}" if self.total else "")

    def _progress_bar(self) -> "tqdm[Any]":
        """Return a bar for the sweep; hidden if stderr is no terminal, or for one job at a time."""
        return tqdm(
            total=self.jobs_left,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs{postfix}",
            dynamic_ncols=True,
            leave=False,
            disable=None if self.is_parallel else True,
        )

    def _update_page(self) -> None:
        """Write the page of the sweep, if it is time for its next version."""
        start = time.monotonic()
        if start < self.next_page:
            return
        self.next_page = start + PAGE_SECONDS
        page = self.directory / SUMMARY_HTML
        with contextlib.suppress(OSError):  # there is no page yet
            if time.time() - page.stat().st_mtime < PAGE_SECONDS / 2:
                return  # written by another process, such as another job on a cluster
        try:
            summarise(self.directory).write_page(running=True)
        except Exception:  # the runs matter more; the last version is written at the end
            log.debug("the page of the sweep was not written", exc_info=True)
        now = time.monotonic()
        self.next_page = now + max(PAGE_SECONDS, (now - start) / PAGE_SHARE)

    def _time_left(self, running: Iterable[RunningJob]) -> str:
        """Return ``about 5 min left``; an empty string if no job has ended yet."""
        if not self.durations or not self.jobs_left:
            return ""
        average, now = statistics.fmean(self.durations), time.monotonic()
        done = sum(min(now - each.started, average) for each in running)
        seconds = (average * self.jobs_left - done) / min(self.jobs_left, len(self.slots))
        return f"about {logs.format_duration(seconds)} left"

    # The state of the sweep ----------------------------------------------------------------------

    def is_complete(self) -> bool:
        """Return whether all jobs are known and complete, with their pictures and logs."""
        runs = {run.config_sha256: run for run in self._complete_runs()}
        return bool(self.jobs) and all(
            sha256 in runs and runs[sha256].is_up_to_date(settings)
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

    def _complete_runs(self) -> list[store.Run]:
        if not self.directory.is_dir():
            return []
        return [run for run in store.find_runs(self.directory) if run.complete]


def _validation_error(run: store.Run | None) -> float | None:
    return run.measure("validation", "error") if run is not None else None
