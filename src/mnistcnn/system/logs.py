"""Log to the terminal and to a run's log file."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm


class _TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _FileHandler(logging.FileHandler):
    """Ignores errors of the file system.

    If the disk is full, log lines are lost and the run continues.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # raised when the file is opened
            super().emit(record)


def setup_logging() -> None:
    """Log to standard output, and in colours only on a terminal.

    A closed or ASCII-only stream must not end a run.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  used until the exit
        with contextlib.suppress(AttributeError):  # a replaced stream may have no reconfigure()
            getattr(sys, name).reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty() and "FORCE_COLOR" not in os.environ:
        os.environ["NO_COLOR"] = "1"  # Optuna writes its log to stderr, in colours
    logging.raiseExceptions = False  # no tracebacks for a closed pipe or a full disk
    logger = logging.getLogger("mnistcnn")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Hydra adds handlers to the root logger
    handler = _TerminalHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    logger.handlers = [handler]


@contextlib.contextmanager
def log_to_file(file: Path) -> Iterator[None]:
    """Also log to ``file`` inside the context, including tracebacks (level DEBUG)."""
    handler = _FileHandler(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("mnistcnn")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)  # the terminal handler has its own level
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()


def format_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``12 min`` or ``3.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours"
