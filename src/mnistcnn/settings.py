"""How a room declares its settings: plain dataclass fields that know what they allow.

A settings dataclass gives types and ranges and no defaults: the values live in ``conf/``.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from mnistcnn.errors import SettingError

_RULE = "rule"


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds; NaN and infinities never lie in a range."""

    low: float
    high: float
    above: bool  # the lower bound itself is excluded

    def allows(self, value: Any) -> bool:
        if not isinstance(value, int | float):
            return False
        inside = self.low < value if self.above else self.low <= value
        return math.isfinite(value) and inside and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number {'above' if self.above else 'of at least'} {self.low}"
        if self.above:
            return f"a number above {self.low} and at most {self.high}"
        return f"a number from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    def allows(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


def number(low: float, high: float = math.inf, *, above: bool = False) -> Any:
    """A field (or each element of a list field) in [low, high], or (low, high] if ``above``."""
    return dataclasses.field(metadata={_RULE: Range(low, high, above)})


def choice(*names: str) -> Any:
    """A field that holds one of ``names``."""
    return dataclasses.field(metadata={_RULE: Choice(names)})


def check(settings: Any, prefix: str = "") -> None:
    """Check every field of a settings dataclass against its rule, and then the dataclass's own.

    Where a rule stands beside a list, the list must hold at least one element, and each must pass.
    ``None`` passes: whether a field may be None is a matter of its type. A dataclass may add rules
    over several fields in a method ``problems()`` that yields ``(field, allowed)`` pairs.

    Raises SettingError with the full name of the first setting that is not allowed.
    """
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            check(value, f"{key}.")
        elif rule := field.metadata.get(_RULE):
            if value == []:
                raise SettingError(key, value, "a list with at least one element")
            elements = value if isinstance(value, list) else [value]
            if not all(element is None or rule.allows(element) for element in elements):
                each = "a list in which each element is " if isinstance(value, list) else ""
                raise SettingError(key, value, f"{each}{rule}")
    problems: Iterator[tuple[str, str]] = getattr(settings, "problems", lambda: iter(()))()
    for name, allowed in problems:
        raise SettingError(prefix + name, getattr(settings, name), allowed)
