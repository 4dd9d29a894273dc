"""Summarise all runs below a directory: a CSV file, a Markdown table and pictures."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnistcnn.evaluation import figures
from mnistcnn.experiments.curves import (
    draw_curves,
    errors_by_samples,
    split_by_history,
)
from mnistcnn.experiments.documents import draw_pictures, markdown_table, write_or_warn
from mnistcnn.experiments.groups import (
    Group,
    best_group,
    display_key,
    display_value,
    group_runs,
    name_groups,
    rounded_value,
    run_name,
    varying_keys,
)
from mnistcnn.experiments.statistics import MIN_INTERVAL_SEEDS, NO_INTERVAL, format_percent
from mnistcnn.experiments.summary_page import write_summary_page
from mnistcnn.experiments.sweep_file import sort_as_typed
from mnistcnn.runs.directory import SUMMARY_HTML, VALIDATION_CURVES
from mnistcnn.runs.store import SPLITS, Run, find_runs
from mnistcnn.system.atomic_files import write_text

SUMMARY_CSV = "summary.csv"
SUMMARY_MD = "summary.md"
ERROR_BY_SAMPLES = "error_by_samples.png"


@dataclass(frozen=True)
class Summary:
    """The runs below the directory ``path``, complete or not, in the order as typed.

    ``keys`` are the settings that vary. ``text`` is Markdown without the pictures.
    """

    path: Path
    runs: list[Run]
    keys: list[str]
    groups: list[Group]
    text: str

    def write(self) -> None:
        """Write ``summary.csv``, ``summary.md`` and ``summary.html``, then the pictures.

        Raises WriteError if the tables cannot be written. A page or a picture that cannot be
        written is a warning.
        """
        write_text(self.path / SUMMARY_CSV, _csv(self.runs, self.keys, self.path))
        write_text(self.path / SUMMARY_MD, self.text + "\n")
        write_or_warn(self.path / SUMMARY_HTML, lambda _: self.write_page())
        keys = [key for key in self.keys if key != "seed"]
        functions, missing = _draw_functions(self.groups, keys)
        if blocks := [*missing, *draw_pictures(self.path, functions)]:
            write_text(self.path / SUMMARY_MD, "\n\n".join([self.text, *blocks]) + "\n")

    def write_page(self, running: bool = False) -> None:
        """Write ``summary.html``; ``running`` says whether further runs will follow.

        Raises WriteError.
        """
        best = self.best("Lowest validation error")
        write_summary_page(self.path, self.runs, self.groups, self.keys, best, running)

    def best(self, caption: str) -> str:
        """Return a line with the group that has the lowest validation error.

        It starts with ``caption``: ``Best trial: optimizer.lr=0.967, 0.55% (n=1)``. Values are
        rounded. Empty if there are fewer than two groups.
        """
        if len(self.groups) < 2:
            return ""
        group = best_group(self.groups)
        settings = group.settings
        values = " ".join(
            f"{display_key(key)}={rounded_value(settings.get(key))}"
            for key in varying_keys(run for each in self.groups for run in each.runs)
            if key != "seed"
        )
        error = f"{100 * group.mean('validation', 'error').mean:.2f}%"
        return f"{caption}: {values}, {error} (n={len(group.runs)})"


def summarise(path: Path) -> Summary:
    """Read all runs below ``path``; nothing is written. Raises UsageError if there is no ``path``.

    A run that cannot be read is listed with the reason.
    """
    runs = sort_as_typed(find_runs(path), path)
    keys = varying_keys(runs)
    groups = group_runs(runs)
    return Summary(path, runs, keys, groups, _markdown(runs, groups, keys))


# Tables ------------------------------------------------------------------------------------------


def group_table(groups: Sequence[Group], directories: Sequence[str] = ()) -> str:
    """Return a Markdown table of the groups' varying settings and scores in percent.

    ``directories`` are the groups' directories, for an additional first column.
    """
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
            _format_epochs(float(np.mean([run.epochs for run in group.runs]))),
            _format_seconds([run.seconds for run in group.runs if run.seconds is not None]),
        ]
        for group in groups
    ]
    if directories:
        header = ["directory", *header]
        rows = [[name, *row] for name, row in zip(directories, rows, strict=True)]
    return markdown_table(header, rows)


def table_caption(groups: Sequence[Group]) -> str:
    """Return the sentences below :func:`group_table`."""
    text = "Percent: mean ± standard deviation over n seeds (95% interval of the mean)."
    if any(len(group.runs) < MIN_INTERVAL_SEEDS for group in groups):
        text += f" {NO_INTERVAL}"
    return text


def _format_seconds(seconds: Sequence[float]) -> str:
    return f"{np.mean(seconds):.1f}" if seconds else ""


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
            run.seconds,
            run.path.relative_to(root).as_posix(),
        ])  # fmt: skip
    return content.getvalue()


def _markdown(runs: Sequence[Run], groups: Sequence[Group], keys: Sequence[str]) -> str:
    blocks = [group_table(groups), table_caption(groups)] if groups else []
    if incomplete := [run for run in runs if not run.usable]:
        lines = [f"- {run_name(run, keys)}: {run.outcome}" for run in incomplete]
        blocks.append("\n".join(["Not complete:", "", *lines]))
    return "\n\n".join(blocks)


# Pictures ----------------------------------------------------------------------------------------


def _draw_functions(
    groups: Sequence[Group], keys: Sequence[str]
) -> tuple[dict[str, Callable[[Path], None]], list[str]]:
    """Return a drawing function for each picture's file name, and lines about missing curves."""
    functions: dict[str, Callable[[Path], None]] = {}
    curves, missing = split_by_history(name_groups(groups))
    if curves:
        functions[VALIDATION_CURVES] = lambda path: draw_curves(path, curves)
    if groups and "data.fraction" in keys:
        other_keys = [key for key in keys if key != "data.fraction"]
        functions[ERROR_BY_SAMPLES] = lambda path: figures.error_by_samples(
            path, errors_by_samples(groups, other_keys)
        )
    return functions, missing
