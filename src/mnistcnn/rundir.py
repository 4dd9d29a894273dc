"""A run's directory: the names in it, how they are written, and where a result came from."""

import contextlib
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mnistcnn.errors import PlainError, UsageError
from mnistcnn.files import write_bytes

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

# Of a run's directory, but for its log; what it is known by comes last, and is removed last.
CONTENTS = [
    HISTORY, PREDICTIONS, BEST, LAST, CURVES, CONFUSION_PNG, CONFUSION_CSV, MISCLASSIFIED, TSNE,
    NEIGHBOURS, AUGMENTED, SUMMARY, CONFIG, METRICS,
]  # fmt: skip

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
    taken = [name for name in (METRICS, HISTORY) if (path / name).exists()]
    if taken:
        raise UsageError(
            f"{key}={path} already holds a run ({taken[0]}): name another directory, "
            "or delete this one"
        )
    return path


def clear(path: Path) -> None:
    """Remove the files of a run that came to no good end; its log stays, and goes on."""
    for name in CONTENTS:
        (path / name).unlink(missing_ok=True)


def note_failure(path: Path, reason: str, known: dict) -> None:
    """Say in ``metrics.json`` why a run ended that could not say so itself.

    ``known`` is said beside it. A run that has said how it ended is left alone.
    """
    file = path / METRICS
    values = {"status": "interrupted"}
    with contextlib.suppress(OSError, ValueError):  # not there, or cut off
        values = json.loads(file.read_text())
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
    with open(path / HISTORY, "a") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_history(path: Path) -> list[dict]:
    """The rows of ``history.jsonl`` in ``path``; none where there is no such file.

    A last line without its end, of a run that was killed while it wrote, is left out.
    """
    file = path / HISTORY
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@contextlib.contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Write what mnistcnn logs to ``file`` as well, for as long as the context lasts."""
    handler = logging.FileHandler(file)
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
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start

    def write(self) -> None:
        seconds = self.seconds | {"total": time.perf_counter() - self.start}
        write_json(self.out / METRICS, self.values | {"seconds": seconds})


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
        try:
            yield kept
        except KeyboardInterrupt:
            kept.values |= {"status": "interrupted", "error": "interrupted from the keyboard"}
            log.warning("interrupted")
            raise
        except Exception as error:
            kept.values |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            log.debug("failed", exc_info=True)
            raise
        finally:
            try:
                kept.write()
            except OSError as error:
                reason = error.strerror or error
                raise PlainError(f"{out / METRICS} cannot be written: {reason}") from error
        log.info("%.1f s; everything is in %s", time.perf_counter() - kept.start, out)
