"""Read and write ``history.jsonl``, which has one row per epoch."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mnistcnn.runs.directory import HISTORY, LAST
from mnistcnn.system.atomic_files import append_bytes, write_bytes
from mnistcnn.system.errors import CorruptFileError, MnistcnnError

TIMING_KEYS = ("seconds", "samples_per_second")  # wall-clock values, excluded from history_sha256


def best_epoch(history: list[dict[str, float]]) -> int:
    """Return the first epoch with the highest validation accuracy."""
    return int(max(history, key=lambda row: row["val_accuracy"])["epoch"])


def append_history(run_dir: Path, row: dict[str, float]) -> None:
    """Append an epoch's row. Raises WriteError."""
    append_bytes(run_dir / HISTORY, _to_lines([row]))


def write_history(run_dir: Path, rows: Iterable[dict[str, float]]) -> None:
    """Replace the file by these rows. Raises WriteError."""
    write_bytes(run_dir / HISTORY, _to_lines(rows))


def _to_lines(rows: Iterable[dict[str, float]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def read_history(run_dir: Path) -> list[dict[str, float]]:
    """Return the rows of the file; an empty list if it does not exist.

    An incomplete last line, left by a process that was killed while writing, is ignored. Raises
    MnistcnnError if another line is not JSON.
    """
    file = run_dir / HISTORY
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in _complete_lines(file)]
    except (OSError, ValueError) as error:
        raise MnistcnnError(f"{file} is corrupt ({error})") from error


def read_verified_history(run_dir: Path, epochs: int, sha256: str) -> list[dict[str, float]]:
    """Return the first ``epochs`` rows, checked against their :func:`history_sha256`.

    Raises CorruptFileError if a row is missing or was changed.
    """
    file = run_dir / HISTORY
    try:
        lines = _complete_lines(file)[:epochs] if file.exists() else []
        history = [json.loads(line) for line in lines]
        intact = history_sha256(history) == sha256
    except (ValueError, TypeError):  # a line is not JSON, or not a row
        intact = False
    if not intact:
        raise CorruptFileError(
            f"{file} is corrupt: its first {epochs} epochs are not those of {LAST}. "
            "Train in another directory"
        )
    return history


def history_sha256(history: Iterable[dict[str, float]]) -> str:
    """Return the SHA-256 (hex) of the rows without their timings, as stored in a checkpoint."""
    rows = [{key: row[key] for key in row if key not in TIMING_KEYS} for row in history]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _complete_lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
