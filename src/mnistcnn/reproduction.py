"""The whole report: its experiments run, and every table and figure of it beside ours."""

import base64
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn import apart, comparison, config, rundir, signals, statistics, sweep
from mnistcnn.errors import PlainError, UsageError
from mnistcnn.sweep import Group, Run

log = logging.getLogger(__name__)

REPORT_MD = "report.md"
REPORT_HTML = "report.html"
NOT_RUN = "not run"

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "img{max-width:100%}code{background:#f2f2f2}"
)


def _last(key: str) -> Any:
    return lambda run: run.history[-1][key]


# What a row can show: of a run, the number, and how a mean of it is written.
MEASURES = {
    "training (running)": (_last("train_accuracy_running"), True),
    "training": (lambda run: run.measure("train", "accuracy"), True),
    "validation": (lambda run: run.measure("validation", "accuracy"), True),
    "test": (lambda run: run.measure("test", "accuracy"), True),
    "training error": (lambda run: run.measure("train", "error"), True),
    "test error": (lambda run: run.measure("test", "error"), True),
    "training loss (running)": (_last("train_loss_running"), False),
    "epochs": (lambda run: len(run.history), False),
    "parameters": (lambda run: run.metrics["model"]["parameters"], False),
}


def run(
    out: Path, scale: str, seeds: int | None, only: Sequence[str], overrides: Sequence[str]
) -> int:
    """Run all experiments at ``scale``, or ``only`` some, and write the report into ``out``.

    What is there already is not run again. ``overrides`` go to every command. Returns how many
    experiments did not end well.
    """
    plan = config.plain((files("mnistcnn.conf") / "reproduction.yaml").read_text())
    known = [item["experiment"] for item in plan["items"]]
    if unknown := [name for name in only if name not in known]:
        raise UsageError(f"--only: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    out = rundir.create(out, "--out")
    failed = 0
    try:
        for item in plan["items"]:
            if not only or item["experiment"] in only:
                command = _command(item, plan["scales"][scale], scale, seeds, overrides)
                folder = out / scale / item["experiment"]
                log.info("\n# %s\npython %s", item["title"], " ".join(command))
                failed += _run([*command, f"hydra.sweep.dir='{folder}'"])
    finally:  # also of what was done before an interrupt
        write(out, scale, plan, seeds, overrides)
    return failed


def _command(
    item: dict, of_scale: dict, scale: str, seeds: int | None, overrides: Sequence[str] = ()
) -> list[str]:
    """``-m mnistcnn.train experiment=...`` with what the scale changes."""
    count = seeds or item.get("seeds", {}).get(scale, of_scale["seeds"])
    return [
        "-m", "mnistcnn.train", "-m", f"experiment={item['experiment']}", *of_scale["overrides"],
        *item.get("overrides", {}).get(scale, []), f"seed=range({count})", *overrides,
    ]  # fmt: skip


def _run(arguments: Sequence[str]) -> bool:
    """Whether the command failed. A signal is for both, and waits until the other is done."""
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(apart.GRACE)  # a terminal has told both
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
    if code - 128 in signals.SIGNALS:
        raise signals.Stopped(code - 128)
    if code == 2:  # it has said why, and the others would say the same
        raise UsageError("a command was refused; nothing more is run")
    return code != 0


# The report --------------------------------------------------------------------------------------


def write(
    out: Path, scale: str, plan: dict, seeds: int | None, overrides: Sequence[str] = ()
) -> None:
    """Write ``report.md``, and ``report.html`` with its pictures inside, of what is in ``out``."""
    blocks = [
        "# The report, reproduced",
        f"At the scale `{scale}`, by `scripts/reproduce --scale {scale}`. Accuracy and error in "
        "percent, mean ± standard deviation over seeds (95% interval of the mean). The report's "
        "numbers are of single runs.",
    ]
    if scale == "quick":
        blocks.append("These runs are too small to settle anything: they show that all works.")
    for item in plan["items"]:
        command = _command(item, plan["scales"][scale], scale, seeds, overrides)
        blocks += [f"## {item['title']}", f"`python {' '.join(command)}`"]
        blocks += _section(out, out / scale / item["experiment"], item)
    text = "\n\n".join(blocks) + "\n"
    rundir.write_text(out / REPORT_MD, text)
    rundir.write_text(out / REPORT_HTML, _html(text, out))
    log.info("the report is %s and %s", out / REPORT_MD, out / REPORT_HTML)


def _section(out: Path, folder: Path, item: dict) -> list[str]:
    found = sweep.find(folder) if folder.is_dir() else []
    runs = [run for run in found if run.complete]
    of = sweep.groups(runs)
    rows = [
        [
            f"{row['of']}, {row['measure']}",
            str(row.get("report", "")),
            _ours(of, row) or _why_not(found, row["of"]),
        ]
        for row in item["rows"]
    ]
    blocks = [sweep.markdown(["", "the report", "ours"], rows)]
    if "baseline" in item and len(of) > 1:
        blocks += _verdicts(runs, item["baseline"])
    if runs:
        blocks.append(_where(runs))
    for picture in item.get("pictures", []):
        path = _picture(folder, of, picture)
        if path is not None:
            blocks += [f"{picture['title']}:", _shown(path, picture["title"], out)]
    return [*blocks, item["why"]] if runs else blocks


def _group(of: Sequence[Group], described: str) -> Group | None:
    """The group with these settings; None where there is none, or where it is not clear which."""
    matching = [group for group in of if sweep.matches(group.settings, [described])]
    return matching[0] if len(matching) == 1 else None


def _why_not(runs: Sequence[Run], described: str) -> str:
    """Why there is no number: nobody ran it, it failed, or several other commands ran it."""
    matching = [run for run in runs if sweep.matches(run.settings, [described])]
    if any(run.complete for run in matching):
        return "ambiguous: runs of several commands are here"
    return next((f"{run.status}: {run.reason}" for run in matching), NOT_RUN)


def _ours(of: Sequence[Group], row: dict) -> str | None:
    group = _group(of, row["of"])
    if group is None:
        return None
    measured, is_share = MEASURES[row["measure"]]
    mean = statistics.mean_interval([measured(run) for run in group.runs])
    if is_share:
        return f"{sweep.percent(mean, with_interval=True)}, n = {mean.n}"
    return f"{mean.mean:,.4g}" if row["measure"] != "parameters" else f"{mean.mean:,.0f}"


def _verdicts(runs: Sequence[Run], baseline: str) -> list[str]:
    try:
        return comparison.verdicts(comparison.compare([runs], baseline))
    except PlainError as error:
        return [f"Not compared: {error}"]


def _where(runs: Sequence[Run]) -> str:
    """The machine behind the numbers, as far as it may be told."""
    devices = sorted({run.metrics["device"] for run in runs})
    torch = sorted({run.metrics["versions"]["torch"] for run in runs})
    minutes = np.sum([run.metrics["seconds"]["total"] for run in runs]) / 60
    return (
        f"Runs: {len(runs)}, on {', '.join(devices)} with torch {', '.join(torch)}, "
        f"{minutes:.1f} minutes."
    )


def _picture(folder: Path, of: Sequence[Group], picture: dict) -> Path | None:
    if "of" in picture:
        group = _group(of, picture["of"])
        if group is None:
            return None
        folder = group.runs[0].path
    path = folder / picture["file"]
    return path if path.is_file() else None


def _shown(path: Path, title: str, out: Path) -> str:
    if path.suffix == ".txt":
        return f"```text\n{path.read_text().rstrip()}\n```"
    return f"![{title}]({path.relative_to(out)})"


def _html(text: str, out: Path) -> str:
    """Markdown as one HTML page that needs no other file."""
    import markdown

    def embedded(found: re.Match) -> str:
        content = base64.b64encode((out / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(
        r'src="([^"]+)"', embedded, markdown.markdown(text, extensions=["tables", "fenced_code"])
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>The report, reproduced</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
