"""A run's directory: the names in it, how they are written, and where a result came from."""

import contextlib
import hashlib
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from mnistcnn.errors import DamagedError, PlainError, UsageError, WriteError
from mnistcnn.files import append_bytes, remove_leftovers, write_bytes

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
LOG = "train.log"
EVALUATE_LOG = "evaluate.log"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
PREDICTIONS = "predictions.npz"
BEST = "best.pt"
LAST = "last.pt"
CURVES = "curves.png"
CONFUSION_PNG = "confusion_matrix.png"
CONFUSION_CSV = "confusion_matrix.csv"
MISCLASSIFIED = "misclassified.png"
TSNE = "tsne.png"
NEIGHBOURS = "neighbours.png"
AUGMENTED = "augmented.png"
SUMMARY = "model_summary.txt"
LOCK = ".lock"

# Of a run's directory, but for its log: what comes after the last epoch, and what comes before.
# What a run is known by comes last, and is removed last.
RESULTS = [
    PREDICTIONS, CURVES, CONFUSION_PNG, CONFUSION_CSV, MISCLASSIFIED, TSNE, NEIGHBOURS, AUGMENTED,
    SUMMARY,
]  # fmt: skip
TRAINING = [HISTORY, BEST, LAST, CONFIG, METRICS]

TIMINGS = ("seconds", "samples_per_second")  # what two runs of the same may differ in
SLUG_LENGTH = 100

PACKAGES = [
    "mnistcnn", "torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scipy",
    "scikit-learn", "matplotlib",
]  # fmt: skip


def create(path: Path, key: str) -> Path:
    """Make a directory for a new run, or take one that holds none yet.

    ``key`` is the setting that named it. Raises UsageError where it cannot be written, or holds a
    run already: results are never overwritten.
    """
    path = Path(path).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"{key}={path} cannot be written ({error.strerror or error}): name another directory"
        ) from error
    refuse_taken(path, key)
    return path


def refuse_taken(path: Path, key: str) -> None:
    """Raise UsageError where ``path`` holds a run already; ``key`` is the setting that named it."""
    taken = [name for name in (METRICS, HISTORY) if (path / name).exists()]
    if taken:
        raise UsageError(
            f"{key}={path} already holds a run ({taken[0]}): name another directory, "
            "or delete this one"
        )


@contextlib.contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a run's directory.

    Where another is in it: wait for it, or raise UsageError. A process may enter where it is. The
    lock file stays: who removes it lets two in, one by the old file and one by a new one.
    """
    lock = FileLock(path / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UsageError(
                f"{path} is being written by another process: wait for it, or stop it first"
            ) from None
        log.info("another process is at it, waiting: %s", path.name)
        lock.acquire()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def clear(path: Path) -> None:
    """Remove the files of a run that came to no good end; its log stays, and goes on."""
    clear_results(path)
    for name in TRAINING:
        (path / name).unlink(missing_ok=True)


def clear_results(path: Path) -> None:
    """Remove what a run wrote after its last epoch."""
    for name in RESULTS:
        (path / name).unlink(missing_ok=True)


def clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed left half written."""
    for name in (*RESULTS, *TRAINING):
        remove_leftovers(path / name)


def note_failure(path: Path, reason: str, known: dict) -> None:
    """Say in ``metrics.json`` why a run ended that could not say so itself.

    ``known`` is said beside it. A run that has said how it ended is left alone.
    """
    file = path / METRICS
    values = {"status": "interrupted"} | _metrics(file)
    if values["status"] == "interrupted" and "error" not in values:
        write_json(file, known | values | {"status": "failed", "error": reason})


def slug(text: str) -> str:
    """``text`` as a directory name that needs no quotes anywhere: ``a=1,b=[2,3]`` is ``a-1_b-2-3``.

    At most SLUG_LENGTH characters of letters, digits, dot, dash and underscore.
    """
    parts = re.split(r",(?=[\w.+~-]+=)", text)
    clean = (re.sub(r"[^\w.]+", "-", part, flags=re.ASCII).strip("-") for part in parts)
    return "_".join(clean)[:SLUG_LENGTH]


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_history(path: Path, row: dict) -> None:
    """Add an epoch's row to ``history.jsonl`` in ``path``."""
    append_bytes(path / HISTORY, _lines([row]))


def write_history(path: Path, rows: Iterable[dict]) -> None:
    """Make these rows all that there is."""
    write_bytes(path / HISTORY, _lines(rows))


