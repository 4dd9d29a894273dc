"""Faults that tests inject in a subprocess which runs a command: the source has no code for it."""

import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from mnistcnn.evaluation import figures, mosaic, scatter
from mnistcnn.experiments.job_process import PRELOAD_MODULES
from mnistcnn.system import atomic_files

# keys whose values are measurements of the computer
MEASURED_KEYS = {"started_at", "seconds", "samples_per_second", "peak_memory_bytes"}


def without_measurements(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_measurements(value[key]) for key in value if key not in MEASURED_KEYS}
    if isinstance(value, list | tuple):
        return [without_measurements(element) for element in value]
    return value


# Faults ------------------------------------------------------------------------------------------

# moments of a write: half of the content written, all of it written, and the file renamed
MOMENTS = ("half", "before", "after")


def inject_fault(moment: str, number: int, fault: Callable[[Path], None]) -> None:
    """Call ``fault(path)`` at a moment of the write ``number`` (from 1) of this process.

    ``moment`` is one of MOMENTS, or ``start`` for before the file is opened.
    """
    count = itertools.count(1)
    as_write_error, flush_to_disk = atomic_files._as_write_error, atomic_files._flush_to_disk
    os_replace = os.replace
    current: list[Path] = []  # the file being written, if its write is the chosen one
    sizes: dict[Path, int] = {}  # bytes of that file before

    @contextlib.contextmanager
    def count_write(path: Path):
        current[:] = [path] if next(count) == number else []
        sizes[path] = path.stat().st_size if path.exists() else 0
        if current and moment == "start":
            fault(path)
        with as_write_error(path):
            yield

    def flush(file) -> None:
        file.flush()
        if current and moment == "half":
            path, status = current[0], os.fstat(file.fileno())
            is_appended = path.exists() and os.path.samestat(status, path.stat())
            start = sizes[path] if is_appended else 0  # an append cannot change earlier lines
            os.ftruncate(file.fileno(), start + (status.st_size - start) // 2)
            fault(path)
        flush_to_disk(file)

    def replace(source, target) -> None:
        if current and moment == "before":
            fault(current[0])
        os_replace(source, target)
        if current and moment == "after":
            fault(current[0])

    atomic_files._as_write_error, atomic_files._flush_to_disk = count_write, flush
    os.replace = replace


def kill(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(path: Path) -> None:
    """Limit the size of all files that this process writes from now on to a few bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def deny_writing(path: Path) -> None:
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    atomic_files.tempfile.mkstemp = fail


def write_data_instead_of_pictures() -> None:
    """Make this process write the data of its pictures instead of drawing them, which is faster."""

    def write_data(path: Path, *data: object) -> None:
        text = json.dumps(without_measurements(data), default=lambda array: array.tolist())
        atomic_files.write_text(path, text)

    for name in ("confusion_matrix", "curves"):
        setattr(figures, name, write_data)
    scatter.tsne = write_data
    for name in ("misclassified", "neighbours", "augmented"):
        setattr(mosaic, name, write_data)


# Processes ---------------------------------------------------------------------------------------

# modules that the commands import when they are called, and that are slow to import
COMMAND_MODULES = [
    "mnistcnn.cli.hydra_command",
    "mnistcnn.experiments.comparison",
    "sklearn.decomposition",
    "sklearn.neighbors",
]


def start_process(function: Callable, *arguments: object) -> multiprocessing.Process:
    """Start a process forked from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *PRELOAD_MODULES, *COMMAND_MODULES])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def run_in_process(function: Callable, *arguments: object) -> None:
    process = start_process(function, *arguments)
    process.join()
    assert process.exitcode == 0
