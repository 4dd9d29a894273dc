"""A function in a process of its own, so that its end is not the end of who called it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from mnistcnn.errors import INTERRUPTED

# A server that has imported everything and done nothing yet forks in no time, and safely: it has
# no threads and no CUDA.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 10.0  # seconds that an interrupted process has to put its things in order


def call(function: Callable[..., Any], *arguments: Any, preload: Sequence[str] = ()) -> int:
    """Run ``function(*arguments)`` in a new process, which ends with this one at the latest.

    Both must be picklable. Returns the exit code: 0, that of a ``SystemExit``, 130 after an
    interrupt, 1 after any other exception, and minus the signal's number where a signal ended it.
    An interrupt of this process interrupts the other, waits for it and is raised again.
    ``preload`` names modules that the other will need, to be imported once for all of them.
    """
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([function.__module__, *preload])
        _start_server()
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # a worker of joblib's: its own method is none that a child could be told of
        multiprocessing.set_start_method(METHOD, force=True)
    process = context.Process(target=_watched, args=(function, *arguments))
    process.start()
    try:
        process.join()
    except BaseException:  # an interrupt, or what a launcher raises when its time is out
        _interrupt(process)
        raise
    return process.exitcode or 0


def describe(exit_code: int) -> str:
    """An exit code of :func:`call` other than 0 in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _start_server() -> None:
    """The server imports for seconds, in which an interrupt would end it with a traceback.

    What it forks inherits that it does not listen, and takes that back in ``_watched``.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # else started below, where it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(process: Any) -> None:
    """A terminal tells both processes; who interrupts this one alone means the other as well."""
    process.join(PATIENCE / 10)
    if process.is_alive():
        os.kill(process.pid, signal.SIGINT)
        process.join(PATIENCE)
    process.kill()
    process.join()


def _watched(function: Callable[..., Any], *arguments: Any) -> None:
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    if not parent.is_alive():  # it did not wait until the server had imported everything
        return
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        if METHOD == "forkserver":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        function(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
