"""Send the results of a run to an experiment tracker; an error of the tracker is one warning."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mnistcnn.runs.directory import PICTURES
from mnistcnn.runs.history import TIMING_KEYS
from mnistcnn.runs.metrics_file import COMPLETE_STATUSES, RunRecord
from mnistcnn.runs.store import SPLITS
from mnistcnn.system.errors import UsageError
from mnistcnn.training import tensorboard_logger

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """The open log of a run in an experiment tracker. Its functions may raise any Exception."""

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Log the values of an epoch, which are numbered from 1."""

    def finish(self, epochs: int, scores: dict[str, float], pictures: list[Path]) -> None:
        """Log the results after ``epochs`` epochs and close the log.

        ``scores`` and ``pictures`` are empty if the run was stopped or has failed.
        """


# Opens the log of the run in a directory, which has completed epochs with these values. Afterwards
# the log has each of them once, and no later ones, whatever an earlier process has logged.
OpenTracker = Callable[[Path, list[dict[str, float]]], Tracker]

# By name, which is also that of the tracker's package and of the extra that installs it.
TRACKERS: dict[str, OpenTracker] = {"tensorboard": tensorboard_logger.start}


def check_logger(name: str) -> None:
    """Raise UsageError if the package of the tracker ``name`` is not installed."""
    # a directory of that name in the current one is found, but without an origin
    if name in TRACKERS and getattr(find_spec(name), "origin", None) is None:
        raise UsageError(
            f"logger={name} needs the package {name}, which is not installed: "
            f'pip install "mnistcnn[{name}]"'
        )


class RunLogger:
    """Sends a run's epochs and results to the tracker ``name``, until one of its calls fails.

    ``history`` has the rows of the completed epochs. Sends nothing if ``name`` is ``none``.
    """

    def __init__(self, name: str, run_dir: Path, history: list[dict[str, float]]):
        self.name, self.run_dir = name, run_dir
        self.tracker: Tracker | None = None
        if name in TRACKERS:
            with self._warning():
                self.tracker = TRACKERS[name](run_dir, [_numbers(row) for row in history])

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log a row of ``history.jsonl``."""
        if self.tracker is not None:
            with self._warning():
                self.tracker.log_epoch(int(row["epoch"]), _numbers(row))

    def finish(self, metrics: dict[str, Any]) -> None:
        """Log the results in ``metrics``, the content of ``metrics.json``, if the run is complete.

        Then set ``metrics["logger"]``, which says that everything was logged.
        """
        if self.tracker is None:
            return
        with self._warning():
            if metrics["status"] in COMPLETE_STATUSES:
                pictures = [self.run_dir / name for name in _drawn_pictures(metrics)]
                existing = [path for path in pictures if path.is_file()]
                self.tracker.finish(metrics["epochs"], _scores(metrics), existing)
                metrics["logger"] = self.name
            else:
                self.tracker.finish(metrics.get("epochs", 0), {}, [])

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Log an exception inside the context as a warning, and use the tracker no more."""
        try:
            yield
        except Exception as error:
            self.tracker = None
            log.debug("logger=%s failed", self.name, exc_info=True)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("logger=%s failed and is not used any more (%s)", self.name, reason)


@contextlib.contextmanager
def run_logger(
    name: str, record: RunRecord, history: list[dict[str, float]]
) -> Iterator[RunLogger]:
    """Open the tracker ``name``; when the context ends, log the results of ``record`` and close it.

    ``history`` has the rows of the completed epochs.
    """
    logger = RunLogger(name, record.run_dir, history)
    try:
        yield logger
    finally:
        logger.finish(record.values)


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the final scores in ``metrics.json`` by split and name, such as ``test_accuracy``."""
    return {
        f"{split}_{name}": value
        for split in SPLITS
        for name, value in _numbers(metrics[split]).items()
    }


def _drawn_pictures(metrics: dict[str, Any]) -> list[str]:
    missing = metrics["missing_pictures"]
    return [name for name in PICTURES if name.endswith(".png") and name not in missing]


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers in a row of the history, or in the scores of a split, but no timings."""
    omitted = ("epoch", *TIMING_KEYS)
    return {
        key: value
        for key, value in values.items()
        if key not in omitted and isinstance(value, int | float)
    }
