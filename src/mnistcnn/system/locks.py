"""Lock a run's directory against other processes."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mnistcnn.system.errors import UsageError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
LOCK_TIMEOUT = 0.2  # seconds; is_locked holds a lock for a moment


def is_locked(run_dir: Path) -> bool:
    """Return whether another process holds the lock of a run's directory."""
    try:
        with FileLock(run_dir / LOCK_FILE, is_singleton=True, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # reported when the lock is needed
        return False


@contextlib.contextmanager
def lock_run_dir(run_dir: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a run's directory; a process may take it several times.

    If ``wait`` is true, wait for a process that holds it. Raises UsageError if ``wait`` is false
    and another process holds it, or if the directory cannot be written.

    The lock file is never removed: otherwise two processes could hold locks on two files of the
    same name.
    """
    lock = FileLock(run_dir / LOCK_FILE, is_singleton=True)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT, poll_interval=LOCK_TIMEOUT / 10)
    except Timeout:
        if not wait:
            raise UsageError(
                f"{run_dir} is being written by another process: wait for it or stop it first"
            ) from None
        log.info("waiting for the lock of %s: another process runs it", run_dir.name)
        lock.acquire()
    except OSError as error:
        raise UsageError(f"{run_dir} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
