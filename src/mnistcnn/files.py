"""Files that appear under their names only when they are whole, and stay when the power fails."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mnistcnn.errors import WriteError

UNFINISHED = ".unfinished"  # how the names end of files that are not whole yet


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file beside ``path``, and give it that name once it is on the disk.

    Whatever was there stays until then, and stays if anything goes wrong. Raises WriteError.
    """
    with _telling(path):
        descriptor, temporary = tempfile.mkstemp(UNFINISHED, f".{path.name}.", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                _to_disk(file)
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private
            os.replace(temporary, path)
            _directory_to_disk(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def append_bytes(path: Path, content: bytes) -> None:
    """Add to a file, on the disk. Raises WriteError; the file may then have part of ``content``."""
    with _telling(path), open(path, "ab") as file:
        file.write(content)
        _to_disk(file)


def remove_leftovers(path: Path) -> None:
    """Remove what is left of writing ``path`` by processes that were killed while they did.

    For who knows that no other process is writing it.
    """
    for leftover in path.parent.glob(f".{path.name}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            leftover.unlink()


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _directory_to_disk(path: Path) -> None:
    """The new name, too. Where directories cannot be opened, the system sees to it."""
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
