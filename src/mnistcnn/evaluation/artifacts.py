"""Score a trained model on all splits and write its scores, predictions and pictures."""

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnistcnn import NUM_CLASSES
from mnistcnn.config.schema import (
    AugmentSettings,
    NeighbourSettings,
    TrainSettings,
    TsneSettings,
)
from mnistcnn.data.augment import augment_batch, sample_parameters
from mnistcnn.data.batches import evaluation_batches, to_float
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.data.images import Images
from mnistcnn.evaluation import embedding, figures, inference, metrics, mosaic
from mnistcnn.evaluation.metrics import Predictions
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.layer_summary import layer_summary
from mnistcnn.runs import directory, provenance
from mnistcnn.runs.history import best_epoch
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.runs.store import Run
from mnistcnn.system import devices, random_streams, signals
from mnistcnn.system.atomic_files import write_bytes, write_text
from mnistcnn.system.random_streams import Stream

log = logging.getLogger(__name__)

# writes a file to a path; returns values for metrics.json, if any
Writer = Callable[[Path], dict[str, Any] | None]

ERROR_COUNT = 9  # images in misclassified.png
VARIANT_COUNT = 6  # variants of each image in augmented.png


def describe_run(
    model: Classifier, splits: DatasetSplits, settings: TrainSettings
) -> dict[str, Any]:
    """Return the values of ``metrics.json`` that are known before the first epoch."""
    return {
        "seed": settings.seed,
        "model": {"name": settings.model.name, "parameters": model.parameter_count()},
        "data": splits.describe(),
        "device": devices.describe_device(model.mean.device),
        "threads": torch.get_num_threads(),
        "precision": model.precision_name,
    }


def write_artifacts(
    model: Classifier,
    splits: DatasetSplits,
    settings: TrainSettings,
    history: list[dict[str, float]],
    record: RunRecord,
    status: str,
    trained_scores: dict[str, float] | None = None,
) -> None:
    """Score ``model`` on all splits and write all result files to ``record.run_dir``.

    ``predictions.npz`` and ``metrics.json`` are written first; the run then has ``status`` and is
    complete. The pictures follow. Those that cannot be drawn, or were not drawn before the process
    ended, are listed in ``missing_pictures`` of ``metrics.json``. Those that the settings leave out
    are removed, because they would show an earlier epoch; ``curves.png`` is not expected if
    ``history`` is empty.

    ``trained_scores`` is the row of ``history`` of the model's epoch; its training and validation
    scores are then not computed again.
    """
    with record.phase("test"):
        test = _predict_test(model, splits)
        scores = _score_splits(model, splits, test, trained_scores)
    writers = _picture_writers(
        model, splits, settings, test, scores["test"]["confusion_matrix"], history
    )
    names = _expected_pictures(settings, history)
    for name in directory.PICTURES:
        if name not in names:
            (record.run_dir / name).unlink(missing_ok=True)
    _write_predictions(record.run_dir, test)
    device = model.mean.device
    record.values |= scores
    record.values |= {
        "status": status,
        "missing_pictures": names,
        "peak_memory_bytes": _peak_memory_bytes(device),
    }
    record.write()
    _log_scores(scores)

    _draw({name: writers[name] for name in writers if name in names}, record)
    record.values["peak_memory_bytes"] = _peak_memory_bytes(device)


def outdated_pictures(run: Run, stored: TrainSettings, requested: TrainSettings) -> list[str]:
    """Return the pictures of a complete run that are missing or were drawn with other settings.

    ``stored`` are the settings in ``config.yaml``, ``requested`` those for the pictures now, which
    may leave some out.
    """
    changed = {
        directory.TSNE: stored.tsne != requested.tsne,
        directory.NEIGHBOURS: stored.neighbours != requested.neighbours,
    }
    return [
        name
        for name in _expected_pictures(requested, run.history)
        if name in run.missing_pictures or changed.get(name) or not (run.path / name).is_file()
    ]


