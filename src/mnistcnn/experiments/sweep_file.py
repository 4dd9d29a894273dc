"""Record the command of a sweep in ``sweep.json``, and sort runs by the order of its values."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mnistcnn.config.defaults import LOCATION_KEYS
from mnistcnn.config.load import FORMAT, flatten
from mnistcnn.config.schema import EvaluateSettings, TrainSettings
from mnistcnn.experiments.groups import display_value, full_key, group_key, label
from mnistcnn.runs.directory import HASH_LENGTH, SWEEP
from mnistcnn.runs.identity import NON_IDENTITY_KEYS, config_sha256
from mnistcnn.runs.metrics_file import current_time
from mnistcnn.runs.store import Run
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import MnistcnnError
from mnistcnn.system.locks import lock_run_dir
from mnistcnn.system.quoting import join_arguments

log = logging.getLogger(__name__)

UNKNOWN_TIME = "~"  # sorts after all times
# Settings of a machine or a user, which a page leaves out.
MACHINE_KEYS = (
    *LOCATION_KEYS,
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.searchpath",
    "hydra.sweeper.storage",
)
MACHINE_PREFIXES = ("hydra.launcher.", "hydra.job.")
MACHINE_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp")  # of Hydra
NOT_TYPED = -1  # the index of a value that no command sets: the default of an earlier command

Values = dict[str, list[str]]  # the values of settings as displayed, in the order as typed


class Position(NamedTuple):
    """The place of a run among the runs below a directory; positions are compared.

    ``sweep_start`` is the start of the first run of the sweep in the directory ``sweep``,
    ``values`` the index of the run's value for each setting of ``sweep.json``, and ``start`` the
    start of the run. Times are UTC.
    """

    sweep_start: str
    sweep: Path
    values: tuple[int, ...]
    start: str


def record_sweep(
    sweep_dir: Path,
    command: Sequence[str],
    keys: Iterable[str],
    jobs: Sequence[TrainSettings | EvaluateSettings],
    threads: int | None = None,
) -> int | None:
    """Write ``sweep.json``, or add a further command of the same sweep to it.

    ``keys`` are the settings that were typed, in their order, and ``jobs`` the settings of all jobs
    in their order; none if the sweeper chooses them. The order of an earlier command is kept, and
    new values are appended; the jobs are those of the last command. Another process that writes the
    file is waited for. A file that cannot be read is replaced; a line says so, also if the file
    cannot be written.

    ``threads`` is the number of threads of a job; None if it is not known. Return the number of the
    first command: the last digits of the results depend on it.
    """
    try:
        with lock_run_dir(sweep_dir, wait=True):
            content = _read(sweep_dir)
            if content is None and (sweep_dir / SWEEP).exists():
                log.warning("%s cannot be read and is replaced", sweep_dir / SWEEP)
            content = content or _new_content()
            content["threads"] = threads = content["threads"] or threads
            _add_command(content, command, keys, jobs)
            write_json(sweep_dir / SWEEP, content)
    except MnistcnnError as error:
        log.warning("%s", error)
    return threads


def _new_content() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "started_at": current_time(),
        "threads": None,
        "commands": [],
        "values": {},
        "jobs": {},
    }


def _add_command(
    content: dict[str, Any],
    command: Sequence[str],
    keys: Iterable[str],
    jobs: Sequence[TrainSettings | EvaluateSettings],
) -> None:
    """Add a command, and its values that are new, to the content of ``sweep.json``."""
    if list(command) not in content["commands"]:
        content["commands"].append(list(command))
    settings = [flatten(asdict(job)) for job in jobs]
    for key in dict.fromkeys([*content["values"], *keys]):
        typed = [display_value(each[name]) for each in settings if (name := full_key(key, each))]
        if values := [*dict.fromkeys([*content["values"].get(key, []), *typed])]:
            content["values"][key] = values
    varying = [key for key, typed in content["values"].items() if len(typed) > 1]
    label_keys = varying or [key for key in content["values"] if key not in NON_IDENTITY_KEYS]
    content["jobs"] = {}
    for job, flat in zip(jobs, settings, strict=True):
        if isinstance(job, TrainSettings):
            names = [name for key in label_keys if (name := full_key(key, flat))]
            content["jobs"][config_sha256(job)] = label(flat, names) or "a single run"


def typed_values(sweep_dir: Path) -> Values:
    """Return the values in ``sweep.json`` by setting; empty if there is no readable file."""
    content = _read(sweep_dir)
    return content["values"] if content else {}


def sweep_commands(sweep_dir: Path) -> list[str]:
    """Return the commands in ``sweep.json`` as typed, without settings of a machine.

    The list is empty if there is no readable file.
    """
    content = _read(sweep_dir)
    commands = content["commands"] if content else []
    return [join_arguments(without_machine_settings(command)) for command in commands]


def without_machine_settings(command: Sequence[str]) -> list[str]:
    """Return the words of a command without settings of a machine or a user."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if word in MACHINE_OPTIONS:
            next(words, None)
        elif not (key in (*MACHINE_KEYS, *MACHINE_OPTIONS) or key.startswith(MACHINE_PREFIXES)):
            kept.append(word)
    return kept


