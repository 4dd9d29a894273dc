"""Errors whose text is written for the person at the terminal."""


class PlainError(Exception):
    """Something went wrong while running; the message says what, and what to do about it."""

    exit_code = 1
    may_pass = False  # the same may go well at another time


class WriteError(PlainError):
    """A file cannot be written: the disk is full, its directory is gone or may not be changed."""

    may_pass = True


class UsageError(PlainError):
    """What was asked for cannot be done: a setting, a file or a directory is not as it must be."""

    exit_code = 2


class DamagedError(UsageError):
    """A file is not what was written, or is gone: nothing can be made of it any more."""


class SettingError(UsageError):
    """The value of a setting is not allowed.

    ``key`` is the setting's full name as it is typed on the command line, e.g. ``data.fraction``.
    """

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key}={value} is not possible: it must be {allowed}")
        self.key = key
