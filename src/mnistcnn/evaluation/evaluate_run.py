"""Evaluate a checkpoint: write the scores and pictures of its model to a new directory."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from mnistcnn.config.load import read_settings, to_yaml
from mnistcnn.config.schema import EvaluateSettings, MnistSettings, TrainSettings
from mnistcnn.data.dataset import load_dataset, load_splits
from mnistcnn.evaluation.artifacts import describe_run, write_artifacts
from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.kernels.selection import check_kernels, select_kernels
from mnistcnn.models.precision import check_precision, select_precision
from mnistcnn.runs.checkpoint import SELECTED_FILE, Checkpoint, load_checkpoint
from mnistcnn.runs.directory import CONFIG, CURVES, EVALUATE_LOG, RUN_DIR_KEY, create_run_dir
from mnistcnn.runs.history import read_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import record_run
from mnistcnn.runs.store import read_run
from mnistcnn.system import devices
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.system.locks import lock_run_dir

log = logging.getLogger(__name__)


def evaluate_run(settings: EvaluateSettings, run_dir: Path) -> dict[str, Any]:
    """Evaluate ``settings.ckpt`` and write all results to ``run_dir``.

    Return the content of ``metrics.json``. The data is split as in training, so that scores are
    comparable.
    """
    # Path.expanduser would raise RuntimeError for an unknown user
    path = _resolve_checkpoint(Path(os.path.expanduser(settings.ckpt)))  # noqa: PTH111
    checkpoint = load_checkpoint(path)
    model = checkpoint.model
    trained_settings = read_settings(checkpoint.config, path)
    train_settings = _apply_settings(trained_settings, settings)
    load_dataset(train_settings.data)  # without the data, no directory is created
    device = devices.resolve_device(train_settings.device)
    precision = settings.precision or model.precision_name
    check_precision(precision, device)
    if conv_blocks(model):
        check_kernels(settings.kernels, device, precision, "none")

    run_dir = create_run_dir(run_dir, RUN_DIR_KEY)
    with lock_run_dir(run_dir), record_run(run_dir, EVALUATE_LOG) as record:
        write_text(run_dir / CONFIG, to_yaml(train_settings))
        devices.configure_process(device)
        log.info("%s: %s after epoch %d", path, train_settings.model.name, checkpoint.epoch)
        with record.phase("data"):
            splits = load_splits(train_settings.data, train_settings.seed).to(device)
        devices.place_model(model, device)
        precision = select_precision(model, precision)
        kernels = select_kernels(model, settings.kernels, precision, "none")
        record.values |= describe_run(model, splits, train_settings) | {"kernels": kernels}
        record.values |= {"checkpoint": str(path.absolute()), "epoch": checkpoint.epoch}
        history = _read_training_history(path, checkpoint)
        write_artifacts(
            model,
            splits,
            train_settings,
            history,
            record,
            "finished",
            trained_settings=trained_settings,
        )
    return record.values


def _resolve_checkpoint(path: Path) -> Path:
    """Return ``path``, or the selected checkpoint of the run if ``path`` is a directory."""
    if not path.is_dir():
        return path
    config = path / CONFIG
    if not config.is_file():
        raise UsageError(f"ckpt={path} is not the directory of a run: it has no {CONFIG}")
    return path / SELECTED_FILE[read_settings(config.read_text(), config).select]


def _apply_settings(train_settings: TrainSettings, settings: EvaluateSettings) -> TrainSettings:
    """Return the training settings with the overrides of the evaluation applied."""
    changes: dict[str, Any] = {
        "device": settings.device,
        "kernels": settings.kernels,
        "pictures": settings.pictures,
        "tsne": settings.tsne,
        "neighbours": settings.neighbours,
    }
    if settings.precision is not None:
        changes["precision"] = settings.precision
    if settings.data.dir is not None and isinstance(train_settings.data, MnistSettings):
        changes["data"] = dataclasses.replace(train_settings.data, dir=settings.data.dir)
    return dataclasses.replace(train_settings, **changes)


def _read_training_history(path: Path, checkpoint: Checkpoint) -> list[dict[str, float]]:
    """Return the history of the run that wrote the checkpoint ``path``.

    The result is empty if the directory of ``path`` holds another run, or if its history cannot be
    read. If the run is not complete, a line says so.
    """
    config = path.with_name(CONFIG)
    try:
        run = read_run(path.parent)
        if run is None or not config.is_file():
            return []
        current = read_settings(config.read_text(), config)
        trained = read_settings(checkpoint.config, path)
        extended = dataclasses.replace(trained, epochs=current.epochs)  # epochs may have been added
        if config_sha256(extended) != config_sha256(current):
            return []
        if not run.complete:
            log.warning("the run is not complete (%s): %s", run.status, run.reason or path.parent)
        return read_history(path.parent)
    except (OSError, ValueError, MnistcnnError) as error:  # only the curves need the history
        log.warning("%s is not drawn: %s", CURVES, error)
        return []