def _lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def read_history(path: Path) -> list[dict]:
    """The rows of ``history.jsonl`` in ``path``; none where there is no such file.

    A last line without its end, of a run that was killed while it wrote, is left out. Raises
    PlainError where another line is no row.
    """
    file = path / HISTORY
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in _whole_lines(file)]
    except (OSError, ValueError) as error:
        raise PlainError(f"{file} is damaged ({error})") from error


def history_sha256(history: Iterable[dict]) -> str:
    """Of rows of ``history.jsonl``, but for the time that they took: as a checkpoint knows them."""
    timeless = [{key: row[key] for key in row if key not in TIMINGS} for row in history]
    return hashlib.sha256(json.dumps(timeless, sort_keys=True).encode()).hexdigest()


def verified_history(path: Path, epochs: int, sha256: str) -> list[dict]:
    """The first ``epochs`` rows of ``history.jsonl``, which have that :func:`history_sha256`.

    Raises DamagedError where they have not: a row was lost or changed.
    """
    file = path / HISTORY
    try:
        lines = _whole_lines(file)[:epochs] if file.exists() else []
        history = [json.loads(line) for line in lines]
        intact = history_sha256(history) == sha256
    except (ValueError, TypeError):  # not JSON, or not rows
        intact = False
    if not intact:
        raise DamagedError(
            f"{file} is damaged: it does not begin with the {epochs} epochs that {LAST} knows. "
            "Train it anew elsewhere"
        )
    return history


def _whole_lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


class _LogFile(logging.FileHandler):
    """A full disk, or a directory in its place, costs the log alone."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # of opening it
            super().emit(record)


@contextlib.contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Write what mnistcnn logs to ``file`` as well, for as long as the context lasts."""
    handler = _LogFile(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("mnistcnn")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)  # tracebacks go to the file; a console sets a level of its own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit of this source, with ``-dirty`` behind it where files were changed since.

    None where the package does not lie in a repository that tracks it.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def peak_memory_bytes() -> int | None:
    """The largest resident set of this process so far, earlier runs in it included.

    None where the system doesn't tell.
    """
    # On Linux getrusage counts what the process that started this one had, too.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Record:
    """What becomes ``metrics.json``: values gathered as they become known, seconds by phase."""

    def __init__(self, out: Path):
        self.out = out
        # written at once: what a process that is killed leaves behind is an interrupted run
        self.values: dict = {"status": "interrupted"}
        self.before = _metrics(out / METRICS)  # of the processes before, where the run goes on
        self.seconds: dict[str, float] = _dict(self.before, "seconds")
        self.start = time.perf_counter() - self.seconds.pop("total", 0.0)
        self.under_way: dict[str, float] = {}  # phases, and when they began

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.under_way[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self._spent(name)
            del self.under_way[name]

    def _spent(self, name: str) -> float:
        return self.seconds.get(name, 0.0) + time.perf_counter() - self.under_way[name]

    def write(self) -> None:
        seconds = self.seconds | {name: self._spent(name) for name in self.under_way}
        seconds["total"] = time.perf_counter() - self.start
        write_json(self.out / METRICS, self.values | {"seconds": seconds})


def _end(error: BaseException) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": str(error) or "interrupted from the keyboard"}
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _metrics(file: Path) -> dict:
    """What ``metrics.json`` holds; nothing where there is none, or none that can be read."""
    try:
        values = json.loads(file.read_text())
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def _dict(values: dict, key: str) -> dict:
    value = values.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _warn_of_other_code(before: dict, now: dict) -> None:
    """Say that a run goes on with other code than it began with, which may give other bytes."""
    versions = _dict(before, "versions")
    other = [f"{n} {versions[n]}" for n in versions if versions[n] != now["versions"].get(n)]
    if before.get("git_commit") not in (None, now["git_commit"]):
        other.append(f"commit {before['git_commit']}")
    if other:
        log.warning("this run began with other code than it goes on with: %s", ", ".join(other))


@contextlib.contextmanager
def record(out: Path, log_name: str, known: dict | None = None) -> Iterator[Record]:
    """Keep the log and the record of what happens in ``out``, however it ends.

    ``known`` are values to begin with. An error is noted (``status``, ``error``, its traceback in
    the log file) and raised again.
    """
    kept = Record(out)
    kept.values |= {**(known or {}), "versions": versions(), "git_commit": git_commit()}
    kept.write()
    with log_to(out / log_name):
        _warn_of_other_code(kept.before, kept.values)
        try:
            yield kept
        except BaseException as error:
            kept.values |= _end(error)
            with contextlib.suppress(WriteError):  # the first error is the one to tell
                kept.write()
            log.debug("%s", kept.values["error"], exc_info=kept.values["status"] == "failed")
            raise
        kept.write()
        log.info("%.1f s; everything is in %s", time.perf_counter() - kept.start, out)
