"""Write ``index.html``: all runs, sweeps and comparisons below a directory."""

import logging
import os
import re
import webbrowser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mnistcnn.experiments.run_index import Entry, Files, Index, RunRow, update_index
from mnistcnn.runs import directory
from mnistcnn.system.errors import UsageError

log = logging.getLogger(__name__)

PAGE = "index.html"
SCRIPTS = ["index.js"]
GENERATOR = rb'<meta name="generator" content="mnistcnn \S+ index">'  # in the head of the page
HEAD_BYTES = 2048
COLUMNS = ("model", "data", "aug")  # settings that have a column
ALT_TEXT = {
    directory.TSNE: "t-SNE",
    directory.CONFUSION_PNG: "confusion matrix",
    directory.VALIDATION_CURVES: "validation curves",
}


@dataclass
class Row:
    """A row of the page, as text.

    ``started`` is a time in UTC in ISO format.
    ``link`` and ``picture`` are paths relative to the page, ``note`` is a line below the name,
    ``terms`` are the settings as ``key=value``, by which the row is found, and ``runs`` are the
    rows of a sweep's runs.
    """

    kind: str
    name: str
    link: str
    started: str = ""
    picture: str = ""
    note: str = ""
    status: str = ""
    settings: list[str] = field(default_factory=lambda: [""] * len(COLUMNS))
    errors: list[str] = field(default_factory=lambda: [""] * 3)  # test, validation, training
    epochs: str = ""
    seconds: str = ""
    terms: list[str] = field(default_factory=list)
    runs: list["Row"] = field(default_factory=list)

    @property
    def minute(self) -> str:
        """Start without seconds: ``2026-11-27 09:30``."""
        return self.started[:16].replace("T", " ")

    @property
    def alt(self) -> str:
        """Description of the picture."""
        return ALT_TEXT[PurePosixPath(self.picture).name]


def browse(root: Path, open_browser: bool = False) -> None:
    """Write the page of the directory ``root``, unless nothing has changed, and print its name.

    Raises UsageError if there is no such directory or if it has an ``index.html`` of another
    program, and WriteError.
    """
    directory.require_directory(root)
    page = root / PAGE
    _refuse_foreign_page(page)
    index = update_index(root, _read_entry)
    is_current = page.is_file() and not index.changed
    if not is_current:
        write_index_page(page, index)
        index.save()  # after the page: a page that could not be written is written again
    runs = sum(entry.run is not None for entry in index.entries.values())
    state = "nothing has changed" if is_current else f"{index.read} read"
    print(f"{_count(runs, 'run')}, {state}. Page: {page}", flush=True)
    if open_browser and not webbrowser.open(page.absolute().as_uri()):
        log.warning("no web browser was found: open %s", page)


def _read_entry(path: Path, files: Files) -> Entry:
    # takes time to import; not needed if nothing has changed
    from mnistcnn.experiments.run_rows import read_entry

    return read_entry(path, files)


def _refuse_foreign_page(page: Path) -> None:
    try:
        with page.open("rb") as file:
            is_foreign = not re.search(GENERATOR, file.read(HEAD_BYTES))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{page} cannot be read: {error.strerror or error}") from error
    if is_foreign:
        raise UsageError(
            f"{page} was not written by mnistcnn.browse: move it, or give another directory"
        )


