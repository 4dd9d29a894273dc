"""Declare the allowed values of settings fields, and check them.

A settings dataclass has types and constraints but no defaults: the values are in ``conf/``.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from mnistcnn.system.errors import SettingError

_CONSTRAINT = "constraint"


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds; NaN and infinity are never in a range."""

    low: float
    high: float
    exclude_low: bool

    def allows(self, value: Any) -> bool:
        """Return whether ``value`` is a number in this range."""
        if not isinstance(value, int | float):
            return False
        above_low = self.low < value if self.exclude_low else self.low <= value
        return math.isfinite(value) and above_low and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number {'above' if self.exclude_low else 'of at least'} {self.low}"
        if self.exclude_low:
            return f"a number above {self.low} and at most {self.high}"
        return f"a number from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    def allows(self, value: str) -> bool:
        """Return whether ``value`` is one of these names."""
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


def number(low: float, high: float = math.inf, *, exclude_low: bool = False) -> Any:
    """Return a field for a number in [low, high] or (low, high], or for a list of them."""
    return dataclasses.field(metadata={_CONSTRAINT: Range(low, high, exclude_low)})


def choice(*names: str) -> Any:
    """Return a field whose value is one of ``names``."""
    return dataclasses.field(metadata={_CONSTRAINT: Choice(names)})


def check(settings: Any, prefix: str = "") -> None:
    """Check every field of a settings dataclass against its constraint.

    A constrained list must have at least one element. None always passes: the field's type decides
    whether it may be None. A dataclass may add rules over several fields in a method
    ``problems()`` that yields pairs of a field name and the allowed values.

    Raises SettingError with the full name of the first setting that is not allowed.
    """
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            check(value, f"{key}.")
        elif constraint := field.metadata.get(_CONSTRAINT):
            if value == []:
                raise SettingError(key, value, "a list with at least one element")
            elements = value if isinstance(value, list) else [value]
            if not all(element is None or constraint.allows(element) for element in elements):
                each = "a list in which each element is " if isinstance(value, list) else ""
                raise SettingError(key, value, f"{each}{constraint}")
    problems: Iterator[tuple[str, str]] = getattr(settings, "problems", lambda: iter(()))()
    for name, allowed in problems:
        raise SettingError(prefix + name, getattr(settings, name), allowed)
