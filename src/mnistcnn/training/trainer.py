"""Train a model, from its initial weights to its last checkpoint."""

import copy
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mnistcnn.config.load import to_yaml
from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.batches import evaluation_batches, steps_per_epoch, training_batches
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.evaluation.inference import infer
from mnistcnn.evaluation.metrics import score
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.registry import LARGE_NETWORK, create_model
from mnistcnn.runs.checkpoint import save_checkpoint
from mnistcnn.runs.directory import BEST, LAST, NEXT_BEST
from mnistcnn.runs.history import append_history, best_epoch, history_sha256
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.system import signals
from mnistcnn.system.atomic_files import rename
from mnistcnn.system.devices import place_model
from mnistcnn.system.random_streams import (
    Stream,
    global_states,
    restore_global_states,
    seed_global,
)
from mnistcnn.training.compiled_forward import compiled_forward, resolve_compile_mode
from mnistcnn.training.flat_parameters import flatten_parameters
from mnistcnn.training.logger import RunLogger
from mnistcnn.training.optim import LOSSES, build_optimizer, build_scheduler
from mnistcnn.training.progress import ProgressReporter
from mnistcnn.training.resume import ResumeState
from mnistcnn.training.step import NonFiniteLoss, TrainMetrics, training_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A model's state dict after ``epoch`` completed epochs and ``step`` optimizer steps."""

    tensors: dict[str, Tensor]
    epoch: int
    step: int


@dataclass(frozen=True)
class FitResult:
    """``status`` is ``finished`` or ``early_stopped``; ``history`` has one row per epoch."""

    status: str
    history: list[dict[str, float]]


def build_model(settings: TrainSettings, splits: DatasetSplits) -> Classifier:
    """Create a model on the device of ``splits``; only the seed decides its initial weights."""
    seed_global(settings.seed, Stream.WEIGHTS)
    model = create_model(settings.model)
    model.set_normalization(*splits.pixel_statistics())
    place_model(model, splits.train.labels.device)
    return model


