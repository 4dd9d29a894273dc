"""Download an MNIST archive from a list of mirrors."""

import contextlib
import hashlib
import logging
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from mnistcnn.system.atomic_files import remove_temporary_files, write_bytes
from mnistcnn.system.errors import UsageError

log = logging.getLogger(__name__)

# A mirror fails if an open connection is silent for SOCKET_TIMEOUT, or if the average rate is
# below MIN_BYTES_PER_SECOND at any time after STALL_TIMEOUT.
SOCKET_TIMEOUT = 10.0  # seconds
STALL_TIMEOUT = 20.0  # seconds
MIN_BYTES_PER_SECOND = 20_000


def download(archive: Path, sha256: str, max_bytes: int, mirrors: tuple[str, ...]) -> None:
    """Download the file ``archive`` from the first mirror that has it with this SHA-256.

    The file is written atomically. Processes that start together download it once.

    Raises UsageError if no mirror delivers the file; new directories are then removed.
    """
    try:
        _download(archive, sha256, max_bytes, mirrors)
    except FileNotFoundError:  # of the lock: another process has removed the new directories
        _download(archive, sha256, max_bytes, mirrors)


def _download(archive: Path, sha256: str, max_bytes: int, mirrors: tuple[str, ...]) -> None:
    new_folders = [folder for folder in archive.parents if not folder.exists()]
    archive.parent.mkdir(parents=True, exist_ok=True)
    lock = archive.with_suffix(".lock")
    with FileLock(lock):
        if archive.exists():
            return
        remove_temporary_files(archive)
        failures = []
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{archive.name}"
            log.info("downloading %s", url)
            try:
                content = fetch(url, max_bytes)
            except OSError as error:
                failures.append(f"{mirror}: {error}")
                continue
            if hashlib.sha256(content).hexdigest() == sha256:
                write_bytes(archive, content)
                return
            failures.append(
                f"{mirror}: not the MNIST file ({len(content)} bytes, its SHA-256 is not "
                f"{sha256[:12]}…)"
            )
    if new_folders:
        with contextlib.suppress(OSError):  # another process may need them
            lock.unlink()
            for folder in new_folders:
                folder.rmdir()
    raise UsageError(
        f"data=mnist: {archive.name} is not in {archive.parent} and could not be downloaded "
        f"({'; '.join(failures) or 'data.mirrors is empty'}).\n"
        "Put the four MNIST archives there, set another data.dir (or MNISTCNN_DATA_DIR), "
        "or use data=mnist5k, which needs no download."
    )


def fetch(url: str, max_bytes: int) -> bytes:
    """Return the body of a URL.

    A socket timeout limits neither the DNS lookup, nor the number of addresses tried, nor a
    server that sends one byte at a time. Therefore a thread transfers the data while this
    function monitors the rate.

    Raises OSError if the transfer fails, stalls or exceeds ``max_bytes``.
    """
    transfer = _Transfer(url, max_bytes)
    transfer.start()
    start = time.monotonic()
    while transfer.is_alive():
        transfer.join(0.1)
        seconds = time.monotonic() - start
        if seconds > STALL_TIMEOUT and transfer.received < MIN_BYTES_PER_SECOND * seconds:
            raise TimeoutError(f"too slow ({transfer.received:,} bytes in {seconds:.0f} s)")
    if transfer.failure is not None:
        raise OSError(transfer.failure)
    return b"".join(transfer.chunks)


class _Transfer(threading.Thread):
    """Reads the body of a URL into ``chunks``, or sets ``failure`` to an error message."""

    def __init__(self, url: str, max_bytes: int):
        super().__init__(daemon=True)  # a stalled transfer must not keep the process alive
        self.url = url
        self.max_bytes = max_bytes
        self.chunks: list[bytes] = []
        self.received = 0
        self.failure: str | None = None

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.url, timeout=SOCKET_TIMEOUT) as response:
                while chunk := response.read1(1 << 16):
                    self.chunks.append(chunk)
                    self.received += len(chunk)
                    if self.received > self.max_bytes:
                        raise OSError(f"more than {self.max_bytes:,} bytes received")
        except HTTPError as error:
            error.close()  # it holds the connection
            self.failure = str(error)
        except (OSError, ValueError, HTTPException) as error:  # ValueError: not a URL
            self.failure = str(error) or type(error).__name__
