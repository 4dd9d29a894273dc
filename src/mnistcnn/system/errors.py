"""Define exceptions with messages for the user, and report exceptions."""

import sys
import traceback


class MnistcnnError(Exception):
    """An error during a run; the message describes the problem and its remedy."""

    exit_code = 1
    retryable = False  # whether the same command may succeed later


class WriteError(MnistcnnError):
    """A file cannot be written: the disk is full, or the directory is missing or read-only."""

    retryable = True


class UsageError(MnistcnnError):
    """An invalid request: a setting, a file or a directory cannot be used as given."""

    exit_code = 2


class CorruptFileError(UsageError):
    """A required file is missing or corrupt; a sweep then restarts the run."""


class SettingError(UsageError):
    """The value of a setting is not allowed.

    ``key`` is the setting's full name as typed on the command line, e.g. ``data.fraction``.
    """

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key}={value} is not allowed: it must be {allowed}")
        self.key = key


def format_error(error: BaseException) -> str:
    """Return the error in one or two lines for the user."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, MnistcnnError):
        return str(error)
    first_line = next(iter(str(error).splitlines()), "")  # CUDA errors have many lines
    return f"{type(error).__name__}: {first_line} (HYDRA_FULL_ERROR=1 shows the traceback)"


def report_error(error: Exception, show_traceback: bool = False) -> int:
    """Print an error to standard error and return its exit code."""
    if show_traceback:
        traceback.print_exception(error)
    print(f"mnistcnn: {format_error(error)}", file=sys.stderr)
    return error.exit_code if isinstance(error, MnistcnnError) else 1
