"""What a command says on the terminal: plain lines above a progress bar, and never a crash."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable

from tqdm import tqdm

from mnistcnn import signals
from mnistcnn.errors import PlainError


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


def command(body: Callable[[], int]) -> None:
    """Run ``body``, which returns the exit code, and exit; say in a line what went wrong."""
    take_hold()
    signals.listen()
    try:
        code = body()
        sys.stdout.flush()
    except PlainError as error:
        print(f"mnistcnn: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        print(f"mnistcnn: {str(stop) or 'interrupted'}", file=sys.stderr)
        code = signals.exit_code(stop)
    except BrokenPipeError:  # nobody reads any more: say nothing about it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"mnistcnn: {error}", file=sys.stderr)
        code = 1
    if code:
        sys.exit(code)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours"
