"""Run a command: set up logging and stop signals, report errors, exit with a code.

Exit codes: 0 success; 1 an error during the run; 2 an invalid request; 130, 143 and 138 stopped by
Ctrl-C, SIGTERM and SIGUSR1.
"""

import os
import sys
from collections.abc import Callable

from mnistcnn.system import signals
from mnistcnn.system.errors import format_error, report_error
from mnistcnn.system.logs import setup_logging


def run_cli(body: Callable[[], int | None]) -> None:
    """Run ``body``, which returns the exit code (None is 0), and exit unless the code is 0.

    Errors are reported in a line or two, and with their traceback if HYDRA_FULL_ERROR is 1.
    """
    show_traceback = wants_traceback()
    setup_logging()
    signals.install_handlers()
    try:
        code = body()
    except KeyboardInterrupt as stop:
        code = report_interrupt(stop)
    except BrokenPipeError:
        code = 0
    except Exception as error:
        code = report_error(error, show_traceback)
    try:
        flush_stdout()
    except OSError as error:
        code = code or report_error(error, show_traceback)
    if code:
        sys.exit(code)


def wants_traceback() -> bool:
    """Return whether HYDRA_FULL_ERROR, Hydra's own variable for tracebacks, is 1."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def report_interrupt(stop: KeyboardInterrupt) -> int:
    """Print why the command was interrupted and return its exit code."""
    print(f"mnistcnn: {format_error(stop)}", file=sys.stderr)
    return signals.exit_code(stop)


def flush_stdout() -> None:
    """Flush standard output; a closed pipe is not an error, now or at the interpreter's exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed again at exit
        if not isinstance(error, BrokenPipeError):
            raise
