"""Run a function in a subprocess: a crash or an out-of-memory kill does not affect the caller."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from mnistcnn.system import signals
from mnistcnn.system.signals import Stopped

# A fork server has imported everything and has neither threads nor CUDA: it forks quickly and
# safely.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
# seconds to wait before sending SIGTERM: a Ctrl-C in a terminal has already reached the child
TERM_DELAY = 1.0
STOP_TIMEOUT = 60.0  # seconds for a child to save its state before it is killed


def start_process(
    function: Callable[..., Any], *arguments: Any, preload: Sequence[str] = ()
) -> BaseProcess:
    """Start ``function(*arguments)`` in a new process; both must be picklable.

    Its exit code is 0, that of a ``SystemExit``, 128 plus the number of a stop signal, 1 after any
    other exception, or minus the number of the signal that killed it. If this process dies, the
    child ends as well. ``preload`` names modules that the fork server imports once for all
    children.
    """
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([function.__module__, *preload])
        _start_fork_server()
    # typeshed does not declare Process for a context chosen at run time
    process: BaseProcess = context.Process(target=_child_main, args=(function, *arguments))  # type: ignore[attr-defined]
    process.start()
    return process


def stop_children(number: int) -> None:
    """Stop all children by a signal, wait for them, and kill those that do not end.

    SIGINT is sent as SIGTERM: it would be the second one if the terminal has sent the first.
    """
    # not a list of the caller, which may lack a child whose start was interrupted
    children = multiprocessing.active_children()
    with signals.deferred():  # a second SIGTERM would leave children running
        _join_all(children, TERM_DELAY)
        for child in children:
            assert child.pid is not None  # it has been started
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                if child.is_alive():
                    os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)
        _join_all(children, STOP_TIMEOUT)
        for child in children:
            child.kill()
            child.join()


def _join_all(children: Sequence[BaseProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))


def describe_exit_code(exit_code: int) -> str:
    """Describe a non-zero exit code of :func:`start_process`."""
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
