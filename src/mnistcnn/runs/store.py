"""Read and find runs on disk."""

import json
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mnistcnn.config.load import check_format, flatten, parse_config
from mnistcnn.config.schema import PRECISIONS, EvaluateSettings, TrainSettings
from mnistcnn.runs.directory import (
    CONFIG,
    METRICS,
    PREDICTIONS,
    expected_pictures,
    require_directory,
)
from mnistcnn.runs.history import read_history
from mnistcnn.runs.metrics_file import COMPLETE_STATUSES
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.system.locks import LOCK_FILE, is_locked

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Run:
    """A run's directory and the content of its ``metrics.json``.

    Values of ``metrics`` may have any type: the file may have been changed by hand. The properties
    and :meth:`measure` check them.
    """

    path: Path
    metrics: dict[str, Any]

    @property
    def status(self) -> str:
        """Status in ``metrics.json``; ``failed`` if there is none."""
        status = self.metrics.get("status")
        return status if isinstance(status, str) else "failed"

    @property
    def started_at(self) -> str:
        """Time at which the run was started first, in UTC, as text that sorts by time.

        Empty if it is not recorded.
        """
        value = self.metrics.get("started_at")
        return value if isinstance(value, str) else ""

    @property
    def config_sha256(self) -> str | None:
        """Hash that identifies the run; None if it is not recorded, as for an evaluation."""
        value = self.metrics.get("config_sha256")
        return value if isinstance(value, str) else None

    @property
    def seconds(self) -> float | None:
        """Duration of the run; None if it is not recorded."""
        return _number_in(self.metrics.get("seconds"), "total")

    @property
    def complete(self) -> bool:
        """Whether the run has ended successfully and no required file or metric is missing."""
        return self.status in COMPLETE_STATUSES and not self.missing

    @cached_property
    def missing(self) -> list[str]:
        """Files and metrics that a complete run must have, and that are missing or invalid."""
        missing = [] if (self.path / CONFIG).is_file() else [CONFIG]
        if not zipfile.is_zipfile(self.path / PREDICTIONS):  # which sees a truncated file
            missing.append(PREDICTIONS)
        missing += [
            key
            for key in SPLITS
            if self.measure(key, "accuracy") is None or self.measure(key, "error") is None
        ]
        if _number_in(self.metrics.get("data"), "train") is None:
            missing.append("data")
        precision = self.metrics.get("precision")
        if precision == "auto" or precision not in PRECISIONS:
            missing.append("precision")
        if not isinstance(self.metrics.get("config_sha256"), str | None):  # evaluations have none
            missing.append("config_sha256")
        return missing

    @property
    def is_evaluation(self) -> bool:
        """Whether these are the files of ``mnistcnn.evaluate``."""
        return "checkpoint" in self.metrics

    @property
    def epochs(self) -> int:
        """Number of completed epochs; 0 for an evaluation without a history."""
        epochs = self.metrics.get("epochs")
        return epochs if type(epochs) is int and 0 <= epochs < 1e9 else len(self.history)

    @property
    def usable(self) -> bool:
        """Whether the run is complete and its settings can be read."""
        return self.complete and bool(self.settings)

    @property
    def missing_pictures(self) -> list[str]:
        """Pictures of a complete run that have not been drawn as ``config.yaml`` says."""
        listed = self.metrics.get("missing_pictures")
        if not isinstance(listed, list):
            return []
        return [name for name in self._expected_pictures if name in listed]

    @property
    def _expected_pictures(self) -> list[str]:
        samples = self.settings.get("tsne.samples", 1)
        return expected_pictures(self.settings.get("pictures", True), samples)

    def pictures_to_draw(self, requested: TrainSettings | EvaluateSettings) -> list[str]:
        """Return the pictures that ``requested`` asks for and that are missing or were left out."""
        drawn = set(self._expected_pictures) - set(self.missing_pictures)
        expected = expected_pictures(requested.pictures, requested.tsne.samples)
        return [name for name in expected if name not in drawn]

    def is_logged(self, requested: TrainSettings | EvaluateSettings) -> bool:
        """Return whether the tracker that ``requested`` sets, if any, has all of a complete run.

        Also true for a run without a history, of which nothing can be logged.
        """
        if isinstance(requested, EvaluateSettings) or requested.logger.name == "none":
            return True
        return not self.history or self.metrics.get("logger") == requested.logger.name

    def is_up_to_date(self, requested: TrainSettings | EvaluateSettings) -> bool:
        """Return whether a complete run has the pictures that ``requested`` sets, and is logged."""
        return not self.pictures_to_draw(requested) and self.is_logged(requested)

    @property
    def reason(self) -> str:
        """The reason why the run is not usable, in one line; empty if it is usable."""
        if not isinstance(self.metrics.get("status"), str):
            return f"{METRICS} has no valid status"
        if not self.complete and self.status in COMPLETE_STATUSES:
            return f"missing or invalid: {', '.join(self.missing)}"
        if not self.complete and (error := self.metrics.get("error")):
            return " ".join(str(error).split())
        return self._settings_or_reason[1]

    @cached_property
    def is_running(self) -> bool:
        """Whether a process was running it when this was read first."""
        was_locked = self.status == "interrupted" and (self.path / LOCK_FILE).exists()
        return was_locked and is_locked(self.path)

    @property
    def outcome(self) -> str:
        """Status and reason, in one line."""
        if self.is_running:
            return "still running"
        known = not self.reason or self.reason.startswith(self.status)
        return (self.reason or self.status) if known else f"{self.status}, {self.reason}"

    @property
    def seed(self) -> int:
        """Seed of the run. Raises KeyError if there are no settings."""
        return self.settings["seed"]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by full name, such as ``model.width``; empty if they cannot be read.

        ``precision`` is the one that ``auto`` has chosen: runs for which the choice was different
        are different groups.
        """
        settings = self.typed_settings
        if settings.get("precision") != "auto":
            return settings
        return settings | {"precision": str(self.metrics.get("precision", "auto"))}

    @property
    def typed_settings(self) -> dict[str, Any]:
        """Settings as in ``config.yaml``; empty if they cannot be read."""
        return self._settings_or_reason[0]

    @cached_property
    def _settings_or_reason(self) -> tuple[dict[str, Any], str]:
        file = self.path / CONFIG
        if not file.exists():  # the run failed before it wrote its settings
            return {}, ""
        try:
            settings = flatten(parse_config(file.read_text(), file))
        except UsageError as error:
            return {}, str(error)
        except Exception as error:  # such as a key that is not text
            return {}, f"{file} cannot be read: {' '.join(str(error).split())}"
        if type(settings.get("seed")) is not int:
            return {}, f"{file} is not a valid configuration (it has no seed)"
        return settings, ""

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch; empty if the file is missing, or if a row cannot be read."""
        try:
            rows = read_history(self.path)
        except MnistcnnError:
            return []
        valid = all(_number_in(row, "val_accuracy") is not None for row in rows)
        return rows if valid else []

    @property
    def error_ci95(self) -> tuple[float, float] | None:
        """95% interval of the test error over test images; None if it is not recorded."""
        test = self.metrics.get("test")
        ends = test.get("accuracy_ci95") if isinstance(test, dict) else None
        if not isinstance(ends, list) or [type(end) for end in ends] != [float, float]:
            return None
        low, high = ends
        return (1 - high, 1 - low) if 0 <= low <= high <= 1 else None

    def measure(self, split: str, name: str) -> float | None:
        """Return ``accuracy``, ``error`` or ``loss`` on a split; None if it was not measured."""
        return _number_in(self.metrics.get(split), name)


def _number_in(values: object, key: str) -> float | None:
    """Return the finite number ``values[key]``; None if there is none."""
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) <= sys.float_info.max else None


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
    # truncated, or written by another program
    except (OSError, ValueError, RecursionError) as error:
        return Run(path, {"status": "failed", "error": f"{METRICS} cannot be read: {error}"})
    check_format(metrics.get("format"), file)
    return Run(path, metrics)


def find_runs(path: Path) -> list[Run]:
    """Return all runs in a directory and below it, sorted by path.

    A run of another format is a failed one. Raises UsageError if there is no such directory.
    """
    require_directory(path)
    folders = sorted(file.parent for file in path.rglob(METRICS))
    return [run for run in map(read_any_run, folders) if run is not None]


def read_any_run(path: Path) -> Run | None:
    """Return the run in a directory as :func:`read_run`; one of another format is a failed one."""
    try:
        return read_run(path)
    except UsageError as error:
        return Run(path, {"status": "failed", "error": str(error)})
