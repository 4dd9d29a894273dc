"""The report of a run, from its checkpoint alone."""

import dataclasses
import logging
import os
from pathlib import Path

from mnistcnn import checkpoint, data, device, report, rundir
from mnistcnn.config import EvaluateSettings, TrainSettings, read_yaml, to_yaml
from mnistcnn.errors import PlainError, UsageError

log = logging.getLogger(__name__)


def run(settings: EvaluateSettings, out: Path) -> dict:
    """Write the report of ``settings.ckpt`` into ``out``; return its ``metrics.json``.

    The data is split as it was for the training, so that all scores are comparable.
    """
    path = _checkpoint_file(Path(os.path.expanduser(settings.ckpt)))
    loaded = checkpoint.load(path)
    trained = _as_trained(read_yaml(loaded.config, path), settings)

    out = rundir.create(out, "hydra.run.dir")
    with rundir.alone(out), rundir.record(out, rundir.EVALUATE_LOG) as record:
        rundir.write_text(out / rundir.CONFIG, to_yaml(trained))
        here = device.resolve(trained.device)
        device.prepare(here)
        log.info("%s: %s after epoch %d", path, trained.model.name, loaded.epoch)
        with record.phase("data"):
            digits = data.load(trained.data, trained.seed).to(here)
        network = loaded.network
        device.place(network, here)
        record.values |= report.describe(network, digits, trained)
        record.values |= {"checkpoint": str(path.absolute()), "epoch": loaded.epoch}
        report.write(network, digits, trained, _history_beside(path, loaded.config), record)
        record.values["status"] = "finished"
    return record.values


def _checkpoint_file(path: Path) -> Path:
    """``path`` itself, or the weights that the run in the directory ``path`` selected."""
    if not path.is_dir():
        return path
    config = path / rundir.CONFIG
    if not config.is_file():
        raise UsageError(f"ckpt={path} is not the directory of a run: it has no {rundir.CONFIG}")
    return path / checkpoint.SELECTED[read_yaml(config.read_text(), config).select]


def _as_trained(trained: TrainSettings, settings: EvaluateSettings) -> TrainSettings:
    """The settings of the training, with what an evaluation decides for itself put in."""
    changes: dict = {
        "device": settings.device,
        "tsne": settings.tsne,
        "neighbours": settings.neighbours,
    }
    if settings.precision is not None:
        changes["precision"] = settings.precision
    if settings.data.dir is not None and isinstance(trained.data, data.MnistSettings):
        changes["data"] = dataclasses.replace(trained.data, dir=settings.data.dir)
    return dataclasses.replace(trained, **changes)


def _history_beside(path: Path, config: str) -> list[dict]:
    """The epochs of the run that ``path`` lies in, if it is still the run that wrote it."""
    beside = path.with_name(rundir.CONFIG)
    try:
        same_run = beside.is_file() and beside.read_text() == config
        return rundir.read_history(path.parent) if same_run else []
    except (OSError, ValueError, PlainError) as error:  # the numbers do not need it
        log.warning("no curves: %s", error)
        return []
