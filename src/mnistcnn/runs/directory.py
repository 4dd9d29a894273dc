"""Name the files of a run's directory; create and clear such a directory."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mnistcnn.system.atomic_files import remove_temporary_files
from mnistcnn.system.errors import UsageError
from mnistcnn.system.quoting import override, quote_argument

CONFIG = "config.yaml"
LOG = "train.log"
EVALUATE_LOG = "evaluate.log"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
SWEEP = "sweep.json"  # in the directory of a sweep
SUMMARY_HTML = "summary.html"  # of a sweep
VALIDATION_CURVES = "validation_curves.png"  # of a sweep or a comparison
COMPARISON_HTML = "comparison.html"
REPRODUCTION_HTML = "reproduction.html"
PREDICTIONS = "predictions.npz"
BEST = "best.pt"
LAST = "last.pt"
NEXT_BEST = ".best.pt"  # the best.pt that belongs to the next last.pt
CURVES = "curves.png"
CONFUSION_PNG = "confusion_matrix.png"
CONFUSION_CSV = "confusion_matrix.csv"
MISCLASSIFIED = "misclassified.png"
TSNE = "tsne.png"
NEIGHBOURS = "neighbours.png"
AUGMENTED = "augmented.png"
MODEL_SUMMARY = "model_summary.txt"
RUN_PAGE = "run.html"
EVENT_FILES = "events.out.tfevents.*"  # of TensorBoard, one per process

# Written after the scores; a run without some of them is complete.
PICTURES = [
    CURVES,
    CONFUSION_PNG,
    CONFUSION_CSV,
    MISCLASSIFIED,
    TSNE,
    NEIGHBOURS,
    AUGMENTED,
    MODEL_SUMMARY,
    RUN_PAGE,
]
# Written after the last epoch.
RESULT_FILES = [PREDICTIONS, *PICTURES]
# Written earlier. CONFIG and METRICS identify the run and are therefore removed last.
TRAINING_FILES = [HISTORY, NEXT_BEST, BEST, LAST, CONFIG, METRICS]

RUN_DIR_KEY = "hydra.run.dir"
HASH_LENGTH = 10  # hexadecimal digits in the name of a sweep's run
MAX_SLUG_LENGTH = 100


def expected_pictures(pictures: bool, tsne_samples: int) -> list[str]:
    """Return those of PICTURES that the settings ``pictures`` and ``tsne.samples`` ask for."""
    return [
        name
        for name in PICTURES
        if (pictures or not name.endswith((".png", ".html"))) and (tsne_samples or name != TSNE)
    ]


def create_run_dir(path: Path, key: str) -> Path:
    """Create a directory for new results and return its absolute path.

    ``key`` is the setting that names the directory. Raises UsageError if the directory cannot be
    written or already holds a run: results are never overwritten.
    """
    path = Path(path).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"{key}={path} cannot be written ({error.strerror or error}): choose another directory"
        ) from error
    refuse_existing_run(path, key)
    return path


def require_directory(path: Path) -> None:
    """Raise UsageError if ``path`` is not a directory."""
    if not path.is_dir():
        kind = "is a file, not a directory" if path.exists() else "does not exist"
        raise UsageError(f"{path} {kind}")


def missing_directories(path: Path) -> list[Path]:
    """Return ``path`` and those of its parents that do not exist, deepest first."""
    # Path.exists would raise PermissionError
    return [each for each in (path, *path.parents) if not os.path.exists(each)]  # noqa: PTH110


def remove_empty_directories(paths: Iterable[Path]) -> None:
    """Remove those of ``paths``, deepest first, that exist and are empty."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.rmdir()


def refuse_existing_run(path: Path, key: str) -> None:
    """Check that ``path``, the value of the setting ``key``, does not hold a run.

    Raises UsageError if it does.
    """
    existing = [name for name in (METRICS, HISTORY) if (path / name).exists()]
    if existing:
        line = f"{key}={path} already holds a run ({existing[0]}): choose another directory"
        if key == RUN_DIR_KEY:
            line += f", or resume the run with {quote_argument(override('resume', path))}"
        raise UsageError(line)


def remove_run_files(run_dir: Path) -> None:
    """Remove all files of a failed run except its log, which the next attempt continues."""
    for event_file in run_dir.glob(EVENT_FILES):
        event_file.unlink(missing_ok=True)
    for name in (*RESULT_FILES, *TRAINING_FILES):
        (run_dir / name).unlink(missing_ok=True)


def remove_unfinished_files(run_dir: Path) -> None:
    """Remove the temporary files of processes that were killed while writing."""
    for name in (*RESULT_FILES, *TRAINING_FILES):
        remove_temporary_files(run_dir / name)


def slugify(text: str) -> str:
    """Convert overrides to a directory name: ``a=1,b=[2,3]`` becomes ``a-1_b-2-3``.

    The name has at most MAX_SLUG_LENGTH letters, digits, dots, dashes and underscores, which need
    no quotes in a shell.
    """
    parts = re.split(r",(?=[\w.+~-]+=)", text)
    slugs = (re.sub(r"[^\w.]+", "-", part, flags=re.ASCII).strip("-") for part in parts)
    return "_".join(slugs)[:MAX_SLUG_LENGTH]
