"""Group runs that differ only in their seeds, and label groups by the settings that vary."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnistcnn.config.load import parse_yaml
from mnistcnn.experiments import statistics
from mnistcnn.experiments.statistics import Mean
from mnistcnn.runs.identity import NON_IDENTITY_KEYS
from mnistcnn.runs.store import Run


def varying_keys(runs: Iterable[Run]) -> list[str]:
    """Return the settings that differ between ``runs``, in the order of the configuration.

    If the selected option of a config group varies, the group's other settings are included only if
    they also vary between runs with the same option: ``model=convnet,custom`` gives ``model.name``
    and no other key of ``model``. A precision that was chosen automatically is included only if it
    differs between runs whose other settings are equal.
    """
    runs = [run for run in runs if run.settings]
    all_keys = dict.fromkeys(key for run in runs for key in run.settings)
    keys = [key for key in all_keys if key not in NON_IDENTITY_KEYS]
    varying_options = {key for key in keys if key.endswith(".name") and _differ(runs, key)}
    varying = []
    for key in keys:
        option = key.rpartition(".")[0] + ".name"
        if key == "precision":
            is_varying = _precision_varies(runs)
        elif key in varying_options or option not in varying_options:
            is_varying = _differ(runs, key)
        else:
            is_varying = any(_differ(part, key) for part in _split_by(runs, option))
        if is_varying:
            varying.append(key)
    return varying


def _differ(runs: Iterable[Run], key: str) -> bool:
    return len({_as_json(run.settings.get(key)) for run in runs}) > 1


def _precision_varies(runs: Sequence[Run]) -> bool:
    if len({run.typed_settings.get("precision") for run in runs}) > 1:
        return True
    chosen: dict[str, set[object]] = {}
    for run in runs:
        if run.settings["precision"] != "auto":  # the run ended before it was chosen
            chosen.setdefault(typed_key(run), set()).add(run.settings["precision"])
    return any(len(values) > 1 for values in chosen.values())


def _split_by(runs: Sequence[Run], key: str) -> list[list[Run]]:
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(_as_json(run.settings.get(key)), []).append(run)
    return list(parts.values())


def label(settings: dict[str, Any], keys: Iterable[str]) -> str:
    """Return settings as command-line overrides: ``aug=full data.fraction=0.5``."""
    return " ".join(f"{display_key(key)}={display_value(settings.get(key))}" for key in keys)


def run_name(run: Run, keys: Iterable[str]) -> str:
    """Return a run's settings as :func:`label`, or its directory's name if it has none."""
    return (run.settings and label(run.settings, keys)) or run.path.name


def matches(settings: dict[str, Any], overrides: Iterable[str]) -> bool:
    """Return whether settings have the values of all overrides: ``["aug=full", "seed=1"]``."""
    for override in overrides:
        key, _, value = override.partition("=")
        name = full_key(key, settings)
        if name is None:
            return False
        if display_value(settings[name]) not in (value, display_value(_parse_value(value))):
            return False
    return True


def _parse_value(value: str) -> Any:
    try:
        return parse_yaml(f"value: {value}")["value"]
    except Exception:  # not YAML
        return value


def full_key(key: str, settings: dict[str, Any]) -> str | None:
    """Return the full name of a setting as typed: ``aug.name`` for ``aug``; None if unknown."""
    return next((name for name in (key, f"{key}.name") if name in settings), None)


def display_key(key: str) -> str:
    """Return a setting's name as typed on the command line: ``aug`` for ``aug.name``."""
    return key.removesuffix(".name")


def display_value(value: Any) -> str:
    """Return a setting's value as typed on the command line; lists have no spaces."""
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        return value
    return "null" if value is None else str(value).replace(" ", "")


def rounded_value(value: Any) -> str:
    """Return a setting's value for display, rounded to three digits if it has more than five."""
    text = display_value(value)
    if isinstance(value, float) and float(f"{value:.5g}") != value:
        return f"{value:.3g}"
    return text


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds, sorted by seed."""

    runs: list[Run]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the first run by full name; only the seed of the others differs."""
        return self.runs[0].settings

    @property
    def seeds(self) -> list[int]:
        """Seed of each run."""
        return [run.seed for run in self.runs]

    def values(self, split: str, name: str) -> np.ndarray:
        """Return the measure ``name`` of each run on ``split``: float64 (n,)."""
        return np.array([run.measure(split, name) for run in self.runs], dtype=np.float64)

    def mean(self, split: str, name: str) -> Mean:
        """Return the mean over the runs. Raises ValueError if a run lacks the measure."""
        return statistics.mean_interval(self.values(split, name))


def group_key(run: Run) -> str:
    """Return text that is equal for runs that differ only in their seeds."""
    return _key(run.settings)


def typed_key(run: Run) -> str:
    """Return the :func:`group_key` that runs have before ``precision=auto`` is replaced."""
    return _key(run.typed_settings)


def _key(settings: dict[str, Any]) -> str:
    omitted = ("seed", *NON_IDENTITY_KEYS)
    identity = {key: value for key, value in settings.items() if key not in omitted}
    return _as_json(identity)


def _as_json(value: Any) -> str:
    # a file that was changed by hand may have a set
    return json.dumps(value, sort_keys=True, default=str)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Group usable runs by their settings without the seed, in the order of their first runs.

    Of several runs with the same settings and seed, :func:`without_repetitions` keeps one.
    """
    runs_by_seed: dict[str, dict[int, Run]] = {}
    for run in without_repetitions(run for run in runs if run.usable):
        runs_by_seed.setdefault(group_key(run), {})[run.seed] = run
    return [Group([runs[seed] for seed in sorted(runs)]) for runs in runs_by_seed.values()]


def name_groups(groups: Iterable[Group]) -> dict[str, Group]:
    """Return the groups of :func:`group_runs` by the settings that vary, as :func:`label`."""
    groups = list(groups)
    varying = varying_keys(run for group in groups for run in group.runs)
    keys = [key for key in varying if key != "seed"]
    names = [label(group.settings, keys) or "all runs" for group in groups]
    if len(set(names)) < len(names):  # numbers that differ only after many digits
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return dict(zip(names, groups, strict=True))


def without_repetitions(runs: Iterable[Run]) -> list[Run]:
    """Return the first run for each settings and seed; evaluations only if it was not trained."""
    kept: dict[tuple[str, int], Run] = {}
    for run in runs:
        first = kept.setdefault((group_key(run), run.seed), run)
        if first.is_evaluation and not run.is_evaluation:
            kept[group_key(run), run.seed] = run
    return list(kept.values())


def best_group(groups: Iterable[Group]) -> Group:
    """Return the group with the lowest mean validation error."""
    return min(groups, key=lambda group: group.mean("validation", "error").mean)
