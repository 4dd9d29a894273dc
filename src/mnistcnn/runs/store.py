"""Read and find runs on disk."""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mnistcnn.config.load import check_format, flatten, parse_config
from mnistcnn.runs.directory import CONFIG, METRICS, PREDICTIONS
from mnistcnn.runs.history import read_history
from mnistcnn.runs.metrics_file import COMPLETE_STATUSES
from mnistcnn.system.errors import MnistcnnError, UsageError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Run:
    """A run's directory and the content of its ``metrics.json``."""

    path: Path
    metrics: dict[str, Any]

    @property
    def status(self) -> str:
        """Status in ``metrics.json``; ``failed`` if there is none."""
        return self.metrics.get("status", "failed")

    @property
    def started_at(self) -> str:
        """Time at which the run was started first, in UTC, as text that sorts by time."""
        return str(self.metrics.get("started_at", ""))

    @property
    def complete(self) -> bool:
        """Whether the run has ended successfully and no required file or metric is missing."""
        return self.status in COMPLETE_STATUSES and not self.missing

    @cached_property
    def missing(self) -> list[str]:
        """Files and metrics that a complete run must have and this one lacks."""
        files = [name for name in (CONFIG, PREDICTIONS) if not (self.path / name).is_file()]
        return files + [key for key in (*SPLITS, "data") if key not in self.metrics]

    @property
    def missing_pictures(self) -> list[str]:
        """Pictures of a complete run that have not been drawn."""
        return list(self.metrics.get("missing_pictures", []))

    @property
    def reason(self) -> str:
        """The reason why the run is not complete, in one line; empty if it is complete."""
        if self.complete:
            return ""
        if self.status in COMPLETE_STATUSES:
            return f"missing {', '.join(self.missing)}"
        return " ".join(str(self.metrics.get("error", "")).split())

    @property
    def seed(self) -> int:
        """Seed of the run. Raises KeyError if the run failed without any settings."""
        return self.settings["seed"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings by full name, such as ``model.width``; empty if the run failed without any.

        Raises UsageError if they cannot be read.
        """
        file = self.path / CONFIG
        if not file.exists():
            return {}
        try:
            settings = flatten(parse_config(file.read_text(), file))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
        if "seed" not in settings:
            raise UsageError(f"{file} is not a valid configuration (it has no seed)")
        return settings

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch; empty if the file is missing or corrupt."""
        try:
            return read_history(self.path)
        except MnistcnnError as error:  # only the curves need it
            log.warning("the curve of %s is not drawn: %s", self.path, error)
            return []

    def measure(self, split: str, name: str) -> float | None:
        """Return ``accuracy``, ``error`` or ``loss`` on a split; None if it was not measured."""
        return self.metrics.get(split, {}).get(name)


def read_run(path: Path) -> Run | None:
    """Return the run in a directory, complete or not; None if it has no ``metrics.json``.

    An unreadable ``metrics.json`` gives a failed run. Raises UsageError if it has another format.
    """
    file = path / METRICS
    if not file.is_file():
        return None
    try:
        metrics = json.loads(file.read_text())
        if not isinstance(metrics, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:  # truncated, or written by another program
        return Run(path, {"status": "failed", "error": f"{METRICS} cannot be read: {error}"})
    check_format(metrics.get("format"), file)
    return Run(path, metrics)


def find_runs(path: Path) -> list[Run]:
    """Return all runs in a directory and below it, sorted by path.

    Raises UsageError if there is no such directory, or if a run has another format.
    """
    if not path.is_dir():
        raise UsageError(f"there is no directory {path}")
    folders = sorted(file.parent for file in path.rglob(METRICS))
    return [run for run in map(read_run, folders) if run is not None]


def find_by_config(path: Path, sha256: str) -> Run | None:
    """Return the run below ``path`` with this configuration, preferably a complete one."""
    runs = [run for run in find_runs(path) if run.metrics.get("config_sha256") == sha256]
    return max(runs, key=lambda run: run.complete, default=None)
