"""Collect the content of a page about groups of runs: a table, intervals and curves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn.experiments.curves import (
    errors_by_epoch,
    errors_by_samples,
    select_curves,
    split_by_history,
)
from mnistcnn.experiments.groups import (
    Group,
    display_key,
    display_value,
    varying_keys,
)
from mnistcnn.experiments.statistics import Mean, format_percent
from mnistcnn.pages.render import shorten
from mnistcnn.runs.directory import RUN_PAGE
from mnistcnn.runs.store import SPLITS, Run

GROUP_SCRIPTS = ["charts.js", "groups.js"]  # of a page with groups
MAX_CURVE_POINTS = 200  # of a line; of a longer history, only some epochs
MAX_THIN_CURVES = 20  # runs of a group with a line of their own
MAX_NAME = 120  # characters of a group's name


@dataclass(frozen=True)
class SweepContent:
    """The content of a page: ``table`` for the template, ``charts`` for the script."""

    table: dict[str, Any]
    charts: dict[str, Any]


def sweep_content(
    groups: dict[str, Group], page_dir: Path, directories: Sequence[str] = ()
) -> SweepContent:
    """Return the content for a page in ``page_dir``, from which the runs' pages are linked.

    ``groups`` have unique names, such as those of :func:`name_groups`. ``directories`` are the
    groups' directories, if they tell the groups apart.
    """
    varying = varying_keys(run for group in groups.values() for run in group.runs)
    keys = [key for key in varying if key != "seed"]
    columns = [*(["directory"] if directories else []), *map(display_key, keys)]
    rows = []
    for index, (name, group) in enumerate(groups.items()):
        settings = [display_value(group.settings.get(key)) for key in keys]
        cells = [*directories[index : index + 1], *settings] or [name]
        rows.append({"name": name, "settings": cells, **_table_row(group, page_dir)})
    charts = {
        "forest": [_forest_row(name, group) for name, group in groups.items()],
        "curves": _curves(groups),
        "samples": _samples(list(groups.values()), keys, directories),
    }
    return SweepContent({"keys": columns or ["group"], "rows": rows}, charts)


def page_link(run: Run, page_dir: Path) -> str | None:
    """Return the path of a run's page relative to ``page_dir``, with slashes; None if it has none.

    Also None if one of them is outside of the working directory: the path would have the names of
    directories that have nothing to do with the project.
    """
    # abspath: neither may lead out of it by ".."
    paths = (run.path / RUN_PAGE, page_dir, ".")
    page, folder, current = (Path(os.path.abspath(path)) for path in paths)  # noqa: PTH100
    inside = page.is_relative_to(current) and folder.is_relative_to(current)
    if not (page.is_relative_to(folder) or inside) or not page.is_file():
        return None
    return Path(os.path.relpath(page, folder)).as_posix()


# The table ---------------------------------------------------------------------------------------


def _table_row(group: Group, page_dir: Path) -> dict[str, Any]:
    seconds = [run.seconds for run in group.runs if run.seconds is not None]
    accuracies = [group.mean(split, "accuracy") for split in SPLITS]
    error = group.mean("test", "error")
    return {
        "count": len(group.runs),
        "scores": [(mean.mean, format_percent(mean)) for mean in accuracies],
        "error": (error.mean, format_percent(error, with_interval=True)),
        "epochs": float(np.mean([run.epochs for run in group.runs])),
        "seconds": float(np.mean(seconds)) if seconds else None,
        "members": [
            {
                "name": f"seed {run.seed}",
                "link": page_link(run, page_dir),
                "scores": [run.measure(split, "accuracy") for split in SPLITS],
                "error": run.measure("test", "error"),
                "epochs": run.epochs,
                "seconds": run.seconds,
            }
            for run in group.runs
        ],
    }


# Charts ------------------------------------------------------------------------------------------


def _forest_row(name: str, group: Group) -> dict[str, Any]:
    """Return the mean test error, its interval and the errors of the runs.

    The interval of a single run is that of its test accuracy (Wilson).
    """
    mean = group.mean("test", "error")
    interval = mean.ci95 if mean.n > 1 else group.runs[0].error_ci95
    low, high = (None, None) if interval is None else (max(0, interval[0]), min(1, interval[1]))
    text = format_percent(Mean(mean.n, mean.mean, None, interval), with_interval=True)
    return {
        "name": shorten(name, MAX_NAME),
        "value": mean.mean,
        "low": low,
        "high": high,
        "points": group.values("test", "error").tolist() if mean.n > 1 else [],
        "text": f"{text}, n = {mean.n}",
    }


def _curves(groups: dict[str, Group]) -> list[dict[str, Any]]:
    """Return the validation errors of groups whose runs all have a history.

    Of a large group, there is only the mean, up to the last epoch of the shortest run.
    """
    readable, _ = split_by_history(groups)
    visible, _ = select_curves(readable)
    curves = []
    for name, group in readable.items():
        errors = errors_by_epoch(group)
        longest, shortest = max(map(len, errors)), min(map(len, errors))
        step = -(-longest // MAX_CURVE_POINTS)
        mean = np.mean([run[:shortest] for run in errors], axis=0)
        runs = errors if 1 < len(errors) <= MAX_THIN_CURVES else []
        curves.append({
            "name": shorten(name, MAX_NAME),
            "visible": name in visible,
            "mean": _points(mean, step),
            "runs": [_points(run, step) for run in runs],
        })  # fmt: skip
    return curves


def _points(errors: np.ndarray, step: int) -> list[list[float]]:
    """Return (epoch, error) of every ``step``-th epoch and of the last one."""
    epochs = dict.fromkeys([*range(1, len(errors) + 1, step), len(errors)])
    return [[epoch, round(float(errors[epoch - 1]), 6)] for epoch in epochs]


def _samples(
    groups: Sequence[Group], keys: Sequence[str], directories: Sequence[str]
) -> list[dict[str, Any]]:
    """Return training and test error for each number of training images, if that varies."""
    if "data.fraction" not in keys:
        return []
    others = [key for key in keys if key != "data.fraction"]
    by_directory: dict[str, list[Group]] = {}
    for group, directory in zip(groups, directories or [""] * len(groups), strict=True):
        by_directory.setdefault(directory, []).append(group)
    return [
        {
            "name": shorten(" ".join([*filter(None, [directory, name]), split, "error"]), MAX_NAME),
            "split": split,
            "points": rows[:, [0, column, column + 1, column + 2]].tolist(),
        }
        for directory, members in by_directory.items()
        for name, rows in errors_by_samples(members, others).items()
        for split, column in (("training", 1), ("test", 4))
    ]
