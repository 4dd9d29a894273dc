"""Write files atomically: a file has its old content or the new one, even after a power failure."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mnistcnn.system.errors import WriteError

TEMPORARY_SUFFIX = ".unfinished"


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file next to ``path``; at the end flush it to disk and rename it.

    If anything fails, ``path`` keeps its previous content. Raises WriteError for an OSError.
    """
    with _as_write_error(path):
        descriptor, name = tempfile.mkstemp(TEMPORARY_SUFFIX, f".{path.name}.", path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                _flush_to_disk(file)
            temporary.chmod(0o666 & ~_umask())  # mkstemp creates private files
            temporary.replace(path)
            _flush_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically. Raises WriteError."""
    with open_atomically(path) as file:
        file.write(content)


def rename(path: Path, name: str) -> None:
    """Rename a file within its directory; it replaces a file of that name. Raises WriteError."""
    with _as_write_error(path.with_name(name)):
        path.replace(path.with_name(name))
        _flush_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises WriteError."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON atomically. Raises WriteError, and ValueError for NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file and flush it to disk.

    Raises WriteError; the file may then end with a part of ``content``.
    """
    with _as_write_error(path), path.open("ab") as file:
        file.write(content)
        _flush_to_disk(file)


def remove_temporary_files(path: Path) -> None:
    """Remove temporary files of ``path`` left by killed processes.

    Call it only if no other process can be writing ``path``.
    """
    for temporary in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _as_write_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    """Make a rename durable. Only POSIX systems can open a directory, and only they need it."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
