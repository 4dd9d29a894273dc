"""Run the report's experiments and show our results next to the report's."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnistcnn.experiments.documents import repository, to_html, write_or_warn
from mnistcnn.experiments.groups import Group, group_runs, name_groups
from mnistcnn.experiments.results import (
    collect_result,
    find_group,
    load_plan,
    result_blocks,
    store_results,
)
from mnistcnn.experiments.sweep_content import GROUP_SCRIPTS, sweep_content
from mnistcnn.experiments.sweep_file import sort_as_typed, without_machine_settings
from mnistcnn.pages.render import without_directories, write_page
from mnistcnn.runs.directory import REPRODUCTION_HTML, create_run_dir
from mnistcnn.runs.store import find_runs
from mnistcnn.system import signals, subprocesses
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.system.quoting import format_command, join_arguments, override

log = logging.getLogger(__name__)

TRAIN = "mnistcnn.train"  # the command that runs an experiment
REPRODUCTION_MD = "reproduction.md"
TITLE = "The report, reproduced"


def reproduce(
    out: Path,
    scale: str,
    seeds: int | None,
    only: Sequence[str],
    overrides: Sequence[str],
    write: bool = False,
) -> int:
    """Run the experiments at ``scale``, and write tables and pictures to ``out``.

    ``only`` restricts the experiments if it is not empty. ``seeds`` replaces the number of seeds of
    every experiment. ``overrides`` are added to every command. Runs that are already complete are
    not repeated. With ``write``, the results are also stored in the repository and shown in its
    pages; only the device and the launcher can then be overridden.

    Return 0, or the exit code of an interrupt, which the interrupted command has reported. Raises
    MnistcnnError, after all experiments, if some are not complete.
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
    failed = exit_code = 0
    try:
        for item in plan["items"]:
            name = item["experiment"]
            if only and name not in only:
                continue
            sweep_dir = out / scale / name
            chosen = _overrides(item, plan["scales"][scale], scale, seeds, overrides)
            arguments = _arguments(chosen, sweep_dir)
            log.info("\n# %s\n%s", item["title"], format_command(TRAIN, arguments))
            if _run_command(["-m", TRAIN, *arguments]):
                sweeps[name] = (chosen, sweep_dir)
            else:
                failed += 1
    except KeyboardInterrupt as interrupt:
        exit_code = signals.exit_code(interrupt)
    finally:
        write_reproduction(out, scale, plan, seeds, overrides)
    if exit_code:
        print("mnistcnn: interrupted; repeat the same command to resume", file=sys.stderr)
        return exit_code
    if root is not None and sweeps:
        store_results(root, plan, sweeps)
    if failed:
        raise MnistcnnError(
            f"{failed} experiment{' is' if failed == 1 else 's are'} not complete; "
            "repeat the same command to resume"
        )
    return 0


def _check_publishable(scale: str, overrides: Sequence[str]) -> None:
    """Check that the results are those of the plan. Raises UsageError if they are not."""
    if scale == "quick":
        raise UsageError("--write: the results of --scale quick mean nothing; use cpu or full")
    allowed = ("device=", "hydra/launcher=", "hydra.launcher.")
    for each in overrides:
        if not each.startswith(allowed):
            raise UsageError(
                f"--write: {each} changes the results; only the device and the launcher can "
                "be overridden"
            )


def _overrides(
    item: dict[str, Any],
    scale_options: dict[str, Any],
    scale: str,
    seeds: int | None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return ``experiment=...`` and the overrides of the scale, the seeds and the command."""
    count = seeds or item.get("seeds", {}).get(scale, scale_options["seeds"])
    return [
        f"experiment={item['experiment']}",
        *scale_options["overrides"],
        *item.get("overrides", {}).get(scale, []),
        f"seed=range({count})",
        *overrides,
    ]


def _arguments(overrides: Sequence[str], sweep_dir: Path) -> list[str]:
    """Return the arguments of ``mnistcnn.train`` for a sweep in ``sweep_dir``."""
    return ["-m", *overrides, override("hydra.sweep.dir", sweep_dir)]


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


@dataclass(frozen=True)
class Section:
    """An experiment in ``reproduction.md`` and ``reproduction.html``.

    ``overrides`` are those of its command, ``blocks`` Markdown, and ``groups`` those of its
    complete runs.
    """

    name: str
    title: str
    overrides: list[str]
    sweep_dir: Path
    blocks: list[str]
    groups: list[Group]


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
    options = ["scripts/reproduce", "--scale", scale]
    typed = [*overrides] if seeds is None else [*overrides, "--seeds", str(seeds)]
    note = (
        "Accuracy and error in percent, mean ± standard deviation over seeds (95% interval of the "
        "mean). The report's numbers are from single runs."
    )
    if scale == "quick":
        note += " These runs are too small for conclusions: they only test the program."
    sections = []
    for item in plan["items"]:
        name = item["experiment"]
        chosen = _overrides(item, plan["scales"][scale], scale, seeds, overrides)
        sections.append(_section(item, chosen, out, out / scale / name))
    _write_markdown(
        out, scale, join_arguments([*options, "--out", str(out), *typed]), note, sections
    )
    command = join_arguments([*options, *without_machine_settings(typed)])
    page = out / REPRODUCTION_HTML
    problem = write_or_warn(page, lambda path: _write_html(path, command, note, sections))
    pages = [out / REPRODUCTION_MD] if problem else [out / REPRODUCTION_MD, page]
    log.info("Results: %s", " and ".join(map(str, pages)))


def _write_markdown(
    out: Path, scale: str, command: str, note: str, sections: Sequence[Section]
) -> None:
    blocks = [f"# {TITLE}", f"Scale `{scale}`: `{command}`. {note}"]
    for section in sections:
        arguments = _arguments(section.overrides, section.sweep_dir)
        command = format_command(TRAIN, arguments)
        blocks += [f"## {section.title}", f"`{command}`", *section.blocks]
    write_text(out / REPRODUCTION_MD, "\n\n".join(blocks) + "\n")


def _write_html(path: Path, command: str, note: str, sections: Sequence[Section]) -> None:
    out = path.parent
    contents = {
        each.name: sweep_content(name_groups(each.groups), out) for each in sections if each.groups
    }
    write_page(
        path,
        "reproduction.html",
        GROUP_SCRIPTS,
        {"sections": {name: content.charts for name, content in contents.items()}},
        title=TITLE,
        command=command,
        note=note,
        sections=[
            {
                "name": each.name,
                "title": each.title,
                "command": format_command(TRAIN, ["-m", *without_machine_settings(each.overrides)]),
                "html": to_html(without_directories("\n\n".join(each.blocks)), out),
                "content": contents.get(each.name),
            }
            for each in sections
        ],
    )


def _section(item: dict[str, Any], overrides: list[str], out: Path, sweep_dir: Path) -> Section:
    runs = sort_as_typed(find_runs(sweep_dir), sweep_dir) if sweep_dir.is_dir() else []
    groups = group_runs(run for run in runs if run.usable)
    blocks = result_blocks(item, collect_result(item, runs), runs)
    for picture in item.get("pictures", []):
        path = _picture_path(sweep_dir, groups, picture)
        if path is not None:
            blocks += [f"{picture['title']}:", _embed(path, picture["title"], out)]
    if groups:
        blocks.append(item["why"])
    return Section(item["experiment"], item["title"], overrides, sweep_dir, blocks, groups)


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
