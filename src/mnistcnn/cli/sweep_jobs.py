"""List the jobs of a sweep: all combinations of values, except for settings that are paired."""

import itertools
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import ListConfig, OmegaConf

from mnistcnn.system.errors import SettingError, UsageError

PAIRS = "hydra.sweeper.pairs"


def read_pairs(value: Any) -> list[list[str]]:
    """Return ``hydra.sweeper.pairs`` as lists of settings; a single pair needs no outer list.

    Raises SettingError if it is something else.
    """
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value)
    if value in (None, []):
        return []
    if isinstance(value, list):
        pairs = value if any(isinstance(each, list) for each in value) else [value]
        if all(isinstance(pair, list) and all(map(_is_name, pair)) for pair in pairs):
            return pairs
    raise SettingError(PAIRS, value, "a list of settings, such as [model,optimizer.lr]")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def sweep_jobs(overrides: Sequence[Override], pairs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of each job, in the order of the settings as typed.

    Of settings with several values, each value of one is combined with each of another; but the
    settings of an element of ``pairs`` take their first values together, then their second ones,
    and so on. Raises UsageError if a pair has a setting without values, or different numbers of
    values.
    """
    last = {each.key_or_group: each for each in overrides}  # the last one counts
    values = {name: _values(each) for name, each in last.items()}
    group_of = {name: pair for pair in pairs for name in pair}
    _check_pairs(pairs, values)
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key in values:
        names = tuple(group_of.get(key, [key]))
        groups[names] = list(zip(*(values[name] for name in names), strict=True))
    jobs = []
    for combination in itertools.product(*groups.values()):
        chosen = dict(zip(itertools.chain(*groups), itertools.chain(*combination), strict=True))
        jobs.append([f"{last[name].get_key_element()}={chosen[name]}" for name in values])
    return jobs


def _values(override: Override) -> list[str]:
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise UsageError(
            f"{override.input_line}: an interval needs a search, hydra/sweeper=optuna; otherwise "
            "give values, separated by commas"
        )
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def _check_pairs(pairs: Sequence[Sequence[str]], values: dict[str, list[str]]) -> None:
    names = [name for pair in pairs for name in pair]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{PAIRS}: {repeated} occurs twice")
    for pair in pairs:
        if len(pair) < 2:
            raise UsageError(
                f"{PAIRS}: a pair has two settings or more, as in [model,optimizer.lr]"
            )
        for name in pair:
            if name not in values:
                raise UsageError(f"{PAIRS}: {name} has no values: write {name}=...")
        counts = {name: len(values[name]) for name in pair}
        if len(set(counts.values())) > 1:
            text = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise UsageError(f"{PAIRS}: these settings need the same number of values: {text}")
