"""Run the report's experiments and show our results next to the report's."""

import base64
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn.config.load import parse_yaml
from mnistcnn.experiments import comparison, statistics
from mnistcnn.experiments.groups import Group, group_runs, matches
from mnistcnn.experiments.summary import format_percent, markdown_table
from mnistcnn.experiments.verdicts import verdicts
from mnistcnn.runs.directory import create_run_dir
from mnistcnn.runs.store import Run, find_runs
from mnistcnn.system import signals, subprocesses
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError

log = logging.getLogger(__name__)

REPRODUCTION_MD = "reproduction.md"
REPRODUCTION_HTML = "reproduction.html"
NOT_RUN = "not run"

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "img{max-width:100%}code{background:#f2f2f2}"
)


def _last_epoch(key: str) -> Callable[[Run], float]:
    return lambda run: run.history[-1][key]


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


def reproduce(
    out: Path, scale: str, seeds: int | None, only: Sequence[str], overrides: Sequence[str]
) -> None:
    """Run the experiments at ``scale``, and write tables and pictures to ``out``.

    ``only`` restricts the experiments if it is not empty. ``seeds`` replaces the number of seeds of
    every experiment. ``overrides`` are added to every command. Runs that are already complete are
    not repeated. Raises MnistcnnError, after all experiments, if some are not complete.
    """
    plan = parse_yaml((files("mnistcnn.conf") / "reproduction.yaml").read_text())
    names = [item["experiment"] for item in plan["items"]]
    if unknown := [name for name in only if name not in names]:
        raise UsageError(
            f"--only: unknown experiment {', '.join(unknown)}; available: {', '.join(names)}"
        )
    out = create_run_dir(out, "--out")
    failed = 0
    try:
        for item in plan["items"]:
            if not only or item["experiment"] in only:
                command = _command(item, plan["scales"][scale], scale, seeds, overrides)
                sweep_dir = out / scale / item["experiment"]
                log.info("\n# %s\npython %s", item["title"], " ".join(command))
                failed += not _run_command([*command, f"hydra.sweep.dir='{sweep_dir}'"])
    finally:  # after an interrupt as well
        write_reproduction(out, scale, plan, seeds, overrides)
    if failed:
        raise MnistcnnError(
            f"{failed} experiment{' is' if failed == 1 else 's are'} not complete; "
            "repeat the same command to resume"
        )


