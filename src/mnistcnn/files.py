"""Files that appear under their names only when they are whole."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file beside ``path``, and give it that name once it is on the disk.

    Whatever was there stays until then, and stays if anything goes wrong. Raises OSError.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
