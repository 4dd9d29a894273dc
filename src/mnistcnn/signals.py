"""What asks this process to stop (Ctrl-C, SIGTERM, SIGUSR1), and when it is heard.

Nothing here imports more than the standard library: a command listens before it imports torch.
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


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = signal.Signals(number)

    def __str__(self) -> str:
        if self.number == signal.SIGINT:
            return "interrupted from the keyboard"
        return f"stopped by {self.number.name}"


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """As a shell has it: 128 and the number of the signal."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


class _Listener:
    """Hears the first signal."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first = self.asked is None
        if first:
            self.asked = number
        if not self.deferring and (first or number != signal.SIGINT):
            raise Stopped(self.asked)


_listener = _Listener()  # that of this process


class _Impatience(threading.Thread):
    """Hears every signal at once, and ends this process at the second Ctrl-C.

    Python runs handlers in the main thread only, after whatever it is at: a backward pass may take
    seconds, and two signals meanwhile would be one.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.interrupts = 0
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def run(self) -> None:
        while True:
            self.interrupts += os.read(self.reader, 1)[0] == signal.SIGINT
            if self.interrupts > 1:
                _exit(signal.SIGINT)


_impatience: _Impatience | None = None


class _Unraisable:
    """Says nothing of a Stopped that Python lets nowhere out: :func:`check` raises it again."""

    def __init__(self, others: Callable[[Any], object]) -> None:
        self.others = others

    def __call__(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            self.others(unraisable)


def _exit(number: int, frame: FrameType | None = None) -> None:
    os.write(2, b"mnistcnn: stopped at once\n")
    os._exit(128 + number)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def exit_at_once() -> None:
    """End this process in a line from the next signal on: while nothing is worth saving."""
    _handle(_exit)


def listen() -> None:
    """Raise Stopped at the next signal, unless it is :func:`deferred`; end at a second Ctrl-C.

    For the main thread alone: no other can be interrupted.
    """
    global _listener, _impatience
    _listener = _Listener()
    if os.name == "posix":  # elsewhere it would take a socket
        if _impatience is None:
            _impatience = _Impatience()
            _impatience.start()
        _impatience.interrupts = 0
        signal.set_wakeup_fd(_impatience.writer)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)
    _handle(_listener)


def check() -> None:
    """Raise Stopped if a signal was raised where Python lets nothing out, as in a destructor."""
    if _listener.asked is not None:
        raise Stopped(_listener.asked)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Let a signal wait as long as the context lasts; what it gives tells its number, or None.

    Raises Stopped at the end of the context where nobody did before.
    """
    listener = _listener
    listener.deferring = True
    try:
        yield lambda: listener.asked
    finally:
        listener.deferring = False
    check()
