"""Read the stored predictions of runs, and find the images on which they differ."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from mnistcnn.runs import directory
from mnistcnn.runs.store import Run
from mnistcnn.system.errors import UsageError


def load_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) int64 and probabilities (N, C) float32 of the run in ``path``.

    Labels are below the number of classes, C. Raises UsageError if the file cannot be read.
    """
    file = path / directory.PREDICTIONS
    try:
        return _load(file.resolve())
    except Exception as error:  # a corrupt archive raises many types
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=256)
def _load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(file) as arrays:
        labels, probabilities = arrays["labels"], arrays["probabilities"]
    if (
        not (labels.ndim == 1 and len(labels) and probabilities.ndim == 2)
        or len(labels) != len(probabilities)
        or labels.dtype.kind not in "iu"
        or probabilities.dtype.kind != "f"
        or not np.isin(labels, range(probabilities.shape[1])).all()
    ):
        raise ValueError("it does not hold labels and probabilities")
    return labels, probabilities


def correct_images(run: Run) -> np.ndarray:
    """Return whether each test image is classified correctly: bool (N,)."""
    labels, probabilities = load_predictions(run.path)
    return probabilities.argmax(axis=1) == labels


def require_same_test_set(runs: Sequence[Run]) -> None:
    """Check that all runs have the same dataset name and the same test labels.

    Raises UsageError if they do not, or if predictions cannot be read.
    """
    first = runs[0]
    for other in runs[1:]:
        names = [run.metrics["data"].get("name") for run in (first, other)]
        labels = [load_predictions(run.path)[0] for run in (first, other)]
        if names[0] != names[1] or not np.array_equal(labels[0], labels[1]):
            first_set, other_set = (
                f"{run.path} was tested on {len(run_labels):,} images of {name}"
                for run, run_labels, name in zip((first, other), labels, names, strict=True)
            )
            raise UsageError(
                "these runs were tested on different images and cannot be compared:\n"
                f"{first_set}, {other_set}"
            )


def most_different(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the indices of the images for which A and B predict different classes.

    ``labels`` are (N,), ``a`` and ``b`` probabilities (N, C). The indices are sorted by the
    difference between the probabilities of the true class, largest first.
    """
    rows = np.arange(len(labels))
    gap = np.abs(a[rows, labels] - b[rows, labels])
    differing = np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1))
    return differing[np.argsort(-gap[differing], kind="stable")]