def _expected_pictures(settings: TrainSettings, history: list[dict[str, float]]) -> list[str]:
    names = directory.expected_pictures(settings.pictures, settings.tsne.samples)
    return [name for name in names if name != directory.CURVES or history]


def redraw_pictures(
    names: Sequence[str],
    model: Classifier,
    splits: DatasetSplits,
    settings: TrainSettings,
    history: list[dict[str, float]],
    record: RunRecord,
) -> None:
    """Draw the pictures ``names`` of a complete run, which are its ``missing_pictures``.

    ``record`` has the values of the run's ``metrics.json``. A picture that cannot be drawn again
    remains as it is, and is still listed.
    """
    test = _predict_test(model, splits)
    counts = record.values["test"]["confusion_matrix"]
    writers = _picture_writers(model, splits, settings, test, counts, history)
    _draw({name: writers[name] for name in names}, record)


def _draw(writers: dict[str, Writer], record: RunRecord) -> None:
    """Write pictures and remove them from ``missing_pictures``; log those that fail."""
    log.info("writing %s", f"{len(writers)} files" if len(writers) > 1 else next(iter(writers)))
    failures = []
    for name, write in writers.items():
        with record.phase(name):
            try:
                record.values |= write(record.run_dir / name) or {}
                record.values["missing_pictures"].remove(name)
            except Exception as error:  # write the remaining files
                log.debug("%s was not written", name, exc_info=True)
                failures.append(f"{name} ({type(error).__name__}: {error})")
        signals.raise_if_stopped()
    if failures:
        log.warning("the scores are complete, but not written: %s", ", ".join(failures))


def _peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak memory of a CUDA device, or of this process on other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return provenance.peak_memory_bytes()


def _predict_test(model: Classifier, splits: DatasetSplits) -> Predictions:
    """Return the predictions for the test set, with features."""
    return inference.infer(model, evaluation_batches(splits.test), with_features=True)


def _score_splits(
    model: Classifier,
    splits: DatasetSplits,
    test: Predictions,
    trained_scores: dict[str, float] | None,
) -> dict[str, dict[str, Any]]:
    """Return the scores of all splits."""

    def score(images: Images, name: str) -> dict[str, float]:
        if trained_scores is not None:
            loss, accuracy = trained_scores[f"{name}_loss"], trained_scores[f"{name}_accuracy"]
            return metrics.score_from_accuracy(loss, accuracy, len(images))
        return metrics.score(inference.infer(model, evaluation_batches(images)))

    return {
        "train": score(splits.train, "train"),
        "validation": score(splits.validation, "val"),
        "test": metrics.detailed_score(test),
    }


def _log_scores(scores: dict[str, dict[str, Any]]) -> None:
    accuracy, (low, high) = scores["test"]["accuracy"], scores["test"]["accuracy_ci95"]
    log.info(
        "test accuracy %.2f%% (95%% interval %.2f-%.2f%%), validation %.2f%%, training %.2f%%",
        100 * accuracy,
        100 * low,
        100 * high,
        100 * scores["validation"]["accuracy"],
        100 * scores["train"]["accuracy"],
    )


