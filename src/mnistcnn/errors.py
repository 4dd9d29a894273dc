"""Errors whose text is written for the person at the terminal."""


INTERRUPTED = 130  # exit code of who was interrupted, as a shell has it


class PlainError(Exception):
    """Something went wrong while running; the message says what, and what to do about it."""

    exit_code = 1


class UsageError(PlainError):
    """What was asked for cannot be done: a setting, a file or a directory is not as it must be."""

    exit_code = 2


class SettingError(UsageError):
    """The value of a setting is not allowed.

    ``key`` is the setting's full name as it is typed on the command line, e.g. ``data.fraction``.
    """

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key}={value} is not possible: it must be {allowed}")
        self.key = key
