"""Run a function in a subprocess: a crash or an out-of-memory kill does not affect the caller."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mnistcnn.system import signals
from mnistcnn.system.signals import Stopped

# A fork server has imported everything and has neither threads nor CUDA: it forks quickly and
# safely.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
# seconds to wait before sending SIGTERM: a Ctrl-C in a terminal has already reached the child
TERM_DELAY = 1.0
STOP_TIMEOUT = 60.0  # seconds for a child to save its state before it is killed


def run_in_subprocess(
    function: Callable[..., Any], *arguments: Any, preload: Sequence[str] = ()
) -> int:
    """Run ``function(*arguments)`` in a new process and wait for it; both must be picklable.

    Return the exit code: 0, that of a ``SystemExit``, 128 plus the number of a stop signal, 1
    after any other exception, or minus the number of the signal that killed the process. If this
    process is interrupted, the child is stopped first and the interrupt is then raised again; if
    this process dies, the child ends as well. ``preload`` names modules that the fork server
    imports once for all children.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([function.__module__, *preload])
        _start_fork_server()
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # a joblib worker has its own start method, which does not exist in a child
        multiprocessing.set_start_method(START_METHOD, force=True)
    # typeshed does not declare Process for a context chosen at run time
    process = context.Process(target=_child_main, args=(function, *arguments))  # type: ignore[attr-defined]
    process.start()
    try:
        process.join()
    except BaseException as error:  # an interrupt, or the timeout exception of a launcher
        _stop(process, getattr(error, "number", signal.SIGTERM))
        raise
    return process.exitcode or 0


def describe_exit_code(exit_code: int) -> str:
    """Describe a non-zero exit code of :func:`run_in_subprocess`."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _start_fork_server() -> None:
    """Start the fork server with stop signals blocked.

    The server imports modules for seconds; an interrupt in this time would end it with a
    traceback. Its children inherit the blocked signals; ``_child_main`` unblocks them.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # started later, it would unblock the signals
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _stop(process: Any, number: int) -> None:
    process.join(TERM_DELAY)
    if process.is_alive():
        # never SIGINT: it would be the second one if the terminal has sent the first
        os.kill(process.pid, signal.SIGTERM if number == signal.SIGINT else number)
        process.join(STOP_TIMEOUT)
    process.kill()
    process.join()


def _child_main(function: Callable[..., Any], *arguments: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    signals.install_handlers()

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_TIMEOUT)
        os._exit(1)

    if not parent.is_alive():  # it ended while the fork server was importing
        return
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        if START_METHOD == "forkserver":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
        function(*arguments)
    except Stopped as stop:
        sys.exit(signals.exit_code(stop))
