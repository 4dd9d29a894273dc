"""Summarise all runs below a directory: a CSV file, a Markdown table and pictures."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mnistcnn.evaluation import figures
from mnistcnn.experiments.documents import markdown_table
from mnistcnn.experiments.groups import (
    Group,
    display_key,
    display_value,
    group_runs,
    label,
    sort_runs,
    varying_keys,
)
from mnistcnn.experiments.statistics import Mean
from mnistcnn.runs.store import SPLITS, Run, find_runs
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError

log = logging.getLogger(__name__)

SUMMARY_CSV = "summary.csv"
SUMMARY_MD = "summary.md"
VALIDATION_CURVES = "validation_curves.png"
ERROR_BY_SAMPLES = "error_by_samples.png"

MAX_CURVES = 12  # more lines in one picture are hard to distinguish


def write_summary(path: Path) -> str:
    """Write ``summary.csv``, ``summary.md`` and pictures of all runs below ``path``.

    Return the text of ``summary.md`` without its pictures. Raises MnistcnnError, after writing
    everything else, if a picture cannot be drawn.
    """
    runs = find_runs(path)
    keys = varying_keys(runs)
    runs = sort_runs(runs, keys)
    write_text(path / SUMMARY_CSV, _csv(runs, keys, path))
    groups = group_runs(runs)
    draw_functions = _draw_functions(groups, [key for key in keys if key != "seed"])
    text = _markdown(runs, groups, keys)
    images = [f"![{name}]({name})" for name in draw_functions]
    write_text(path / SUMMARY_MD, "\n\n".join([text, *images]) + "\n")
    failures = []
    for name, draw in draw_functions.items():
        try:
            draw(path / name)
        except Exception as error:
            log.debug("%s was not written", name, exc_info=True)
            failures.append(f"{name} ({type(error).__name__}: {error})")
    if failures:
        raise MnistcnnError(
            f"the tables of the summary were written, but not {', '.join(failures)}"
        )
    return text


# Tables ------------------------------------------------------------------------------------------


def format_percent(mean: Mean, with_interval: bool = False) -> str:
    """Format mean, standard deviation and 95% interval: ``97.44 ± 0.18 (97.21 to 97.66)``."""
    text = f"{100 * mean.mean:.2f}"
    if mean.sd is not None:
        text += f" ± {100 * mean.sd:.2f}"
    if with_interval and mean.ci95 is not None:
        low, high = mean.ci95
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    return text


def group_table(groups: Sequence[Group]) -> str:
    """Return a Markdown table of the groups' varying settings and scores in percent."""
    varying = varying_keys(run for group in groups for run in group.runs)
    keys = [key for key in varying if key != "seed"]
    header = [
        *map(display_key, keys), "n", "training", "validation", "test", "test error", "epochs",
        "seconds",
    ]  # fmt: skip
    rows = [
        [
            *(display_value(group.settings.get(key)) for key in keys),
            str(len(group.runs)),
            *(format_percent(group.mean(split, "accuracy")) for split in SPLITS),
            format_percent(group.mean("test", "error"), with_interval=True),
            _format_epochs(float(np.mean([len(run.history) for run in group.runs]))),
            f"{np.mean([run.metrics['seconds']['total'] for run in group.runs]):.1f}",
        ]
        for group in groups
    ]
    return markdown_table(header, rows)


def _format_epochs(epochs: float) -> str:
    """Format a number of epochs, with an empty cell for 0.

    An evaluation outside its run's directory has no history.
    """
    return f"{epochs:g}" if epochs else ""


def _csv(runs: Sequence[Run], keys: Sequence[str], root: Path) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    measures = [(split, name) for split in SPLITS for name in ("accuracy", "error")]
    writer.writerow([
        *map(display_key, keys), "status", "reason",
        *(f"{split}_{name}" for split, name in measures), "epochs", "seconds", "directory",
    ])  # fmt: skip
    for run in runs:
        writer.writerow([
            *(display_value(run.settings.get(key)) for key in keys),
            run.status,
            run.reason,
            *(run.measure(*measure) for measure in measures),
            run.metrics.get("epochs"),
            run.metrics.get("seconds", {}).get("total"),
            run.path.relative_to(root).as_posix(),
        ])  # fmt: skip
    return content.getvalue()


def _markdown(runs: Sequence[Run], groups: Sequence[Group], keys: Sequence[str]) -> str:
    blocks = []
    if groups:
        blocks.append(group_table(groups))
        blocks.append("Percent: mean ± standard deviation over n seeds (95% interval of the mean).")
    incomplete = [run for run in runs if not run.complete]
    if incomplete:
        lines = "\n".join(_incomplete_line(run, keys) for run in incomplete)
        blocks.append(f"Not complete: {len(incomplete)} of {len(runs)} runs\n\n{lines}")
    return "\n\n".join(blocks)


def _incomplete_line(run: Run, keys: Sequence[str]) -> str:
    name = label(run.settings, keys) if run.settings else ""
    line = f"- {name or run.path.name}: {run.status}"
    if run.reason and not run.reason.startswith(run.status):
        line += f", {run.reason}"
    return line


# Pictures ----------------------------------------------------------------------------------------


def _draw_functions(
    groups: Sequence[Group], keys: Sequence[str]
) -> dict[str, Callable[[Path], None]]:
    """Return a drawing function for each picture's file name; empty if no run is complete."""
    functions: dict[str, Callable[[Path], None]] = {}
    if curves := curves_by_label(groups, keys):
        functions[VALIDATION_CURVES] = lambda path: figures.overlaid_curves(path, curves)
    if groups and "data.fraction" in keys:
        other_keys = [key for key in keys if key != "data.fraction"]
        functions[ERROR_BY_SAMPLES] = lambda path: figures.error_by_samples(
            path, errors_by_samples(groups, other_keys)
        )
    return functions


def curves_by_label(groups: Sequence[Group], keys: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Return :func:`errors_by_epoch` by label, of at most MAX_CURVES groups."""
    return {
        label(group.settings, keys) or "all runs": errors_by_epoch(group)
        for group in groups[:MAX_CURVES]
        if all(run.history for run in group.runs)  # some evaluations have no history
    }


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
