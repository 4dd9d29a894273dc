"""Write ``metrics.json``: the values of a run, the seconds of its phases, and how it ended."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnistcnn.config.load import FORMAT
from mnistcnn.runs.directory import METRICS
from mnistcnn.runs.provenance import git_commit, package_versions
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import WriteError
from mnistcnn.system.logs import log_to_file

log = logging.getLogger(__name__)

COMPLETE_STATUSES = ("finished", "early_stopped")


class RunRecord:
    """The future content of ``metrics.json``: ``values`` collected so far, seconds by phase."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        # the status that a killed process leaves behind
        self.values: dict[str, Any] = {"format": FORMAT, "status": "interrupted"}
        self.previous = _read_metrics(run_dir)  # of earlier processes, if the run is resumed
        self.values["started_at"] = self.previous.get("started_at") or current_time()
        self.seconds: dict[str, float] = _dict_value(self.previous, "seconds")
        self.start = time.perf_counter() - self.seconds.pop("total", 0.0)
        self.active_phases: dict[str, float] = {}  # start time by name

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to ``seconds[name]``."""
        self.active_phases[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self._elapsed(name)
            del self.active_phases[name]

    def _elapsed(self, name: str) -> float:
        return self.seconds.get(name, 0.0) + time.perf_counter() - self.active_phases[name]

    def current_values(self) -> dict[str, Any]:
        """Return the content of ``metrics.json`` at this moment."""
        seconds = self.seconds | {name: self._elapsed(name) for name in self.active_phases}
        seconds["total"] = time.perf_counter() - self.start
        return self.values | {"seconds": seconds}

    def write(self) -> None:
        """Write ``metrics.json``. Raises WriteError."""
        write_json(self.run_dir / METRICS, self.current_values())


def current_time() -> str:
    """Return the time in UTC as text that sorts by time: ``2026-11-27T09:30:00.123456+00:00``."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextlib.contextmanager
def record_run(
    run_dir: Path, log_name: str, identity: dict[str, Any] | None = None
) -> Iterator[RunRecord]:
    """Write the log and ``metrics.json`` of a run inside the context, however it ends.

    ``identity`` has initial values. An exception is recorded (``status``, ``error``, and its
    traceback in the log file) and raised again; a run whose status is complete remains complete.
    """
    record = RunRecord(run_dir)
    record.values |= identity or {}
    record.values |= {"versions": package_versions(), "git_commit": git_commit()}
    record.write()
    with log_to_file(run_dir / log_name):
        _warn_of_changed_code(record.previous, record.values)
        try:
            yield record
        except BaseException as error:
            outcome = _outcome(error)
            if record.values["status"] not in COMPLETE_STATUSES:
                record.values |= outcome
            with contextlib.suppress(WriteError):  # report the first error
                record.write()
            log.debug("%s", outcome["error"], exc_info=outcome["status"] == "failed")
            raise
        record.write()
        log.info("%.1f s. Results: %s", time.perf_counter() - record.start, run_dir)


@contextlib.contextmanager
def update_record(run_dir: Path, log_name: str) -> Iterator[RunRecord]:
    """Write the log and ``metrics.json`` of a complete run to which something is added inside."""
    record = RunRecord(run_dir)
    record.values |= {key: value for key, value in record.previous.items() if key != "seconds"}
    with log_to_file(run_dir / log_name):
        try:
            yield record
        except BaseException:
            with contextlib.suppress(WriteError):  # report the first error
                record.write()
            raise
        record.write()


def record_failure(run_dir: Path, reason: str, identity: dict[str, Any]) -> None:
    """Record in ``metrics.json`` why a run's process ended, unless the run itself recorded it.

    ``identity`` has values for a run that has written none.
    """
    values = {
        "format": FORMAT,
        "status": "interrupted",
        "started_at": current_time(),
    } | _read_metrics(run_dir)
    if values["status"] == "interrupted" and "error" not in values:
        failure = {"status": "failed", "error": reason}
        write_json(run_dir / METRICS, identity | values | failure)


def _outcome(error: BaseException) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": str(error) or "stopped by Ctrl-C"}
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _read_metrics(run_dir: Path) -> dict[str, Any]:
    """Return the content of ``metrics.json``; empty if there is none or it cannot be read."""
    try:
        values = json.loads((run_dir / METRICS).read_text())
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def _dict_value(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _warn_of_changed_code(previous: dict[str, Any], current: dict[str, Any]) -> None:
    """Warn if a run is resumed with different code, which may change its results."""
    old_versions, new_versions = _dict_value(previous, "versions"), current["versions"]
    changed = [
        f"{name} {version}"
        for name, version in old_versions.items()
        if version != new_versions.get(name)
    ]
    if previous.get("git_commit") not in (None, current["git_commit"]):
        changed.append(f"commit {previous['git_commit']}")
    if changed:
        log.warning("this run was started with different code: %s", ", ".join(changed))
