"""Run the report's experiments and show our results next to the report's."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnistcnn.experiments.documents import repository, to_html
from mnistcnn.experiments.groups import Group, group_runs
from mnistcnn.experiments.results import (
    collect_result,
    find_group,
    load_plan,
    result_blocks,
    store_results,
)
from mnistcnn.runs.directory import create_run_dir
from mnistcnn.runs.store import find_runs
from mnistcnn.system import signals, subprocesses
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError

log = logging.getLogger(__name__)

REPRODUCTION_MD = "reproduction.md"
REPRODUCTION_HTML = "reproduction.html"
TITLE = "The report, reproduced"


def reproduce(
    out: Path,
    scale: str,
    seeds: int | None,
    only: Sequence[str],
    overrides: Sequence[str],
    write: bool = False,
) -> None:
    """Run the experiments at ``scale``, and write tables and pictures to ``out``.

    ``only`` restricts the experiments if it is not empty. ``seeds`` replaces the number of seeds of
    every experiment. ``overrides`` are added to every command. Runs that are already complete are
    not repeated. With ``write``, the results are also stored in the repository and shown in its
    pages; only the device and the launcher can then be overridden.

    Raises MnistcnnError, after all experiments, if some are not complete.
    """
    plan = load_plan()
    names = [item["experiment"] for item in plan["items"]]
    if unknown := [name for name in only if name not in names]:
        raise UsageError(
            f"--only: unknown experiment {', '.join(unknown)}; available: {', '.join(names)}"
        )
    if write:
        _check_publishable(scale, overrides)
    root = repository() if write else None
    out = create_run_dir(out, "--out")
    sweeps: dict[str, tuple[Sequence[str], Path]] = {}  # complete ones, by experiment
    failed = 0
    try:
        for item in plan["items"]:
            name = item["experiment"]
            if not only or name in only:
                command = _command(item, plan["scales"][scale], scale, seeds, overrides)
                log.info("\n# %s\npython %s", item["title"], " ".join(command))
                sweep_dir = out / scale / name
                if _run_command([*command, f"hydra.sweep.dir='{sweep_dir}'"]):
                    sweeps[name] = (command[3:], sweep_dir)
                else:
                    failed += 1
    finally:  # after an interrupt as well
        write_reproduction(out, scale, plan, seeds, overrides)
    if root is not None and sweeps:
        store_results(root, plan, sweeps)
    if failed:
        raise MnistcnnError(
            f"{failed} experiment{' is' if failed == 1 else 's are'} not complete; "
            "repeat the same command to resume"
        )


def _check_publishable(scale: str, overrides: Sequence[str]) -> None:
    """Check that the results are those of the plan. Raises UsageError if they are not."""
    if scale == "quick":
        raise UsageError("--write: the results of --scale quick mean nothing; use cpu or full")
    allowed = ("device=", "hydra/launcher=", "hydra.launcher.")
    for override in overrides:
        if not override.startswith(allowed):
            raise UsageError(
                f"--write: {override} changes the results; only the device and the launcher can "
                "be overridden"
            )


def _command(
    item: dict[str, Any],
    scale_options: dict[str, Any],
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
    out: Path,
    scale: str,
    plan: dict[str, Any],
    seeds: int | None,
    overrides: Sequence[str] = (),
) -> None:
    """Write ``reproduction.md`` and ``reproduction.html`` from the runs in ``out``.

    The HTML file contains its pictures.
    """
    blocks = [
        f"# {TITLE}",
        (
            f"Scale `{scale}`: `scripts/reproduce --scale {scale}`. Accuracy and error in percent, "
            "mean ± standard deviation over seeds (95% interval of the mean). The report's numbers "
            "are from single runs."
        ),
    ]
    if scale == "quick":
        blocks.append("These runs are too small for conclusions: they only test the program.")
    for item in plan["items"]:
        command = _command(item, plan["scales"][scale], scale, seeds, overrides)
        blocks += [f"## {item['title']}", f"`python {' '.join(command)}`"]
        blocks += _section(out, out / scale / item["experiment"], item)
    text = "\n\n".join(blocks) + "\n"
    write_text(out / REPRODUCTION_MD, text)
    write_text(out / REPRODUCTION_HTML, to_html(text, TITLE, out))
    log.info("Results: %s and %s", out / REPRODUCTION_MD, out / REPRODUCTION_HTML)


def _section(out: Path, sweep_dir: Path, item: dict[str, Any]) -> list[str]:
    runs = find_runs(sweep_dir) if sweep_dir.is_dir() else []
    complete = [run for run in runs if run.usable]
    blocks = result_blocks(item, collect_result(item, runs), runs)
    for picture in item.get("pictures", []):
        path = _picture_path(sweep_dir, group_runs(complete), picture)
        if path is not None:
            blocks += [f"{picture['title']}:", _embed(path, picture["title"], out)]
    return [*blocks, item["why"]] if complete else blocks


def _picture_path(sweep_dir: Path, groups: Sequence[Group], picture: dict[str, str]) -> Path | None:
    """Return the picture's file, of the sweep or of a group's first seed; None if missing."""
    folder = sweep_dir
    if "of" in picture:
        group = find_group(groups, picture["of"])
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
