"""What asks this process to stop (Ctrl-C, SIGTERM, SIGUSR1), and when it is heard.

Nothing here imports more than the standard library: a command listens before it imports torch.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

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
    """Hears the first signal, and takes a Ctrl-C after it at its word."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = number
            if not self.deferring:
                raise Stopped(number)
        elif number == signal.SIGINT:
            _exit(number)


_listener = _Listener()  # that of this process


def _exit(number: int, frame: FrameType | None = None) -> None:
    os.write(2, b"mnistcnn: stopped at once\n")
    os._exit(128 + number)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    if threading.current_thread() is threading.main_thread():  # nobody else can be interrupted
        for number in SIGNALS:
            signal.signal(number, handler)


def exit_at_once() -> None:
    """End this process in a line from the next signal on: while nothing is worth saving."""
    _handle(_exit)


def listen() -> None:
    """Raise Stopped from the next signal on; end at once where a Ctrl-C follows it."""
    global _listener
    _listener = _Listener()
    _handle(_listener)


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
    if listener.asked is not None:
        raise Stopped(listener.asked)