class Trainer:
    """Trains ``model`` on ``splits``, both on the same device, and saves it to a run's directory.

    Writes ``last.pt`` before the first epoch, and after each epoch ``history.jsonl``, ``last.pt``,
    ``best.pt`` if the epoch is the best so far, and ``metrics.json``. Checkpoints of a large
    network take seconds: they are written after an epoch only if ``checkpoint.minutes`` have
    passed, and after the last one. With a ``resume_state``, the final files are the same as those
    of an uninterrupted training.
    """

    def __init__(
        self,
        model: Classifier,
        splits: DatasetSplits,
        settings: TrainSettings,
        record: RunRecord,
        resume_state: ResumeState | None = None,
        logger: RunLogger | None = None,
    ):
        self.model, self.splits, self.settings, self.record = model, splits, settings, record
        self.device = model.mean.device
        self.logger = logger
        self.steps_per_epoch = steps_per_epoch(settings, len(splits.train))
        self.forward = compiled_forward(model, settings.compile)
        self.loss_fn = LOSSES[settings.loss]
        self.optimizer = build_optimizer(settings.optimizer, flatten_parameters(model))
        self.scheduler = build_scheduler(
            settings.scheduler, self.optimizer, settings.epochs, self.steps_per_epoch
        )
        self.history: list[dict[str, float]] = []
        self.metrics = TrainMetrics(epoch=1)
        self.config = to_yaml(settings)
        self.is_large = model.trained_parameter_count() >= LARGE_NETWORK
        self.unsaved_best: Weights | None = None
        record.values["compile"] = resolve_compile_mode(settings.compile)
        if resume_state is None:
            self.save()
        else:
            self._restore(resume_state)

    @property
    def steps_taken(self) -> int:
        """Number of optimizer steps so far, including those before a resume."""
        return len(self.history) * self.steps_per_epoch + self.metrics.batches

    def fit(self) -> FitResult:
        """Train for the remaining epochs; the model then has the weights of the last one.

        Raises signals.Stopped after the current batch if a stop signal was received; ``last.pt``
        then has the complete state. Raises NonFiniteLoss if a loss is not finite, and
        errors.WriteError if a file cannot be written; ``last.pt`` is then the previous checkpoint.
        """
        progress = ProgressReporter(self.settings, self.splits, self.steps_taken)
        with progress, signals.deferred():
            while len(self.history) < self.settings.epochs:
                if self._should_stop_early():
                    log.info(
                        "early stopping: no better validation accuracy since epoch %d",
                        best_epoch(self.history),
                    )
                    return self._finish("early_stopped")
                try:
                    row = self._run_epoch(progress)
                except signals.Stopped:
                    self.save()
                    raise
                self._end_epoch(row)
            return self._finish("finished")

    def _finish(self, status: str) -> FitResult:
        if self.saved_epochs < len(self.history):
            self.save()
        return FitResult(status, self.history)

    def _should_stop_early(self) -> bool:
        patience = self.settings.early_stopping.patience
        if patience is None or not self.history:
            return False
        return len(self.history) - best_epoch(self.history) >= patience

    # One epoch -----------------------------------------------------------------------------------

    def _run_epoch(self, progress: ProgressReporter) -> dict[str, float]:
        """Train for an epoch, or the rest of it, and return its row of ``history.jsonl``."""
        metrics = self.metrics
        metrics.start_clock()
        self._train(progress)
        if metrics.train_seconds is None:
            metrics.train_seconds = metrics.elapsed()
        scores = self._score()
        progress.on_scored()
        return {
            "epoch": metrics.epoch,
            "lr": metrics.first_lr,
            "train_loss_running": metrics.loss,
            "train_accuracy_running": metrics.accuracy,
            **scores,
            "seconds": metrics.elapsed(),
            "samples_per_second": metrics.samples / metrics.train_seconds,
        }

    def _train(self, progress: ProgressReporter) -> None:
        """Take the remaining steps of the epoch."""
        settings, metrics = self.settings, self.metrics
        if metrics.batches == 0:
            seed_global(settings.seed, Stream.DROPOUT, metrics.epoch)
        self.model.train()
        for images, labels in training_batches(
            self.splits.train, settings, metrics.epoch, skip=metrics.batches
        ):
            signals.raise_if_stopped()
            self.step(images, labels)
            progress.on_batch(len(labels))
            if self._is_save_due():
                self.save()
        metrics.flush()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take one step, as :func:`training_step` does, and add its batch to ``metrics``."""
        arguments = self.loss_fn, self.optimizer, self.scheduler, self.metrics
        training_step(self.forward, images, labels, *arguments)

    def _score(self) -> dict[str, float]:
        """Return loss and accuracy on training and validation images, in evaluation mode."""
        scores: dict[str, float] = {}
        for name, images in (("train", self.splits.train), ("val", self.splits.validation)):
            predictions = infer(self.model, evaluation_batches(images))
            values = score(predictions)
            scores |= {f"{name}_loss": values["loss"], f"{name}_accuracy": values["accuracy"]}
        for loss in (scores["train_loss"], scores["val_loss"]):
            if not math.isfinite(loss):  # because of the last step
                lr = self.metrics.last_lr
                raise NonFiniteLoss(self.metrics.epoch, self.steps_per_epoch, lr, loss)
        return scores

    def _end_epoch(self, row: dict[str, float]) -> None:
        """Save a complete epoch.

        The order lets a run resume from a crash between any two files: ``last.pt`` has a hash of
        the history, from which surplus rows can be removed, and a missing ``best.pt`` can be
        restored from ``last.pt``. Epochs of a large network that are not saved are repeated.
        """
        self.history.append(row)
        append_history(self.record.run_dir, row)
        self.metrics = TrainMetrics(epoch=len(self.history) + 1)
        is_best = best_epoch(self.history) == len(self.history)
        if not self.is_large or self._is_save_due():
            if is_best:
                self.unsaved_best = None
            self.save()
            if is_best:
                self._write_checkpoint(BEST, self._weights())
        elif is_best:
            self.unsaved_best = None  # free its memory first
            self.unsaved_best = copy.deepcopy(self._weights())
        self._update_record()
        self.record.write()
        if self.logger is not None:
            self.logger.log_epoch(row)
        _log_epoch(row, self.settings.epochs, is_best)

    # Saving and resuming -------------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        return time.monotonic() - self.saved_at >= 60 * self.settings.checkpoint.minutes

    def save(self) -> None:
        """Write ``last.pt``, from which training can be resumed. Call it between two batches.

        An earlier epoch that is the best, and not saved yet, becomes ``best.pt``: it is written
        before ``last.pt``, and renamed after it, so that at any time a file has the best epoch of
        the current ``last.pt``.
        """
        metrics = self.metrics.state_dict()  # first: it may raise NonFiniteLoss
        training_state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generators": global_states(self.device),
            "metrics": metrics,
            "history_sha256": history_sha256(self.history),
        }
        if self.unsaved_best is not None:
            self._write_checkpoint(NEXT_BEST, self.unsaved_best)
        self._write_checkpoint(LAST, self._weights(), training_state)
        if self.unsaved_best is not None:
            rename(self.record.run_dir / NEXT_BEST, BEST)
            self.unsaved_best = None
        self.saved_at, self.saved_epochs = time.monotonic(), len(self.history)

    def _weights(self) -> Weights:
        return Weights(self.model.state_dict(), len(self.history), self.steps_taken)

    def _restore(self, resume_state: ResumeState) -> None:
        checkpoint = resume_state.checkpoint
        state = checkpoint.training
        assert state is not None  # checked by load_resume_state
        self.model.load_state_dict(checkpoint.model.state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        restore_global_states(state["generators"], self.device)
        self.history = list(resume_state.history)
        self.metrics = TrainMetrics(**state["metrics"])
        self.saved_at, self.saved_epochs = time.monotonic(), len(self.history)
        if self.history:
            self._update_record()

    def _write_checkpoint(
        self, name: str, weights: Weights, training_state: dict[str, Any] | None = None
    ) -> None:
        with self.record.phase("checkpoints"):
            save_checkpoint(
                self.record.run_dir / name,
                weights.tensors,
                self.settings.model,
                self.model.precision_name,
                self.config,
                weights.epoch,
                weights.step,
                training_state,
            )

    def _update_record(self) -> None:
        """Summarise the epochs for ``metrics.json``; the rate excludes scoring."""
        history = self.history
        self.record.values |= {
            "epochs": len(history),
            "steps": len(history) * self.steps_per_epoch,
            "best_epoch": best_epoch(history),
            "samples_per_second": len(history)
            / sum(1 / row["samples_per_second"] for row in history),
        }


def _log_epoch(row: dict[str, float], epochs: int, is_best: bool) -> None:
    log.info(
        "epoch %d/%d  lr %.3g  train %.2f%% (running %.2f%%, loss %.4f)  "
        "validation %.2f%% (loss %.4f)  %.1f s, %.0f images/s%s",
        row["epoch"],
        epochs,
        row["lr"],
        100 * row["train_accuracy"],
        100 * row["train_accuracy_running"],
        row["train_loss_running"],
        100 * row["val_accuracy"],
        row["val_loss"],
        row["seconds"],
        row["samples_per_second"],
        "  best" if is_best else "",
    )
