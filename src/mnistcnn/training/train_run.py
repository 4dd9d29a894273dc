"""Train a model, test it once, and write all files of the run to a directory."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mnistcnn.config.load import read_settings, to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.dataset import DatasetSplits, load_dataset, load_splits
from mnistcnn.evaluation.artifacts import (
    describe_run,
    outdated_pictures,
    redraw_pictures,
    write_artifacts,
)
from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.kernels.selection import (
    NOT_BUILT,
    check_kernels,
    kernels_obstacle,
    select_kernels,
)
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.precision import select_precision
from mnistcnn.runs.checkpoint import SELECTED_FILE, load_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    HISTORY,
    LAST,
    LOG,
    RUN_DIR_KEY,
    create_run_dir,
    refuse_existing_run,
    remove_unfinished_files,
)
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.metrics_file import RunRecord, record_run, update_record
from mnistcnn.runs.store import Run, read_run
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.devices import (
    configure_process,
    describe_device,
    place_model,
    resolve_device,
    supports_bfloat16,
)
from mnistcnn.system.errors import UsageError
from mnistcnn.system.locks import lock_run_dir
from mnistcnn.system.quoting import format_command, override
from mnistcnn.system.resources import available_cores, omp_num_threads
from mnistcnn.training.logger import run_logger
from mnistcnn.training.resume import ResumeState, load_resume_state, restore_files
from mnistcnn.training.trainer import Trainer, build_model

log = logging.getLogger(__name__)


def train_run(settings: TrainSettings, run_dir: Path, resume: bool = False) -> dict[str, Any]:
    """Train and test a model in ``run_dir``; return the content of ``metrics.json``.

    With ``resume``, complete the run in ``run_dir``. Of a complete run only the pictures are drawn
    that are missing or whose settings have changed, it is logged if ``logger`` is set and it was
    not logged before, and ``last.pt`` is removed if it is not to be kept. After an error before the
    scores are complete, ``metrics.json`` has the status ``failed`` or ``interrupted`` and the
    values known by then. Errors are raised again, except those of pictures.
    """
    if not resume:
        load_dataset(settings.data)  # without the data, no directory is created
        run_dir = create_run_dir(run_dir, RUN_DIR_KEY)
    with lock_run_dir(run_dir):
        remove_unfinished_files(run_dir)
        if resume:
            metrics = _resume(settings, run_dir)
        else:
            refuse_existing_run(run_dir, RUN_DIR_KEY)  # again, with the lock held
            write_text(run_dir / CONFIG, to_yaml(settings))
            metrics = _train_and_test(settings, run_dir, None, settings.precision, settings.kernels)
        # after all other files: a process that is killed before this leaves a complete run
        if not settings.checkpoint.keep_last:
            _remove_last_checkpoint(run_dir)
        return metrics


def _remove_last_checkpoint(run_dir: Path) -> None:
    """Remove ``last.pt`` of a complete run. Raises CorruptFileError if ``best.pt`` is corrupt."""
    if (run_dir / LAST).exists() and (run_dir / BEST).exists():
        load_checkpoint(run_dir / BEST)
        (run_dir / LAST).unlink()
        log.info("removed %s (checkpoint.keep_last=false)", LAST)


def _resume(settings: TrainSettings, run_dir: Path) -> dict[str, Any]:
    """Complete the run in ``run_dir``, with the lock held; return its ``metrics.json``."""
    existing = read_run(run_dir)
    if existing is not None and existing.complete:
        sha256 = existing.metrics.get("config_sha256")  # an evaluation has none
        if sha256 == config_sha256(settings):
            epochs = existing.metrics.get("epochs", settings.epochs)
            log.info(
                "%s is already complete: %s epoch%s, test accuracy %.2f%%",
                run_dir,
                epochs,
                "" if epochs == 1 else "s",
                100 * existing.metrics["test"]["accuracy"],
            )
            metrics = _update_pictures(settings, existing)
            return _log_complete_run(settings, replace(existing, metrics=metrics))
        if sha256 is not None and not (run_dir / LAST).exists():  # only the epochs differ
            raise UsageError(
                f"{run_dir}: the number of epochs cannot be changed: {LAST} is missing "
                "(checkpoint.keep_last=false removes it)"
            )
    load_dataset(settings.data)  # without the data, nothing is changed
    resume_state = load_resume_state(run_dir, settings)
    precision, kernels = settings.precision, settings.kernels
    if resume_state is not None:
        device, model = resolve_device(settings.device), resume_state.checkpoint.model
        precision = _trained_precision(model, device, run_dir)
        if existing is not None:
            if device.type == "cpu":
                _keep_threads(existing)
            kernels = _resumed_kernels(settings, precision, existing)
        if conv_blocks(model):
            check_kernels(kernels, device, precision, settings.compile)
    return _train_and_test(settings, run_dir, resume_state, precision, kernels)


def _trained_precision(model: Classifier, device: torch.device, run_dir: Path) -> str:
    """Return the precision of a model that was loaded from a checkpoint in ``run_dir``.

    Raises UsageError if ``device`` cannot compute in it.
    """
    if model.precision == torch.bfloat16 and not supports_bfloat16(device):
        raise UsageError(
            f"{run_dir} was trained with precision=bfloat16, which {device} does not have: "
            "choose another device"
        )
    return model.precision_name


def _keep_threads(run: Run) -> None:
    """Compute with as many threads as before, on which the last digits of a result depend."""
    threads = run.metrics.get("threads")
    if type(threads) is not int or threads < 1 or omp_num_threads():
        return
    cores = available_cores()
    if threads > cores:
        log.warning(
            "the run was started with %d threads, and there are %d cores here: the last digits of "
            "the results may differ",
            threads,
            cores,
        )
    torch.set_num_threads(min(threads, cores))


def _resumed_kernels(settings: TrainSettings, precision: str, run: Run) -> str:
    """Return the kernels with which a run was trained, if they are not set explicitly.

    Raises UsageError if they are not built on this machine.
    """
    trained = run.metrics.get("kernels")
    if settings.kernels != "auto" or trained not in ("native", "torch"):
        return settings.kernels
    device = resolve_device(settings.device)
    obstacle = kernels_obstacle(device, precision, settings.compile)
    if trained == "native" and obstacle == NOT_BUILT:
        command = format_command("mnistcnn.train", [override("resume", run.path), "kernels=torch"])
        raise UsageError(
            f"{run.path} was trained with kernels=native, but {NOT_BUILT}. "
            f"To resume it with torch: {command}"
        )
    return trained if obstacle is None else "torch"


def _update_pictures(settings: TrainSettings, run: Run) -> dict[str, Any]:
    """Draw the pictures of a complete run that are missing or whose settings have changed.

    Return its ``metrics.json``.
    """
    stored = read_settings((run.path / CONFIG).read_text(), run.path / CONFIG)
    names = outdated_pictures(run, stored, settings)
    if not names:
        return run.metrics
    model = load_checkpoint(run.path / SELECTED_FILE[stored.select]).model
    device = resolve_device(settings.device)
    precision = _trained_precision(model, device, run.path)
    configure_process(device)
    splits = load_splits(settings.data, settings.seed).to(device)
    place_model(model, device)
    precision = select_precision(model, precision)
    select_kernels(model, settings.kernels, precision, settings.compile)
    with update_record(run.path, LOG) as record:
        # before the settings change: if this process is killed, the next resume draws the pictures
        record.values["missing_pictures"] = list(dict.fromkeys([*names, *run.missing_pictures]))
        record.values.pop("logger", None)  # which has the previous pictures
        record.write()
        write_text(run.path / CONFIG, to_yaml(_with_pictures(stored, settings)))
        redraw_pictures(names, model, splits, settings, run.history, record)
    return record.values


def _log_complete_run(settings: TrainSettings, run: Run) -> dict[str, Any]:
    """Log a complete run, unless the tracker has all of it. Return its ``metrics.json``."""
    name = settings.logger.name
    if name != "none" and not run.history:
        log.warning("logger=%s: nothing is logged, because %s is missing", name, HISTORY)
    if run.is_logged(settings):
        return run.metrics
    stored = read_settings((run.path / CONFIG).read_text(), run.path / CONFIG)
    with update_record(run.path, LOG) as record:
        if stored.logger != settings.logger:
            write_text(run.path / CONFIG, to_yaml(replace(stored, logger=settings.logger)))
        log.info("logging the complete run: logger=%s", name)
        with run_logger(name, record, run.history):
            pass
    return record.values


def _with_pictures(stored: TrainSettings, requested: TrainSettings) -> TrainSettings:
    """Return ``stored`` with the settings of the pictures that ``requested`` does not leave out."""
    if not requested.pictures:
        return stored
    keeps_tsne = stored.pictures and not requested.tsne.samples
    tsne = stored.tsne if keeps_tsne else requested.tsne
    return replace(stored, pictures=True, tsne=tsne, neighbours=requested.neighbours)


def _train_and_test(
    settings: TrainSettings,
    run_dir: Path,
    resume_state: ResumeState | None,
    precision: str,
    kernels: str,
) -> dict[str, Any]:
    """Train and test a model; ``precision`` and ``kernels`` replace the settings of these names."""
    identity = {
        "config_sha256": config_sha256(settings),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "kernels": kernels,
    }
    with record_run(run_dir, LOG, identity) as record:
        config, file = to_yaml(settings), run_dir / CONFIG
        # after metrics.json, which described a run with the previous settings
        if not file.is_file() or file.read_text() != config:
            write_text(file, config)
        if resume_state is not None:
            restore_files(run_dir, settings, resume_state)
        device = resolve_device(settings.device)
        configure_process(device)
        with record.phase("data"):
            splits = load_splits(settings.data, settings.seed).to(device)
        model = build_model(settings, splits)
        precision = select_precision(model, precision)
        kernels = select_kernels(model, kernels, precision, settings.compile)
        record.values |= describe_run(model, splits, settings) | {"kernels": kernels}
        # before last.pt: a run that is killed in its first epoch keeps precision and kernels
        record.write()
        log.info(
            "%s with %s parameters on %s, precision=%s, kernels=%s",
            settings.model.name,
            f"{model.parameter_count():,}",
            describe_device(device),
            precision,
            kernels,
        )
        if resume_state is not None:
            resumed_epochs = resume_state.checkpoint.epoch
            log.info("resuming after epoch %d of %d", resumed_epochs, settings.epochs)

        _fit_and_test(model, splits, settings, record, resume_state)
        if record.values["missing_pictures"]:
            command = format_command("mnistcnn.train", [override("resume", run_dir)])
            log.warning("to draw the missing pictures: %s", command)
    return record.values


def _fit_and_test(
    model: Classifier,
    splits: DatasetSplits,
    settings: TrainSettings,
    record: RunRecord,
    resume_state: ResumeState | None,
) -> None:
    """Train a model, select its weights, write all result files, and log the run."""
    resumed_history = [] if resume_state is None else resume_state.history
    with run_logger(settings.logger.name, record, resumed_history) as logger:
        with record.phase("fit"):
            result = Trainer(model, splits, settings, record, resume_state, logger).fit()
        selected = load_checkpoint(record.run_dir / SELECTED_FILE[settings.select])
        model.load_state_dict(selected.model.state_dict())

        # scores of epochs before a resume may have been computed on another device
        trained_here = selected.epoch > len(resumed_history)
        trained_scores = result.history[selected.epoch - 1] if trained_here else None
        write_artifacts(
            model, splits, settings, result.history, record, result.status, trained_scores
        )