def _command(
    item: dict,
    scale_options: dict,
    scale: str,
    seeds: int | None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return ``-m mnistcnn.train -m experiment=...`` with the overrides of the scale."""
    count = seeds or item.get("seeds", {}).get(scale, scale_options["seeds"])
    return [
        "-m",
        "mnistcnn.train",
        "-m",
        f"experiment={item['experiment']}",
        *scale_options["overrides"],
        *item.get("overrides", {}).get(scale, []),
        f"seed=range({count})",
        *overrides,
    ]


def _run_command(arguments: Sequence[str]) -> bool:
    """Run a Python command and return whether it succeeded.

    If this process is interrupted, wait for the command to stop, then raise the interrupt again.
    Raises UsageError if the command rejects its arguments: the other commands would do the same.
    """
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(subprocesses.TERM_DELAY)  # Ctrl-C in a terminal reaches both processes
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
    if code - 128 in signals.SIGNALS:
        raise signals.Stopped(code - 128)
    if code == 2:
        raise UsageError("a command was rejected; the remaining experiments are not run")
    return code == 0


# The Markdown and HTML files ---------------------------------------------------------------------


def write_reproduction(
    out: Path, scale: str, plan: dict, seeds: int | None, overrides: Sequence[str] = ()
) -> None:
    """Write ``reproduction.md`` and ``reproduction.html`` from the runs in ``out``.

    The HTML file contains its pictures.
    """
    blocks = [
        "# The report, reproduced",
        f"Scale `{scale}`: `scripts/reproduce --scale {scale}`. Accuracy and error in percent, "
        "mean ± standard deviation over seeds (95% interval of the mean). The report's numbers "
        "are from single runs.",
    ]
    if scale == "quick":
        blocks.append("These runs are too small for conclusions: they only test the program.")
    for item in plan["items"]:
        command = _command(item, plan["scales"][scale], scale, seeds, overrides)
        blocks += [f"## {item['title']}", f"`python {' '.join(command)}`"]
        blocks += _section(out, out / scale / item["experiment"], item)
    text = "\n\n".join(blocks) + "\n"
    write_text(out / REPRODUCTION_MD, text)
    write_text(out / REPRODUCTION_HTML, _html(text, out))
    log.info("Results: %s and %s", out / REPRODUCTION_MD, out / REPRODUCTION_HTML)


def _section(out: Path, sweep_dir: Path, item: dict) -> list[str]:
    runs = find_runs(sweep_dir) if sweep_dir.is_dir() else []
    complete = [run for run in runs if run.complete]
    groups = group_runs(complete)
    rows = [
        [
            f"{row['of']}, {row['measure']}",
            str(row.get("report", "")),
            _our_value(groups, row) or _missing_reason(runs, row["of"]),
        ]
        for row in item["rows"]
    ]
    blocks = [markdown_table(["", "the report", "ours"], rows)]
    if "baseline" in item and len(groups) > 1:
        blocks += _verdicts(complete, item["baseline"])
    if complete:
        blocks.append(_environment(complete))
    for picture in item.get("pictures", []):
        path = _picture_path(sweep_dir, groups, picture)
        if path is not None:
            blocks += [f"{picture['title']}:", _embed(path, picture["title"], out)]
    return [*blocks, item["why"]] if complete else blocks


def _find_group(groups: Sequence[Group], override: str) -> Group | None:
    """Return the only group that matches ``override``; None if none or several match."""
    matching = [group for group in groups if matches(group.settings, [override])]
    return matching[0] if len(matching) == 1 else None


def _our_value(groups: Sequence[Group], row: dict) -> str | None:
    group = _find_group(groups, row["of"])
    if group is None:
        return None
    measure, in_percent = MEASURES[row["measure"]]
    mean = statistics.mean_interval([measure(run) for run in group.runs])
    if in_percent:
        return f"{format_percent(mean, with_interval=True)}, n = {mean.n}"
    return f"{mean.mean:,.4g}" if row["measure"] != "parameters" else f"{mean.mean:,.0f}"


def _missing_reason(runs: Sequence[Run], override: str) -> str:
    """Return the reason why a row has no value: not run, failed, or several groups match."""
    matching = [run for run in runs if matches(run.settings, [override])]
    if any(run.complete for run in matching):
        return "ambiguous: the directory holds runs of several commands"
    return next((f"{run.status}: {run.reason}" for run in matching), NOT_RUN)


def _verdicts(runs: Sequence[Run], baseline: str) -> list[str]:
    try:
        return verdicts(comparison.compare_groups([runs], baseline))
    except MnistcnnError as error:
        return [f"Not compared: {error}"]


def _environment(runs: Sequence[Run]) -> str:
    """Return a line with the devices, torch versions and total time of the runs."""
    devices = sorted({run.metrics["device"] for run in runs})
    torch = sorted({run.metrics["versions"]["torch"] for run in runs})
    minutes = np.sum([run.metrics["seconds"]["total"] for run in runs]) / 60
    return (
        f"Runs: {len(runs)}, on {', '.join(devices)} with torch {', '.join(torch)}, "
        f"{minutes:.1f} minutes."
    )


def _picture_path(sweep_dir: Path, groups: Sequence[Group], picture: dict) -> Path | None:
    """Return the picture's file, of the sweep or of a group's first seed; None if missing."""
    folder = sweep_dir
    if "of" in picture:
        group = _find_group(groups, picture["of"])
        if group is None:
            return None
        folder = group.runs[0].path
    path = folder / picture["file"]
    return path if path.is_file() else None


def _embed(path: Path, title: str, out: Path) -> str:
    """Return Markdown that shows a text file or a picture."""
    if path.suffix == ".txt":
        return f"```text\n{path.read_text().rstrip()}\n```"
    return f"![{title}]({path.relative_to(out)})"


def _html(text: str, out: Path) -> str:
    """Convert Markdown to one HTML page with embedded pictures."""
    import markdown

    def data_url(match: re.Match) -> str:
        content = base64.b64encode((out / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(
        r'src="([^"]+)"', data_url, markdown.markdown(text, extensions=["tables", "fenced_code"])
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>The report, reproduced</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
