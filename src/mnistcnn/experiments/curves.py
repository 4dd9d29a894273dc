"""Collect the errors of groups by epoch and by training images, and draw validation curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnistcnn.evaluation import figures
from mnistcnn.experiments.groups import Group, label
from mnistcnn.runs.directory import HISTORY, VALIDATION_CURVES

MAX_CURVES = 12  # more lines in one picture are hard to distinguish


def draw_curves(path: Path, groups: dict[str, Group]) -> None:
    """Draw the validation error of the groups, by name, that :func:`select_curves` selects."""
    selected, note = select_curves(groups)
    errors = {name: errors_by_epoch(group) for name, group in selected.items()}
    figures.overlaid_curves(path, errors, note)


def select_curves(groups: dict[str, Group]) -> tuple[dict[str, Group], str]:
    """Return the groups to draw, in their order, and a note that says how many are left out.

    These are the first group and those with the lowest validation error.
    """
    if len(groups) <= MAX_CURVES:
        return groups, ""
    first, *others = groups
    errors = {name: groups[name].mean("validation", "error").mean for name in others}
    best = {first, *sorted(others, key=errors.__getitem__)[: MAX_CURVES - 1]}
    note = (
        f"The first group and the {MAX_CURVES - 1} of {len(others)} others with the lowest "
        f"validation error; {len(groups) - MAX_CURVES} are not shown"
    )
    return {name: groups[name] for name in groups if name in best}, note


def split_by_history(groups: dict[str, Group]) -> tuple[dict[str, Group], list[str]]:
    """Return the groups whose runs all have a history, and a line about the others.

    There is no line if no run has the file, as for evaluations.
    """
    readable = {
        name: group for name, group in groups.items() if all(run.history for run in group.runs)
    }
    runs = [run for name, group in groups.items() if name not in readable for run in group.runs]
    broken = [str(run.path) for run in runs if not run.history]
    if not readable and not any((run.path / HISTORY).exists() for run in runs):
        return {}, []
    left_out = [name for name in groups if name not in readable]
    line = (
        f"Not in {VALIDATION_CURVES}: {', '.join(left_out)}. No readable {HISTORY} in "
        f"{', '.join(broken)}."
    )
    return readable, [line] if left_out else []


def errors_by_epoch(group: Group) -> list[np.ndarray]:
    """Return each run's validation error after each epoch, (epochs,)."""
    return [np.array([1 - row["val_accuracy"] for row in run.history]) for run in group.runs]


def errors_by_samples(groups: Sequence[Group], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return, by label of ``keys``, the errors for each number of training images.

    The arrays are (K, 7), sorted by the number of training images. The columns are that number,
    then the mean and the low and high ends of its 95% interval, of the training error and then of
    the test error.
    """
    series: dict[str, list[list[float]]] = {}
    for group in groups:
        row: list[float] = [group.runs[0].metrics["data"]["train"]]
        for split in ("train", "test"):
            mean = group.mean(split, "error")
            row += [mean.mean, *(mean.ci95 or (mean.mean, mean.mean))]
        series.setdefault(label(group.settings, keys), []).append(row)
    return {name: np.array(sorted(rows)) for name, rows in series.items()}