def write_index_page(page: Path, index: Index) -> None:
    """Write the page of an index. Raises WriteError."""
    from mnistcnn.pages.render import write_page  # takes time to import

    rows = index_rows(index)
    kinds = [row.kind for row in rows]
    runs = sum(entry.run is not None for entry in index.entries.values())
    others = [kind for kind in ("sweep", "comparison", "reproduction") if kind in kinds]
    counts = [_count(runs, "run"), *(_count(kinds.count(kind), kind) for kind in others)]
    write_page(
        page,
        "index.html",
        SCRIPTS,
        _search_data(rows),
        title=Path(os.path.abspath(index.root)).name,  # noqa: PTH100  (also of "..")
        counts=", ".join(counts),
        written_at=f"{datetime.now(UTC):%Y-%m-%d at %H:%M} UTC",
        rows=rows,
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _search_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the terms of each row of the table, as indices of a list of all terms.

    Terms that all runs have are listed once, in ``common``.
    """
    all_rows = [each for row in rows for each in (row, *row.runs)]
    runs = [set(row.terms) for row in all_rows if row.kind in ("run", "evaluation")]
    common = set.intersection(*runs) if runs else set()
    numbers: dict[str, int] = {}
    indices = [
        [numbers.setdefault(term, len(numbers)) for term in row.terms if term not in common]
        for row in all_rows
    ]
    return {"terms": list(numbers), "common": sorted(common), "rows": indices}


# Rows --------------------------------------------------------------------------------------------


def index_rows(index: Index) -> list[Row]:
    """Return the rows of the page, newest first; the runs of a sweep in the order of their start.

    A run belongs to the sweep of the nearest directory above it that has a ``sweep.json``.
    """
    entries = index.entries
    members: dict[str, dict[str, Entry]] = {
        path: {} for path, entry in entries.items() if directory.SWEEP in entry.files
    }
    rows = []
    for path, entry in entries.items():
        if entry.run is None:
            continue
        sweep = next((each for each in _with_parents(path) if each in members), None)
        if sweep is None:
            rows.append(_run_row(path, entry, entry.run, ".", index.root))
        else:
            members[sweep][path] = entry
    rows += [_sweep_row(path, entries[path], runs, index.root) for path, runs in members.items()]
    for kind, name in (
        ("comparison", directory.COMPARISON_HTML),
        ("reproduction", directory.REPRODUCTION_HTML),
    ):
        rows += [
            _page_row(kind, path, entry, name, index.root)
            for path, entry in entries.items()
            if name in entry.files
        ]
    return sorted(rows, key=lambda row: row.started, reverse=True)


def _with_parents(path: str) -> Iterable[str]:
    return map(str, (PurePosixPath(path), *PurePosixPath(path).parents))


def _run_row(path: str, entry: Entry, run: RunRow, parent: str, root: Path) -> Row:
    status = "running" if entry.running else run.status
    name = _name(path, parent, root)
    return Row(
        kind=run.kind,
        name=name,
        link=_link(path, entry, directory.RUN_PAGE),
        started=run.started_at,
        picture=_picture(path, entry, directory.TSNE, directory.CONFUSION_PNG),
        note="" if entry.running else run.reason,
        status=status,
        settings=[run.settings.get(key, "") for key in COLUMNS],
        errors=[*map(_percent, _errors(run))],
        epochs=str(run.epochs or ""),
        seconds=_seconds(run.seconds),
        terms=[
            f"kind={run.kind}",
            f"status={status}",
            *(f"{key}={value}" for key, value in run.settings.items()),
        ],
    )


def _sweep_row(path: str, entry: Entry, members: dict[str, Entry], root: Path) -> Row:
    """Return the row of a sweep, with the errors of its best group."""
    ordered = sorted(members.items(), key=lambda item: (_started(item[1]), item[0]))
    runs = [each.run for _, each in ordered if each.run is not None]
    best = _best_group(runs)
    seconds = [run.seconds for run in runs if run.seconds is not None]
    rows = [_run_row(name, each, each.run, path, root) for name, each in ordered if each.run]
    return Row(
        kind="sweep",
        name=_name(path, ".", root),
        link=_link(path, entry, directory.SUMMARY_HTML),
        started=min(filter(None, map(_started, members.values())), default=""),
        picture=_picture(path, entry, directory.VALIDATION_CURVES),
        note=_sweep_note(entry.swept_keys, runs, best),
        status=_sweep_status([row.status for row in rows]),
        settings=[_distinct(run.settings.get(key, "") for run in runs) for key in COLUMNS],
        errors=[_percent(_mean(column)) for column in zip(*map(_errors, best), strict=True)]
        or [""] * 3,
        epochs=f"{_mean([run.epochs for run in best]):g}" if best else "",
        seconds=_seconds(sum(seconds)) if seconds else "",
        terms=["kind=sweep"],
        runs=rows,
    )


def _page_row(kind: str, path: str, entry: Entry, page: str, root: Path) -> Row:
    """Return the row of a page; its start is the time at which it was written."""
    stamp = entry.files[page]
    written = datetime.fromtimestamp(stamp[0] / 1e9, UTC).isoformat() if stamp else ""
    return Row(
        kind=kind,
        name=_name(path, ".", root),
        link=_link(path, entry, page),
        started=written,
        picture=_picture(path, entry, directory.VALIDATION_CURVES),
        terms=[f"kind={kind}"],
    )


def _started(entry: Entry) -> str:
    return entry.run.started_at if entry.run is not None else ""


# The best group of a sweep -----------------------------------------------------------------------


def _best_group(runs: Sequence[RunRow]) -> list[RunRow]:
    """Return the runs of the group with the lowest mean validation error; empty without any."""
    groups: dict[str, list[RunRow]] = {}
    for run in runs:
        if run.usable:
            groups.setdefault(run.group, []).append(run)
    return min(groups.values(), key=_validation_error, default=[])


def _validation_error(runs: Sequence[RunRow]) -> float:
    return _mean([run.validation_error for run in runs])


def _errors(run: RunRow) -> tuple[float | None, float | None, float | None]:
    return run.test_error, run.validation_error, run.training_error


def _mean(values: Iterable[float | None]) -> float:
    numbers = [value for value in values if value is not None]  # a usable run has all of them
    first = numbers[0]  # the mean of equal numbers is exactly that number, as in the summary
    return first + sum(value - first for value in numbers) / len(numbers)


def _sweep_note(keys: Sequence[str], runs: Sequence[RunRow], best: Sequence[RunRow]) -> str:
    """Return the number of runs, and the settings of the best group that vary in the sweep."""
    note = _count(len(runs), "run")
    if not best:
        return note
    varying = [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
    chosen = [f"{key}={best[0].settings[key]}" for key in varying if key in best[0].settings]
    return f"{note}; best: {' '.join(chosen)} (n={len(best)})" if chosen else note


def _sweep_status(statuses: Sequence[str]) -> str:
    """Return ``finished`` or the statuses with their numbers, the most frequent first."""
    merged = ["finished" if status == "early_stopped" else status for status in statuses]
    kinds = sorted(set(merged), key=lambda status: (-merged.count(status), status))
    if len(kinds) == 1:
        return kinds[0]
    return ", ".join(f"{merged.count(kind)} {kind}" for kind in kinds)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, values)))


# Text --------------------------------------------------------------------------------------------


def _name(path: str, parent: str, root: Path) -> str:
    """Return the directory ``path`` as seen from ``parent``; its own name if it is the same."""
    if path != parent:
        return path if parent == "." else path.removeprefix(f"{parent}/")
    return PurePosixPath(path).name or Path(os.path.abspath(root)).name  # noqa: PTH100


def _link(path: str, entry: Entry, page: str) -> str:
    """Return the path of the entry's page, or of its directory if it has none."""
    return _join(path, page if page in entry.files else "")


def _picture(path: str, entry: Entry, *names: str) -> str:
    return next((_join(path, name) for name in names if name in entry.files), "")


def _join(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.2f}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.{1 if seconds < 100 else 0}f}"
