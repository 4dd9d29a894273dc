"""Find the runs, sweeps and pages below a directory, and keep what was read of them in a cache."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnistcnn import __version__
from mnistcnn.runs import directory
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.locks import LOCK_FILE, is_locked

log = logging.getLogger(__name__)

CACHE = ".index.json"
FORMAT = 1  # of the cache; increment it if the classes below or their values change

# A directory is read again if one of these files has changed.
SOURCES = (
    directory.METRICS,
    directory.CONFIG,
    directory.HISTORY,
    directory.PREDICTIONS,
    directory.SWEEP,
)
PAGES = (
    directory.RUN_PAGE,
    directory.SUMMARY_HTML,
    directory.COMPARISON_HTML,
    directory.REPRODUCTION_HTML,
)
THUMBNAILS = (directory.TSNE, directory.CONFUSION_PNG, directory.VALIDATION_CURVES)
NAMES = frozenset((*SOURCES, *PAGES, *THUMBNAILS, LOCK_FILE))

# A directory with one of these has an entry.
MARKS = frozenset(
    (
        directory.METRICS,
        directory.SWEEP,
        directory.COMPARISON_HTML,
        directory.REPRODUCTION_HTML,
    )
)
DATED = frozenset((*SOURCES, directory.COMPARISON_HTML, directory.REPRODUCTION_HTML))

# Time of the last change in nanoseconds and size in bytes; None for a file that is not in DATED.
Stamp = list[int] | None
Files = dict[str, Stamp]  # by name


@dataclass(frozen=True)
class RunRow:
    """What the index shows of a run; None and empty text stand for what is not recorded.

    ``settings`` are the displayed values by the displayed name, and ``group`` is equal for runs
    that differ only in their seeds.
    """

    kind: str
    status: str
    reason: str
    started_at: str
    test_error: float | None
    validation_error: float | None
    training_error: float | None
    epochs: int
    seconds: float | None
    settings: dict[str, str]
    group: str
    usable: bool


@dataclass
class Entry:
    """A directory with a run, a sweep or a page.

    ``files`` are the files of NAMES that it has. ``run`` is its run, ``swept_keys`` are the
    displayed names of the settings in the commands of its sweep, and ``running`` says whether a
    process is writing the run.
    """

    files: Files
    run: RunRow | None = None
    swept_keys: list[str] = field(default_factory=list)
    running: bool = False


@dataclass(frozen=True)
class Index:
    """The entries below ``root`` by their relative path with slashes, ``.`` for ``root`` itself.

    ``changed`` says whether they differ from those of the cache, and ``read`` is the number of
    directories whose files were read.
    """

    root: Path
    entries: dict[str, Entry]
    changed: bool
    read: int

    def save(self) -> None:
        """Write the cache. Raises WriteError."""
        # vars instead of asdict, which copies each value
        entries = {
            path: vars(entry) | {"run": entry.run and vars(entry.run)}
            for path, entry in self.entries.items()
        }
        content = {"format": FORMAT, "version": __version__, "entries": entries}
        write_text(self.root / CACHE, json.dumps(content, separators=(",", ":")))


def update_index(root: Path, read_entry: Callable[[Path, Files], Entry]) -> Index:
    """Return what is below the directory ``root``; of files that have not changed, from the cache.

    ``read_entry`` reads a directory with these files. Nothing is written.
    """
    cached = _load(root / CACHE)
    entries: dict[str, Entry] = {}
    read = 0
    for path, files in sorted(_scan(root)):
        cached_entry = cached.get(path) if cached is not None else None
        if cached_entry is not None and _sources(cached_entry.files) == _sources(files):
            entry = Entry(files, cached_entry.run, cached_entry.swept_keys)
        else:
            entry, read = read_entry(root / path, files), read + 1
        is_interrupted = entry.run is not None and entry.run.status == "interrupted"
        entry.running = is_interrupted and LOCK_FILE in files and is_locked(root / path)
        entries[path] = entry
    return Index(root, entries, changed=entries != cached, read=read)


def _sources(files: Files) -> Files:
    return {name: files[name] for name in SOURCES if name in files}


def _load(file: Path) -> dict[str, Entry] | None:
    """Return the entries of the cache; None if it cannot be read or has another format."""
    try:
        content = json.loads(file.read_text())
        if (content["format"], content["version"]) != (FORMAT, __version__):
            return None
        return {path: _entry(values) for path, values in content["entries"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _entry(values: dict[str, Any]) -> Entry:
    run = None if values["run"] is None else RunRow(**values["run"])
    entry = Entry(**values | {"run": run})
    texts = [*entry.files, *entry.swept_keys]
    if run is not None:
        texts += [run.kind, run.status, run.reason, run.started_at, run.group]
        texts += [*run.settings, *run.settings.values()]
        errors = (run.test_error, run.validation_error, run.training_error)
        numbers = [each for each in (*errors, run.seconds) if each is not None]
        if not all(isinstance(each, int | float) for each in (run.epochs, *numbers)):
            raise TypeError("not a number")
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("not a text")
    return entry


# The directories ---------------------------------------------------------------------------------


def _scan(root: Path) -> Iterator[tuple[str, Files]]:
    """Yield the relative path of each directory that has a file of MARKS, and its files of NAMES.

    Hidden directories and symbolic links to directories are left out, and directories that cannot
    be listed, with a warning.
    """
    folders = ["."]
    while folders:
        folder = folders.pop()
        files: Files = {}
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name in NAMES:
                        if entry.is_file():
                            files[name] = _stamp(entry) if name in DATED else None
                    elif not name.startswith(".") and entry.is_dir(follow_symlinks=False):
                        folders.append(name if folder == "." else f"{folder}/{name}")
        except FileNotFoundError:  # removed in the meantime
            continue
        except OSError as error:
            log.warning("%s cannot be read: %s", root / folder, error.strerror or error)
        if not MARKS.isdisjoint(files):
            yield folder, files


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        status = entry.stat()
    except OSError:  # removed in the meantime
        return None
    return [status.st_mtime_ns, status.st_size]