def _write_predictions(run_dir: Path, test: Predictions) -> None:
    """Write ``predictions.npz``, in the order of the test set."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        labels=test.labels,
        predictions=test.predicted,
        probabilities=test.probabilities,
    )
    write_bytes(run_dir / directory.PREDICTIONS, content.getvalue())


def _picture_writers(
    model: Classifier,
    splits: DatasetSplits,
    settings: TrainSettings,
    test: Predictions,
    confusion: list[list[int]],
    history: list[dict[str, float]],
) -> dict[str, Writer]:
    """Return, by file name, functions that write the file to a given path; the slowest is last."""
    seed = settings.seed
    pixels = splits.test.pixels.cpu().numpy()
    counts = np.array(confusion)
    return {
        directory.CURVES: lambda path: figures.curves(path, history, best_epoch(history)),
        directory.CONFUSION_CSV: lambda path: _write_confusion_csv(path, counts),
        directory.CONFUSION_PNG: lambda path: figures.confusion_matrix(path, counts),
        directory.MISCLASSIFIED: lambda path: _draw_misclassified(path, pixels, test),
        directory.NEIGHBOURS: lambda path: _draw_neighbours(
            path, pixels, test, settings.neighbours, seed
        ),
        directory.AUGMENTED: lambda path: _draw_augmented(path, splits.train, settings.aug, seed),
        directory.MODEL_SUMMARY: lambda path: write_text(path, layer_summary(model) + "\n"),
        directory.TSNE: lambda path: _draw_tsne(path, pixels, test, settings.tsne, seed),
    }


def _write_confusion_csv(path: Path, counts: np.ndarray) -> None:
    content = io.StringIO()
    header = "true \\ predicted," + ",".join(map(str, range(len(counts))))
    rows = np.column_stack([np.arange(len(counts)), counts])
    np.savetxt(content, rows, fmt="%d", delimiter=",", header=header, comments="")
    write_text(path, content.getvalue())


def _draw_misclassified(path: Path, pixels: np.ndarray, test: Predictions) -> None:
    indices = metrics.most_confident_errors(test, ERROR_COUNT)
    mosaic.misclassified(
        path,
        pixels[indices],
        test.labels[indices],
        test.predicted[indices],
        test.confidence[indices],
        indices,
    )


def _draw_neighbours(
    path: Path, pixels: np.ndarray, test: Predictions, settings: NeighbourSettings, seed: int
) -> None:
    generator = random_streams.numpy_generator(seed, Stream.NEIGHBOURS)
    assert test.features is not None  # _predict_test keeps them
    targets = embedding.sample_indices(settings.targets, len(pixels), generator)
    indices, distances = embedding.nearest_neighbours(test.features, targets, settings.k)
    mosaic.neighbours(
        path,
        pixels[targets],
        test.labels[targets],
        pixels[indices],
        test.labels[indices],
        distances,
    )


def _draw_augmented(path: Path, train: Images, aug: AugmentSettings, seed: int) -> None:
    """Draw the first training image of each digit with random variants."""
    digits = range(NUM_CLASSES)
    first = torch.stack([torch.argmax((train.labels == digit).int()) for digit in digits])
    originals = train[first].pixels
    variants = []
    for index in range(VARIANT_COUNT):
        generator = random_streams.torch_generator(seed, Stream.AUGMENT, index + 1)
        parameters = sample_parameters(aug, len(originals), generator).to(originals.device)
        images = augment_batch(to_float(originals), parameters, aug)
        variants.append((images.squeeze(1) * 255).cpu().numpy())
    title = f"Training images and {len(variants)} random variants of each (aug={aug.name})"
    pixels = originals.cpu().numpy()
    if (np.rint(variants) == pixels).all():
        title, variants = f"Training images, not augmented (aug={aug.name})", []
    mosaic.augmented(path, pixels, np.array(variants), title)


def _draw_tsne(
    path: Path, pixels: np.ndarray, test: Predictions, settings: TsneSettings, seed: int
) -> dict[str, Any]:
    """Draw t-SNE of test images; return the values about it for ``metrics.json``."""
    generator = random_streams.numpy_generator(seed, Stream.TSNE)
    indices = embedding.sample_indices(settings.samples, len(pixels), generator)
    if settings.of == "features":
        assert test.features is not None  # _predict_test keeps them
        vectors = test.features[indices]
        name = f"{vectors.shape[1]} features"
    else:
        vectors = pixels[indices].reshape(len(indices), -1) / np.float32(255)
        name = "pixels"
    random_state = random_streams.derived_seed(seed, Stream.TSNE)
    threads = torch.get_num_threads()
    result = embedding.tsne(vectors, settings.perplexity, random_state, threads)
    kl_divergence = round(result.kl_divergence, 3)  # rounding errors depend on the threads
    title = f"t-SNE of the {name} of {len(indices):,} test images"
    title += f" (KL divergence {kl_divergence:.2f})"
    figures.tsne(path, result.coordinates, test.labels[indices], title)
    return {"tsne": {"package": result.package, "kl_divergence": kl_divergence}}
