"""Collect the results of the report's experiments, and format them next to the report's numbers.

The results that the pages of the repository show are stored in ``outputs/results.json``.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn.config.load import parse_yaml
from mnistcnn.experiments import statistics
from mnistcnn.experiments.comparison import compare_groups
from mnistcnn.experiments.documents import markdown_table, replace_block, repository
from mnistcnn.experiments.groups import Group, group_runs, matches
from mnistcnn.experiments.pairing import Collection
from mnistcnn.experiments.statistics import Mean, format_percent
from mnistcnn.experiments.sweep_file import sort_as_typed
from mnistcnn.experiments.verdicts import verdicts
from mnistcnn.runs.provenance import short_commit
from mnistcnn.runs.store import Run, find_runs
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import MnistcnnError
from mnistcnn.system.quoting import join_arguments

log = logging.getLogger(__name__)

STORE = Path("outputs", "results.json")
NOT_RUN = "not run"
NOT_RECORDED = "not recorded"  # of an experiment whose other results are stored
COLUMNS = ["", "the report", "ours"]


def _last_epoch(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.history[-1].get(key) if run.history else None


# The measures of a table row: a function of a run, and whether the mean is shown in percent.
MEASURES: dict[str, tuple[Callable[[Run], Any], bool]] = {
    "training (running)": (_last_epoch("train_accuracy_running"), True),
    "training": (lambda run: run.measure("train", "accuracy"), True),
    "validation": (lambda run: run.measure("validation", "accuracy"), True),
    "test": (lambda run: run.measure("test", "accuracy"), True),
    "training error": (lambda run: run.measure("train", "error"), True),
    "test error": (lambda run: run.measure("test", "error"), True),
    "training loss (running)": (_last_epoch("train_loss_running"), False),
    "epochs": (lambda run: len(run.history), False),
    "parameters": (lambda run: run.metrics["model"]["parameters"], False),
}


@dataclass
class ExperimentResult:
    """The results of one item of ``conf/reproduction.yaml``.

    ``means`` has one element per row of the item; None if there is no complete run for the row.
    ``measured`` describes the runs, ``verdicts`` are paragraphs of Markdown.
    """

    means: list[Mean | None]
    verdicts: list[str] = field(default_factory=list)
    measured: str = ""


def load_plan() -> dict[str, Any]:
    """Return ``conf/reproduction.yaml``."""
    return parse_yaml((files("mnistcnn.conf") / "reproduction.yaml").read_text())


def collect_result(item: dict[str, Any], runs: Sequence[Run]) -> ExperimentResult:
    """Compute the results of an experiment from its complete runs."""
    complete = [run for run in runs if run.usable]
    groups = group_runs(complete)
    result = ExperimentResult([_row_mean(groups, row) for row in item["rows"]])
    if "baseline" in item and len(groups) > 1:
        result.verdicts = _verdicts(complete, item["baseline"])
    if complete:
        result.measured = _describe_runs(complete)
    return result


def find_group(groups: Sequence[Group], override: str) -> Group | None:
    """Return the only group that matches ``override``; None if none or several match."""
    matching = [group for group in groups if matches(group.settings, [override])]
    return matching[0] if len(matching) == 1 else None


def _row_mean(groups: Sequence[Group], row: dict[str, Any]) -> Mean | None:
    group = find_group(groups, row["of"])
    if group is None:
        return None
    measure, _ = MEASURES[row["measure"]]
    values = [measure(run) for run in group.runs]
    return None if None in values else statistics.mean_interval(values)


def _verdicts(runs: Sequence[Run], baseline: str) -> list[str]:
    try:
        _, pairs = compare_groups([Collection(Path(), "", list(runs), {})], baseline)
        return verdicts(pairs).markdown()
    except MnistcnnError as error:
        return [f"Not compared: {error}"]


def _describe_runs(runs: Sequence[Run]) -> str:
    """Return a line with the number, device, precision, duration, memory and commit of runs."""
    devices = sorted({run.metrics["device"] for run in runs})
    torch = sorted({run.metrics["versions"]["torch"] for run in runs})
    commits = sorted({short_commit(run.metrics["git_commit"]) for run in runs})
    precisions = sorted({run.metrics["precision"] for run in runs})
    minutes = np.sum([run.metrics["seconds"]["total"] for run in runs]) / 60
    peaks = [peak for run in runs if (peak := run.metrics["peak_memory_bytes"])]
    memory = f", at most {max(peaks) / 1e9:.1f} GB of memory" if peaks else ""
    return (
        f"{len(runs)} run{'' if len(runs) == 1 else 's'} on {', '.join(devices)} in "
        f"{', '.join(precisions)} with torch {', '.join(torch)}, {minutes:.1f} "
        f"minutes{memory}; commit {', '.join(commits)}."
    )


# Markdown ----------------------------------------------------------------------------------------


def result_blocks(
    item: dict[str, Any], result: ExperimentResult, runs: Sequence[Run] = ()
) -> list[str]:
    """Return Markdown: the table, verdicts and origin. ``runs`` explain missing values."""
    rows = [
        [
            f"{row['of']}, {row['measure']}",
            str(row.get("report", "")),
            _format_mean(mean, row["measure"]) if mean else _missing_reason(row, result, runs),
        ]
        for row, mean in zip(item["rows"], result.means, strict=True)
    ]
    measured = [result.measured] if result.measured else []
    return [markdown_table(COLUMNS, rows), *result.verdicts, *measured]


def _format_mean(mean: Mean, measure: str) -> str:
    if MEASURES[measure][1]:
        return f"{format_percent(mean, with_interval=True)}, n = {mean.n}"
    return f"{mean.mean:,.0f}" if abs(mean.mean) >= 100 else f"{mean.mean:.4g}"


def _missing_reason(row: dict[str, Any], result: ExperimentResult, runs: Sequence[Run]) -> str:
    """Return the reason why a row has no value: not run, failed, or several groups match."""
    matching = [run for run in runs if matches(run.settings, [row["of"]])]
    if any(run.usable for run in matching):
        return "ambiguous: the directory holds runs of several commands"
    missing = NOT_RECORDED if result.measured and not runs else NOT_RUN
    return next((f"{run.status}: {run.reason}" for run in matching), missing)


# The pages of the repository ---------------------------------------------------------------------


def store_results(
    root: Path, plan: dict[str, Any], sweeps: dict[str, tuple[Sequence[str], Path]]
) -> None:
    """Store the results of experiments in a clone, and write them to its pages.

    ``sweeps`` has the overrides and the directory of each experiment, by its name.
    """
    stored = json.loads((root / STORE).read_text())
    for item in plan["items"]:
        if item["experiment"] in sweeps:
            overrides, sweep_dir = sweeps[item["experiment"]]
            result = collect_result(item, sort_as_typed(find_runs(sweep_dir), sweep_dir))
            result.measured = f"`{join_arguments(overrides)}`: {result.measured}"
            stored[item["experiment"]] = {
                **asdict(result),
                "means": [
                    {"of": row["of"], "measure": row["measure"], **asdict(mean)}
                    for row, mean in zip(item["rows"], result.means, strict=True)
                    if mean
                ],
            }
    write_json(root / STORE, stored)
    write_pages(root)


def write_pages(root: Path | None = None) -> None:
    """Write the stored results to ``README.md`` and ``outputs/README.md``.

    ``root`` is the root of the clone; the default is the clone that this package is imported from.
    """
    root, plan = root or repository(), load_plan()
    stored = load_results(root, plan)
    for page, text in (
        (root / "README.md", highlights(plan, stored)),
        (root / "outputs" / "README.md", all_results(plan, stored)),
    ):
        replace_block(page, "results", text)
        log.info("Results: %s", page)


def load_results(root: Path, plan: dict[str, Any]) -> dict[str, ExperimentResult]:
    """Return the stored results by experiment, with one mean per row of the plan."""
    stored, results = json.loads((root / STORE).read_text()), {}
    for item in plan["items"]:
        record = stored.get(item["experiment"], {"means": [], "verdicts": [], "measured": ""})
        means = {(each["of"], each["measure"]): each for each in record["means"]}
        results[item["experiment"]] = ExperimentResult(
            [_mean_from_json(means.get((row["of"], row["measure"]))) for row in item["rows"]],
            record["verdicts"],
            record["measured"],
        )
    return results


def _mean_from_json(values: dict[str, Any] | None) -> Mean | None:
    if values is None:
        return None
    interval = values["ci95"] and tuple(values["ci95"])
    return Mean(values["n"], values["mean"], values["sd"], interval)


def all_results(plan: dict[str, Any], stored: dict[str, ExperimentResult]) -> str:
    """Return a section of Markdown per experiment."""
    blocks = []
    for item in plan["items"]:
        result = stored[item["experiment"]]
        blocks += [f"### {item['title']}", f"`experiment={item['experiment']}`"]
        blocks += [*result_blocks(item, result), item["why"]]
    return "\n\n".join(blocks)


def highlights(plan: dict[str, Any], stored: dict[str, ExperimentResult]) -> str:
    """Return Markdown: a table of the rows and the verdicts of the items that have a ``readme``."""
    rows, paragraphs = [], []
    for item in plan["items"]:
        result = stored[item["experiment"]]
        for row, mean in zip(item["rows"], result.means, strict=True):
            if "readme" in row:
                report = str(row.get("report", ""))
                missing = _missing_reason(row, result, [])
                ours = f"{format_percent(mean)}, n = {mean.n}" if mean else missing
                rows.append([row["readme"], report, ours])
        if "readme" in item:
            paragraphs += [f"*{item['readme']}* {verdict}" for verdict in result.verdicts]
    return "\n\n".join([markdown_table(COLUMNS, rows), *paragraphs])
