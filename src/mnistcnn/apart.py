"""A function in a process of its own, so that its end is not the end of who called it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mnistcnn import signals
from mnistcnn.signals import Stopped

# A server that has imported everything and done nothing yet forks in no time, and safely: it has
# no threads and no CUDA.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 60.0  # seconds that a process has to put its things in order once it was asked to stop
GRACE = 1.0  # seconds until it is asked: who pressed Ctrl-C at a terminal has asked it already


def call(function: Callable[..., Any], *arguments: Any, preload: Sequence[str] = ()) -> int:
    """Run ``function(*arguments)`` in a new process, which ends with this one at the latest.

    Both must be picklable. Returns the exit code: 0, that of a ``SystemExit``, 128 and the number
    of the signal where one asked it to stop (:mod:`signals`), 1 after any other exception, and
    minus the number where a signal killed it. What interrupts this process stops the other, waits
    for it and is raised again.
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
    except BaseException as error:  # an interrupt, or what a launcher raises when its time is out
        _stop(process, getattr(error, "number", signal.SIGTERM))
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

    It ends with this process, and by no signal. What it forks inherits that it does not listen, and
    takes that back in ``_watched``.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # else started below, where it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(process: Any, number: int) -> None:
    process.join(GRACE)
    if process.is_alive():
        # never a Ctrl-C, which would be its second one if the terminal has sent it the first
        os.kill(process.pid, signal.SIGTERM if number == signal.SIGINT else number)
        process.join(PATIENCE)
    process.kill()
    process.join()


def _watched(function: Callable[..., Any], *arguments: Any) -> None:
    parent = multiprocessing.parent_process()
    signals.listen()

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)

    if not parent.is_alive():  # it did not wait until the server had imported everything
        return
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        if METHOD == "forkserver":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
        function(*arguments)
    except Stopped as stop:
        sys.exit(signals.exit_code(stop))
