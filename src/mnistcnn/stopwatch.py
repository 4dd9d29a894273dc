"""Commands timed from outside, each in a fresh process."""

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnistcnn import rundir
from mnistcnn.errors import PlainError

LOOK = 0.01  # seconds between two looks for a file
PATIENCE = 600.0  # seconds until a first batch is given up


@dataclass(frozen=True)
class TimedRun:
    """A run of ``mnistcnn.train``: its wall time in seconds, and what it left."""

    seconds: float
    metrics: dict
    history: list[dict]


def seconds_of(arguments: Sequence[str]) -> float:
    """Wall time of ``python ARGUMENTS`` from its start to its end. Raises PlainError."""
    return _timed(arguments)[0]


def run(overrides: Sequence[str], out: Path) -> TimedRun:
    """Do ``python -m mnistcnn.train OVERRIDES`` in ``out``. Raises PlainError where it fails."""
    seconds = seconds_of(["-m", "mnistcnn.train", *overrides, _in(out)])
    metrics = json.loads((out / rundir.METRICS).read_text())
    return TimedRun(seconds, metrics, rundir.read_history(out))


def seconds_to_first_batch(overrides: Sequence[str], out: Path) -> float:
    """From the start of ``python -m mnistcnn.train OVERRIDES`` to its first batch.

    Right before that it writes its first checkpoint, whose time counts; then it is killed. Raises
    PlainError where it ends before.
    """
    start = time.time()
    with _started(["-m", "mnistcnn.train", *overrides, _in(out)]) as process:
        last = out / rundir.LAST
        while not last.exists():
            if process.poll() is not None or time.time() - start > PATIENCE:
                raise PlainError("the run has not come to its first batch")
            time.sleep(LOOK)
        return last.stat().st_mtime_ns / 1e9 - start


def seconds_to_printed_time(arguments: Sequence[str]) -> float:
    """From the start of ``python ARGUMENTS`` to the time (seconds since 1970) that it prints last.

    Raises PlainError where it fails.
    """
    start = time.time()
    printed = _timed(arguments)[1].split()
    return float(printed[-1]) - start


def epochs_seconds(history: list[dict]) -> float:
    """Of these epochs, scoring included, as a run's own history has them."""
    return math.fsum(row["seconds"] for row in history)


def training_seconds(history: list[dict], samples: int) -> float:
    """The same without scoring, of epochs over ``samples`` images each."""
    return math.fsum(samples / row["samples_per_second"] for row in history)


def _in(out: Path) -> str:
    return f"hydra.run.dir='{out}'"


def _timed(arguments: Sequence[str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        words = _last_words(done.stderr)
        raise PlainError(f"python {' '.join(arguments)} failed ({done.returncode}): {words}")
    return seconds, done.stdout


@contextlib.contextmanager
def _started(arguments: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A process that is killed at the end of the context, and heard of only where it fails."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output)
        try:
            yield process
        except PlainError as error:
            output.seek(0)
            words = _last_words(output.read().decode(errors="replace"))
            raise PlainError(f"{error}: {words}") from error
        finally:
            process.kill()
            process.wait()


def _last_words(text: str) -> str:
    """The last lines of an output, as one."""
    return " ".join(text.split("\n")[-4:]).strip()
