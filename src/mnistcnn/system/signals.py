"""Raise stop signals (Ctrl-C, SIGTERM, SIGUSR1) as ``Stopped``, or defer them to the next batch.

This module imports the standard library only, because a command installs its handlers before it
imports torch.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]  # Windows lacks one

Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A stop signal was received; ``number`` is its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = signal.Signals(number)

    def __str__(self) -> str:
        if self.number == signal.SIGINT:
            return "stopped by Ctrl-C"
        return f"stopped by {self.number.name}"


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code that a shell reports: 128 plus the signal number."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


class _StopHandler:
    """Records the first stop signal and raises it, unless signals are deferred.

    Further SIGINTs are left to SecondInterruptWatcher.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = self.received or number
        if not self.deferring and (first or number != signal.SIGINT):
            raise Stopped(self.received)


_handler = _StopHandler()  # of this process


class SecondInterruptWatcher(threading.Thread):
    """Ends the process at the second Ctrl-C, even during a long call into torch.

    Python runs signal handlers in the main thread only, between two bytecodes: a backward pass
    may delay them for seconds, and would merge two signals into one.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.interrupts = 0
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def run(self) -> None:
        """Read the numbers of the received signals without end."""
        while True:
            self.interrupts += os.read(self.reader, 1)[0] == signal.SIGINT
            if self.interrupts > 1:
                _exit(signal.SIGINT)


_watcher: SecondInterruptWatcher | None = None


class _UnraisableHook:
    """Ignores a Stopped that Python cannot raise; :func:`raise_if_stopped` raises it later."""

    def __init__(self, previous: Callable[[Any], object]) -> None:
        self.previous = previous

    def __call__(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            self.previous(unraisable)


def _exit(number: int, frame: FrameType | None = None) -> None:
    os.write(2, b"mnistcnn: stopped immediately\n")
    os._exit(128 + number)


def _set_handlers(handler: Handler) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def exit_immediately() -> None:
    """Exit with one line at the next stop signal: for start-up, when there is nothing to save."""
    _set_handlers(_exit)


def install_handlers() -> None:
    """Raise Stopped at the next stop signal unless it is deferred; exit at the second Ctrl-C.

    Call it from the main thread, the only one that Python interrupts.
    """
    global _handler, _watcher
    _handler = _StopHandler()
    if os.name == "posix":  # elsewhere the wakeup file descriptor would have to be a socket
        if _watcher is None:
            _watcher = SecondInterruptWatcher()
            _watcher.start()
        _watcher.interrupts = 0
        signal.set_wakeup_fd(_watcher.writer)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)
    _set_handlers(_handler)


def raise_if_stopped() -> None:
    """Check for a stop signal that was deferred, or that Python could not raise.

    Raises Stopped if there was one.
    """
    if _handler.received is not None:
        raise Stopped(_handler.received)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Raise no stop signal inside the context, except by :func:`raise_if_stopped`.

    A signal that is still pending is raised at the end of the outermost context.
    """
    handler, was_deferring = _handler, _handler.deferring
    handler.deferring = True
    try:
        yield
    finally:
        handler.deferring = was_deferring
    if not was_deferring:
        raise_if_stopped()
