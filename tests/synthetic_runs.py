"""Run directories that are written without training, for the tests of code that reads them."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np

from mnistcnn.config.load import FORMAT, to_yaml
from mnistcnn.experiments.summary import summarise
from mnistcnn.runs.directory import CONFIG, METRICS, PREDICTIONS
from mnistcnn.runs.history import append_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import current_time
from mnistcnn.runs.store import COMPLETE_STATUSES, Run, read_run

from . import conftest

settings = cache(conftest.settings)

LABELS = np.arange(100) % 10  # of the test images


def predictions_file(wrong: int, labels: np.ndarray = LABELS) -> bytes:
    """Return a ``predictions.npz`` in which the first ``wrong`` images are misclassified."""
    predicted = np.where(np.arange(len(labels)) < wrong, (labels + 1) % 10, labels)
    probabilities = np.full((len(labels), 10), 0.01, dtype=np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.91
    content = io.BytesIO()
    np.savez(content, labels=labels, predictions=predicted, probabilities=probabilities)
    return content.getvalue()


def make_run(
    path: Path,
    *overrides: str,
    accuracy: float = 0.9,
    status: str = "finished",
    seconds: float = 10.0,
    **metrics: object,
) -> Run:
    """Create the directory of a run of two epochs with the files that summary and comparison read.

    ``accuracy`` is the test accuracy on LABELS; that of validation is 0.01 and that of training
    0.02 higher. An incomplete run has no scores. Each call starts a later run. ``metrics`` are
    further values of ``metrics.json``.
    """
    path.mkdir(parents=True)
    run_settings = settings(*overrides)
    (path / CONFIG).write_text(to_yaml(run_settings))
    content = {
        "format": FORMAT,
        "status": status,
        "started_at": current_time(),
        "config_sha256": config_sha256(run_settings),
        "data": {"train": round(50_000 * run_settings.data.fraction)},
        "seconds": {"total": seconds},
        "precision": "float32",
    }
    if status in COMPLETE_STATUSES:
        content["epochs"] = 2
        (path / PREDICTIONS).write_bytes(predictions_file(round(len(LABELS) * (1 - accuracy))))
        for split, offset in (("train", 0.02), ("validation", 0.01), ("test", 0.0)):
            value = round(accuracy + offset, 4)
            content[split] = {"accuracy": value, "error": round(1 - value, 4)}
        for epoch, offset in ((1, -0.19), (2, 0.01)):
            append_history(path, {"epoch": epoch, "val_accuracy": round(accuracy + offset, 4)})
    (path / METRICS).write_text(json.dumps(content | metrics))
    run = read_run(path)
    assert run is not None
    return run


def make_runs(path: Path, *overrides: str) -> list[Run]:
    """Create a run in ``path/0``, ``path/1``, ... for each string of overrides."""
    return [make_run(path / str(index), *each.split()) for index, each in enumerate(overrides)]


def write_summary(path: Path) -> str:
    """Write the summary of the runs below ``path`` and return its text."""
    summary = summarise(path)
    summary.write()
    return summary.text
