"""Score a trained model on all splits and write its scores, predictions and pictures."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.batches import evaluation_batches
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.data.images import Images
from mnistcnn.evaluation import inference, metrics
from mnistcnn.evaluation.metrics import Predictions
from mnistcnn.evaluation.pictures import Pictures
from mnistcnn.models.classifier import Classifier
from mnistcnn.runs import directory, provenance
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.runs.store import Run
from mnistcnn.system import devices, signals
from mnistcnn.system.atomic_files import write_bytes
from mnistcnn.system.errors import UsageError

log = logging.getLogger(__name__)


def describe_run(
    model: Classifier, splits: DatasetSplits, settings: TrainSettings
) -> dict[str, Any]:
    """Return the values of ``metrics.json`` that are known before the first epoch.

    Raises UsageError if the model's outputs are not the classes of the dataset.
    """
    outputs, classes = model.head.out_features, len(splits.class_names)
    if outputs != classes:
        reason = f"the model has {outputs} outputs, and data={splits.name} {classes} classes"
        raise UsageError(reason)
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
    trained_settings: TrainSettings | None = None,
) -> None:
    """Score ``model`` on all splits and write all result files to ``record.run_dir``.

    ``predictions.npz`` and ``metrics.json`` are written first; the run then has ``status`` and is
    complete. The pictures follow. Those that cannot be drawn, or were not drawn before the process
    ended, are listed in ``missing_pictures`` of ``metrics.json``. Those that the settings leave out
    are removed, because they would show an earlier epoch; ``curves.png`` is not expected if
    ``history`` is empty.

    ``trained_scores`` is the row of ``history`` of the model's epoch; its training and validation
    scores are then not computed again. ``trained_settings`` are those with which the model was
    trained, if an evaluation has changed some.
    """
    with record.phase("test"):
        test = _predict_test(model, splits)
        scores = _score_splits(model, splits, test, trained_scores)
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

    pictures = Pictures(model, splits, settings, test, history, record, trained_settings)
    _draw(names, pictures)
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
    expected = _expected_pictures(requested, run.history)
    names = [
        name
        for name in expected
        if name in run.missing_pictures or changed.get(name) or not (run.path / name).is_file()
    ]
    # the page has the embedding and the settings
    if directory.TSNE in names or (directory.NEIGHBOURS in names and changed[directory.NEIGHBOURS]):
        names = [name for name in expected if name in {*names, directory.RUN_PAGE}]
    return names


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
    _draw(names, Pictures(model, splits, settings, test, history, record))


def _draw(names: Sequence[str], pictures: Pictures) -> None:
    """Write pictures and remove them from ``missing_pictures``; log those that fail."""
    log.info("writing %s", f"{len(names)} files" if len(names) > 1 else names[0])
    failures, record = [], pictures.record
    for name, write in pictures.writers().items():
        if name not in names:
            continue
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
        "test": metrics.detailed_score(test, splits.class_names),
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
