"""Read the rows of runs and sweeps for the index."""

import hashlib
import shlex
from pathlib import Path

from mnistcnn.config.defaults import LOCATION_KEYS
from mnistcnn.experiments.groups import display_key, display_value, group_key
from mnistcnn.experiments.run_index import Entry, Files, RunRow
from mnistcnn.experiments.sweep_file import sweep_commands, typed_values
from mnistcnn.pages.render import MAX_LENGTH, shorten, without_directories
from mnistcnn.runs.directory import METRICS, SWEEP
from mnistcnn.runs.metrics_file import COMPLETE_STATUSES
from mnistcnn.runs.store import Run, read_any_run

MAX_SETTINGS = 300  # of a run; further ones are left out
MAX_WORD = 100  # characters of a name or of a status
MAX_REASON = 400


def read_entry(path: Path, files: Files) -> Entry:
    """Return what the directory ``path``, which has ``files``, contains."""
    run = read_any_run(path) if METRICS in files else None
    keys = _swept_keys(path) if SWEEP in files else []
    return Entry(files, None if run is None else _run_row(run), keys)


def _run_row(run: Run) -> RunRow:
    return RunRow(
        kind="evaluation" if run.is_evaluation else "run",
        status=_status(run),
        reason=_reason(run),
        started_at=shorten(run.started_at, MAX_WORD),
        test_error=run.measure("test", "error"),
        validation_error=run.measure("validation", "error"),
        training_error=run.measure("train", "error"),
        epochs=run.epochs,
        seconds=run.seconds,
        settings=_settings(run),
        group=hashlib.sha256(group_key(run).encode(errors="replace")).hexdigest()[:16],
        usable=run.usable,
    )


def _status(run: Run) -> str:
    complete_without_files = run.status in COMPLETE_STATUSES and not run.usable
    return "incomplete" if complete_without_files else shorten(run.status, MAX_WORD)


def _reason(run: Run) -> str:
    """Return why the run is not usable, without directories: the page may be sent to somebody."""
    reason = run.reason.replace(f"{run.path}/", "")
    return shorten(without_directories(reason[: 10 * MAX_REASON]), MAX_REASON)


def _settings(run: Run) -> dict[str, str]:
    """Return the values of all settings as displayed, without the places of the data."""
    values = [each for each in run.settings.items() if each[0] not in LOCATION_KEYS]
    return {
        shorten(display_key(key), MAX_WORD): _display(value) for key, value in values[:MAX_SETTINGS]
    }


def _display(value: object) -> str:
    text = display_value(value)[: 2 * MAX_LENGTH]
    return shorten(without_directories(text) if "/" in text else text)  # the former takes time


def _swept_keys(sweep_dir: Path) -> list[str]:
    """Return the displayed names of the settings that ``sweep.json`` mentions, each once.

    These are settings with several values, and those in the commands: a sweeper that chooses values
    records none.
    """
    words = [word for command in sweep_commands(sweep_dir) for word in shlex.split(command)]
    typed = [word.partition("=")[0].lstrip("+~") for word in words if "=" in word]
    keys = dict.fromkeys(display_key(key) for key in (*typed_values(sweep_dir), *typed))
    return [shorten(key, MAX_WORD) for key in keys if key != "seed"]