def jobs_not_started(runs: Sequence[Run], root: Path) -> dict[Path, list[str]]:
    """Return the varying settings of jobs without a run, by the directory of their sweep.

    The sweeps are those of ``runs``, which are below ``root``.
    """
    started = {run.config_sha256 for run in runs}
    names = [run.path.name for run in runs]  # of a run with added epochs, the hash has changed
    missing = {}
    for sweep in sorted({_sweep_dir(run.path, root) for run in runs}):
        content = _read(sweep)
        missing[sweep] = [
            settings
            for sha256, settings in (content["jobs"] if content else {}).items()
            if sha256 not in started
            and not any(name.endswith(sha256[:HASH_LENGTH]) for name in names)
        ]
    return missing


def _read(sweep_dir: Path) -> dict[str, Any] | None:
    """Return the content of ``sweep.json``; None if it is missing or not as written."""
    try:
        content = json.loads((sweep_dir / SWEEP).read_text())
        lists = [*content["commands"], *content["values"].values()]
        texts = [content["started_at"], *(text for each in lists for text in each)]
        texts += [*content["jobs"], *content["jobs"].values()]
        threads = content["threads"]
        valid = threads is None or (type(threads) is int and threads > 0)
        valid &= content["format"] == FORMAT and all(isinstance(each, str) for each in texts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return content if valid and all(isinstance(each, list) for each in lists) else None


def sort_as_typed(runs: Iterable[Run], root: Path) -> list[Run]:
    """Sort runs below ``root``: groups by :func:`group_positions`, then runs by seed.

    The order depends on the directories' names only where the files' contents do not decide it.
    """
    runs = list(runs)
    positions = group_positions(runs, root)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return [
        run
        for key in sorted(groups, key=positions.__getitem__)
        for run in sorted(groups[key], key=lambda run: run.settings.get("seed", 0))
    ]


def group_positions(runs: Sequence[Run], root: Path) -> dict[str, Position]:
    """Return the position of the first run of each group below ``root``, by the group's key.

    A run belongs to the sweep of the nearest directory above it that has a ``sweep.json``; without
    one, the run's directory counts as its sweep.
    """
    sweeps = {run.path: _sweep_dir(run.path, root) for run in runs}
    values = {sweep: typed_values(sweep) for sweep in set(sweeps.values())}
    starts = dict.fromkeys(values, UNKNOWN_TIME)
    for run in runs:
        sweep = sweeps[run.path]
        starts[sweep] = min(starts[sweep], run.started_at or UNKNOWN_TIME)
    positions: dict[str, Position] = {}
    for run in runs:
        sweep = sweeps[run.path]
        indices = _indices(run.typed_settings, values[sweep])
        position = Position(starts[sweep], sweep, indices, run.started_at or UNKNOWN_TIME)
        key = group_key(run)
        positions[key] = min(position, positions.get(key, position))
    return positions


def _sweep_dir(run_dir: Path, root: Path) -> Path:
    """Return the directory of the run's sweep, or ``run_dir`` if it is in no sweep."""
    for folder in (run_dir, *run_dir.parents):
        if (folder / SWEEP).is_file():
            return folder
        if folder == root:
            break
    return run_dir


def _indices(settings: dict[str, Any], values: Values) -> tuple[int, ...]:
    """Return the index of each varying setting's value, first the setting that was typed first."""
    indices = []
    for key, typed in values.items():
        if len(typed) > 1 and key != "seed":
            value = display_value(settings.get(full_key(key, settings) or key))
            indices.append(typed.index(value) if value in typed else NOT_TYPED)
    return tuple(indices)
