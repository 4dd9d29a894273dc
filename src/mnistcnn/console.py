"""What a command says on the terminal: plain lines above a progress bar, and never a crash."""

import contextlib
import logging
import os
import sys

from tqdm import tqdm


class _Lines(logging.StreamHandler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def take_hold() -> None:
    """Log to standard output, and let nothing about a terminal, or its absence, end a run."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called
            setattr(sys, name, open(os.devnull, "w"))
        with contextlib.suppress(AttributeError):  # a stand-in that takes any character
            getattr(sys, name).reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # a closed pipe or a full disk is no reason for tracebacks
    logger = logging.getLogger("mnistcnn")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Hydra has handlers of its own on the root logger
    handler = _Lines(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    logger.handlers = [handler]


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours"
