"""Write ``summary.html``: the groups of a sweep, and its runs without a result."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnistcnn.experiments.groups import Group, name_groups, run_name
from mnistcnn.experiments.sweep_content import GROUP_SCRIPTS, page_link, sweep_content
from mnistcnn.experiments.sweep_file import jobs_not_started, sweep_commands
from mnistcnn.pages.render import write_page
from mnistcnn.runs.directory import SUMMARY_HTML
from mnistcnn.runs.store import Run


def write_summary_page(
    path: Path,
    runs: Sequence[Run],
    groups: Sequence[Group],
    keys: Sequence[str],
    best: str = "",
    running: bool = False,
) -> None:
    """Write the page of the sweep in the directory ``path``. Raises WriteError.

    ``keys`` are the settings that vary, ``best`` a line about the best group, and ``running`` says
    whether further runs will follow.
    """
    content = sweep_content(name_groups(groups), path) if groups else None
    incomplete = [run for run in runs if not run.usable]
    not_started = [job for jobs in jobs_not_started(runs, path).values() for job in jobs]
    write_page(
        path / SUMMARY_HTML,
        "summary.html",
        GROUP_SCRIPTS,
        {"sections": {} if content is None else {"sweep": content.charts}},
        title=f"Sweep {path.absolute().name}",
        state=_state(runs, len(not_started)),
        running=running,
        written_at=f"{datetime.now(UTC):%Y-%m-%d at %H:%M:%S} UTC",
        commands=sweep_commands(path),
        best=best,
        content=content,
        incomplete=[_incomplete_run(run, keys, path) for run in incomplete],
        not_started=not_started,
    )


def _state(runs: Sequence[Run], not_started: int) -> str:
    complete = sum(run.usable for run in runs)
    running = sum(run.is_running for run in runs)
    others = len(runs) - complete - running
    parts = [f"{complete} run{'' if complete == 1 else 's'} complete"]
    parts += [f"{running} running"] if running else []
    parts += [f"{others} without a result"] if others else []
    parts += [f"{not_started} not started"] if not_started else []
    return ", ".join(parts) + "."


def _incomplete_run(run: Run, keys: Sequence[str], page_dir: Path) -> dict[str, Any]:
    return {
        "name": run_name(run, keys),
        "status": "running" if run.is_running else run.status,
        "epochs": run.epochs,
        "reason": "" if run.is_running else run.reason,
        "link": page_link(run, page_dir),
    }
