"""The jobs of a multirun: each in a process of its own, and none that was done before."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from mnistcnn import apart, console, resume, rundir, sweep
from mnistcnn.config import TrainSettings, fingerprint, to_yaml
from mnistcnn.errors import DamagedError

log = logging.getLogger(__name__)

# What a run needs and takes long to import.
HEAVY = [
    "mnistcnn.training", "matplotlib.figure", "matplotlib.backends.backend_agg", "sklearn.manifold",
    "torchinfo",
]  # fmt: skip


@dataclass
class Multirun:
    """Many runs in one directory.

    A job asks the directory what is there, and nothing else: jobs may run in other processes, at
    the same time, on other machines, and again after all of that was killed.
    """

    directory: Path
    fingerprints: list[str] = field(default_factory=list)  # of its jobs; none where not known yet
    total: int | None = None  # jobs; None where not known
    threads: int | None = None  # of each job; None as the process has them
    started: float = field(default_factory=time.time)  # seconds since the epoch

    def __post_init__(self) -> None:
        self.before = len(self._complete())

    def job(
        self, explain: Callable, task: str, settings: Any, out: Path, number: int
    ) -> float | None:
        """Do the job ``number`` (from 0) in ``out``, or see that it was done in some directory.

        ``task`` names the function to call with ``settings`` and a directory, as
        ``mnistcnn.training:run``. Returns the validation error, which a sweeper may minimise; None
        where the run failed, which is a failed trial to it.
        """
        known = _identity(settings)
        found = sweep.with_fingerprint(self.directory, known["config_sha256"]) if known else None
        if found is not None and found.path != out:
            with contextlib.suppress(OSError):
                out.rmdir()  # Hydra made it, and nobody used it
            out = found.path
        name = f"run {number + 1}" + (f" of {self.total}" if self.total else "")
        if found is not None and found.complete:
            log.info("%s is there already: %s", name, out.name)
            return _validation_error(found)
        if known and _holds_another(out, known):
            log.error("%s: %s holds another run, which is left alone", name, out)
            return None
        out.mkdir(parents=True, exist_ok=True)
        log.info("%s%s: %s", name, self._time_left(number), out.name)
        code = apart.call(_do, explain, task, settings, out, known, self.threads, preload=HEAVY)
        if code:
            with rundir.alone(out, wait=True):
                _note_failure(out, settings, apart.describe(code), known)
            return None
        return _validation_error(sweep.read(out))

    def not_complete(self) -> int:
        """How many of the jobs are not, or not wholly, done."""
        if self.fingerprints:
            done = {run.metrics.get("config_sha256") for run in self._complete()}
            return len(set(self.fingerprints) - done)
        return sum(not run.complete and self._is_new(run) for run in sweep.find(self.directory))

    def _is_new(self, run: sweep.Run) -> bool:
        return (run.path / rundir.METRICS).stat().st_mtime >= self.started

    def _complete(self) -> list[sweep.Run]:
        if not self.directory.is_dir():
            return []
        return [run for run in sweep.find(self.directory) if run.complete]

    def _time_left(self, number: int) -> str:
        """``, about 5 min left`` from the job ``number`` on, once one was done since the start."""
        done = len(self._complete()) - self.before
        if not (done and self.total):
            return ""
        jobs = self.total - number
        if self.fingerprints:
            jobs = min(jobs, self.not_complete())  # some ahead are there already
        seconds = (time.time() - self.started) / done * jobs
        return f", about {console.duration(seconds)} left"


def _holds_another(out: Path, known: dict[str, str]) -> bool:
    run = sweep.read(out)
    # a metrics.json that cannot be read knows of no other run
    return run is not None and run.metrics.get("config_sha256") not in (*known.values(), None)


def _validation_error(run: sweep.Run | None) -> float | None:
    return run.measure("validation", "error") if run is not None else None


def _identity(settings: Any) -> dict[str, str]:
    """What ``metrics.json`` knows a run by; nothing of an evaluation."""
    if not isinstance(settings, TrainSettings):
        return {}
    return {"config_sha256": fingerprint(settings)}


def _do(
    explain: Callable, task: str, settings: Any, out: Path, known: dict, threads: int | None
) -> None:
    """What a job's process does. ``explain`` prints an error and gives the exit code."""
    console.take_hold()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        with rundir.alone(out, wait=True):
            todo = _todo(settings, out, known)
            if todo is not None:
                resolve_name(task)(settings, out, **todo)
    except Exception as error:
        if not (out / rundir.METRICS).exists():  # it did not get so far as to say so itself
            _note_failure(out, settings, f"{type(error).__name__}: {error}", known)
        sys.exit(explain(error))


def _todo(settings: Any, out: Path, known: dict) -> dict[str, bool] | None:
    """How to call a task, after a look at what is in ``out`` by now; None where all is done.

    Raises what :func:`resume.prepare` does, unless what it needs is damaged: then it begins anew.
    """
    run = sweep.read(out)
    if run is None or not known:
        return {}
    if run.complete:
        log.info("another process has done it: %s", out.name)
        return None
    if (out / rundir.LAST).exists():
        try:
            resume.prepare(out, settings)
            return {"go_on": True}
        except DamagedError as error:
            log.warning("%s\nIt begins anew: %s", error, out.name)
    rundir.clear(out)
    return {}


def _note_failure(out: Path, settings: Any, reason: str, known: dict) -> None:
    if isinstance(settings, TrainSettings) and not (out / rundir.CONFIG).exists():
        rundir.write_text(out / rundir.CONFIG, to_yaml(settings))
    rundir.note_failure(out, reason, known)
