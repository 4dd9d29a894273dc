"""Write ``run.html``: a run's results on one page, with the images of its test set."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnistcnn.config.defaults import (
    LOCATION_KEYS,
    changed_settings,
    format_value,
    repeat_command,
)
from mnistcnn.config.load import flatten
from mnistcnn.config.schema import TrainSettings
from mnistcnn.evaluation.embedding import nearest_neighbours
from mnistcnn.evaluation.metrics import Predictions, Reliability, most_confident, reliability
from mnistcnn.models.layer_summary import Layer
from mnistcnn.pages.render import write_page
from mnistcnn.pages.sprite import pack_images
from mnistcnn.runs import directory
from mnistcnn.runs.history import best_epoch
from mnistcnn.runs.provenance import short_commit
from mnistcnn.system.logs import format_duration

# Limits of what a page has, so that it is below 3 MB with MNIST's images.
MAX_ERRORS = 1000  # the most confident ones
MAX_CORRECT = 20  # images of a class that are classified correctly, the most confident ones
MAX_POINTS = 2000  # of the embedding
NEIGHBOURS = 8  # of a point
COORDINATE_RANGE = 10_000

SCRIPTS = ["charts.js", "images.js", "run.js"]
HISTORY_COLUMNS = [
    "epoch", "train_loss_running", "train_loss", "val_loss",
    "train_accuracy_running", "train_accuracy", "val_accuracy",
]  # fmt: skip


@dataclass(frozen=True)
class EmbeddedImages:
    """Two coordinates (M, 2) of the test images ``indices`` (M,), and what was embedded."""

    indices: np.ndarray
    coordinates: np.ndarray
    title: str


@dataclass(frozen=True)
class RunContent:
    """The content of a run's page.

    ``trained_settings`` differ from ``settings`` if an evaluation has changed some.

    ``pixels`` (N, H, W) or (N, H, W, 3) uint8 are the test images; ``label_errors`` are positions
    in the test set whose labels are known to be wrong. ``originals`` (K, H, W) are training images
    and ``variants`` (V, K, H, W) what the augmentation made of them, from 0 to 255; V may be 0.
    ``metrics`` are the values of ``metrics.json``; the rows of ``history`` have HISTORY_COLUMNS.
    """

    settings: TrainSettings
    trained_settings: TrainSettings
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    class_names: tuple[str, ...]
    label_errors: tuple[int, ...]
    pixels: np.ndarray
    test: Predictions
    embedding: EmbeddedImages | None
    originals: np.ndarray
    variants: np.ndarray
    augmented_title: str
    layers: list[Layer]


def write_run_page(path: Path, content: RunContent) -> None:
    """Write the page of a run. Raises WriteError."""
    points = _select_points(content.embedding, content.test)
    indices = _select_images(content.test, points)
    sprite = pack_images(content.pixels[indices])
    augmented = pack_images(
        np.rint(np.concatenate([content.originals, *content.variants])).astype(np.uint8),
        columns=len(content.originals),
    )
    grey = content.pixels.ndim == 3
    data = {
        "sprite": sprite.layout | {"grey": grey},
        "classes": content.class_names,
        "images": _image_values(content.test, indices),
        "label_errors": content.label_errors,
        "max_errors": MAX_ERRORS,
        "max_correct": MAX_CORRECT,
        "history": [{key: row[key] for key in HISTORY_COLUMNS} for row in content.history],
        "best_epoch": best_epoch(content.history) if content.history else None,
        "embedding": _embedding_values(points, content.test, indices),
    }
    write_page(
        path,
        "run.html",
        SCRIPTS,
        data,
        sprite_url=sprite.url,
        grey=grey,
        augmented_url=augmented.url,
        augmented_width=augmented.columns * augmented.width * 2,
        augmented_title=content.augmented_title,
        layers=content.layers,
        history=content.history,
        history_columns=HISTORY_COLUMNS,
        has_embedding=points is not None,
        embedding_title="" if points is None else points.title,
        max_errors=MAX_ERRORS,
        **_heading(content),
        **_scores(content),
        **_origin(content),
    )


# Images ------------------------------------------------------------------------------------------


def _select_points(embedding: EmbeddedImages | None, test: Predictions) -> EmbeddedImages | None:
    """Return at most MAX_POINTS points of an embedding, with all errors if they are fewer."""
    if embedding is None or len(embedding.indices) < 2:
        return None
    if len(embedding.indices) <= MAX_POINTS:
        return embedding
    correct = test.correct[embedding.indices]
    errors, others = np.flatnonzero(~correct)[:MAX_POINTS], np.flatnonzero(correct)
    spread = np.linspace(0, len(others) - 1, MAX_POINTS - len(errors)).astype(int)
    kept = np.sort(np.concatenate([errors, others[spread]]))
    title = f"{embedding.title}; {MAX_POINTS:,} of them are shown"
    return EmbeddedImages(embedding.indices[kept], embedding.coordinates[kept], title)


def _select_images(test: Predictions, points: EmbeddedImages | None) -> np.ndarray:
    """Return the sorted indices of the images on the page."""
    correct = most_confident(test, test.correct)
    labels = test.labels[correct]
    per_class = [correct[labels == label][:MAX_CORRECT] for label in np.unique(test.labels)]
    embedded = [] if points is None else [points.indices]
    errors = most_confident(test, ~test.correct)[:MAX_ERRORS]
    return np.unique(np.concatenate([errors, *per_class, *embedded])).astype(np.int64)


def _image_values(test: Predictions, indices: np.ndarray) -> dict[str, list[Any]]:
    """Return the values of the images by name, in the order of the sprite."""
    labels = test.labels[indices]
    return {
        "index": indices.tolist(),
        "label": labels.tolist(),
        "predicted": test.predicted[indices].tolist(),
        "confidence": _rounded(test.confidence[indices]),
        "truth": _rounded(test.probabilities[indices, labels]),  # probability of the true class
    }


def _rounded(probabilities: np.ndarray) -> list[float]:
    return np.round(probabilities.astype(np.float64), 5).tolist()


def _embedding_values(
    points: EmbeddedImages | None, test: Predictions, indices: np.ndarray
) -> dict[str, Any] | None:
    """Return positions in the sprite, coordinates in [0, COORDINATE_RANGE], and neighbours."""
    if points is None:
        return None
    assert test.features is not None  # kept for the embedding
    from_zero = points.coordinates - points.coordinates.min(axis=0)
    scale = COORDINATE_RANGE / (from_zero.max() or 1.0)  # the same in both directions
    x, y = np.rint(scale * from_zero).astype(int).T
    count = len(points.indices)
    k = min(NEIGHBOURS, count - 1)
    neighbours, _ = nearest_neighbours(test.features[points.indices], np.arange(count), k)
    return {
        "range": COORDINATE_RANGE,
        "image": np.searchsorted(indices, points.indices).tolist(),
        "x": x.tolist(),
        "y": y.tolist(),
        "neighbours": neighbours.tolist(),
    }


# Text --------------------------------------------------------------------------------------------


def _heading(content: RunContent) -> dict[str, Any]:
    metrics, settings = content.metrics, content.settings
    data = metrics["data"]
    images = f"{data['train']:,} training, {data['validation']:,} validation, {data['test']:,} test"
    epochs = metrics.get("epochs")
    network = f"{settings.model.name} on {data['name']}"
    status = ", stopped early" if metrics["status"] == "early_stopped" else ""
    weights = f"tested with the weights of epoch {metrics.get('best_epoch')} (the best one)"
    if settings.select == "last" or not metrics.get("best_epoch"):
        weights = "tested with the weights of the last epoch"
    parts = [
        f"{epochs} epoch{'' if epochs == 1 else 's'}{status}" if epochs else "",
        weights if epochs else "",
        f"{images} images",
        metrics["started_at"][:10],
    ]
    evaluation = metrics.get("checkpoint")  # of an evaluation; its directory is the sender's
    return {
        "title": f"{network}, aug={settings.aug.name}, seed {settings.seed}",
        "subtitle": ", ".join(filter(None, parts)),
        "command": repeat_command(content.trained_settings),
        "evaluation": evaluation and f"{Path(evaluation).name}, epoch {metrics['epoch']}",
        "duration": format_duration(metrics["seconds"].get("total", 0)),
    }


def _scores(content: RunContent) -> dict[str, Any]:
    metrics, names = content.metrics, content.class_names
    test = metrics["test"]
    confusion = np.array(test["confusion_matrix"])
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    label, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    most_confused = int(wrong.max())
    common_error = {"label": names[label], "predicted": names[predicted], "count": most_confused}
    present = [row for row in test["per_class"] if row["support"]]
    errors = most_confident(content.test, ~content.test.correct)
    diagram = reliability(content.test)
    known_errors = np.isin(errors[:MAX_ERRORS], content.label_errors)
    return {
        "test": test,
        "validation": metrics["validation"],
        "train": metrics["train"],
        "error_count": len(errors),
        "test_count": len(content.test.labels),
        "classes": names,
        "confusion": confusion.tolist(),
        "most_confused": most_confused,
        "common_error": common_error if most_confused else None,
        "hardest": min(present, key=lambda row: row["recall"]),
        "bins": _reliability_bins(diagram),
        "bin_count": len(diagram.counts),
        "label_error_count": len(content.label_errors),
        "known_errors": int(known_errors.sum()),
    }


def _reliability_bins(diagram: Reliability) -> list[dict[str, float]]:
    count = len(diagram.counts)
    return [
        {
            "low": index / count,
            "high": (index + 1) / count,
            "count": int(diagram.counts[index]),
            "accuracy": float(diagram.accuracy[index]),
            "confidence": float(diagram.confidence[index]),
        }
        for index in np.flatnonzero(diagram.counts)
    ]


def _origin(content: RunContent) -> dict[str, Any]:
    """Return settings, machine, durations and versions, without directories."""
    metrics = content.metrics
    settings = flatten(asdict(content.settings))
    changed = changed_settings(content.settings)
    peak = metrics.get("peak_memory_bytes")
    machine = {
        "device": metrics["device"],
        "threads": metrics["threads"],
        "precision": metrics["precision"],
        "kernels": metrics["kernels"],
        "peak memory": f"{peak / 1e9:.2f} GB" if peak else "unknown",
        "commit": short_commit(metrics["git_commit"]),
    }
    return {
        "model": metrics["model"],
        "changed": [(key, *map(format_value, values)) for key, values in changed.items()],
        "configuration": [
            (key, format_value(value))
            for key, value in settings.items()
            if key not in LOCATION_KEYS
        ],
        "machine": list(machine.items()),
        "seconds": [
            (name, f"{value:.2f}")
            for name, value in metrics["seconds"].items()
            if name != directory.RUN_PAGE  # which is not known yet
        ],
        "versions": list(metrics["versions"].items()),
    }
