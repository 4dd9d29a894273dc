"""The epochs of a run: order, schedule, history, best on validation, early stop, time left."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from mnistcnn import augment, checkpoint, data, engine, metrics, optim, rundir, seeding
from mnistcnn.config import TrainSettings, to_yaml
from mnistcnn.data import Digits, Images
from mnistcnn.models import Classifier, CustomSettings, Vgg16Settings
from mnistcnn.seeding import Stream

log = logging.getLogger(__name__)

ESTIMATE_AFTER = 3.0  # seconds of training, and at least one batch after the first
LONG = 600.0  # seconds: an estimate above this comes with advice


@dataclass(frozen=True)
class Fit:
    """What became of a training: ``status`` is ``finished`` or ``early_stopped``."""

    status: str
    history: list[dict]
    best_epoch: int
    samples_per_second: float  # in training, over all epochs

    def describe(self) -> dict:
        return {
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "samples_per_second": self.samples_per_second,
        }


def fit(network: Classifier, digits: Digits, settings: TrainSettings, out: Path) -> Fit:
    """Train ``network``, writing ``history.jsonl``, ``best.pt`` and ``last.pt`` into ``out``.

    ``network`` and ``digits`` are on the device to train on. Afterwards the network has the
    weights of the last epoch. An epoch is the best when its validation accuracy is above that of
    every epoch before it.

    Raises engine.NonFiniteLoss; ``last.pt`` then holds the weights of the last whole epoch, or
    the initial ones.
    """
    precision = engine.resolve_precision(settings.precision, network.mean.device)
    steps = len(list(data.batch_slices(len(digits.train), settings.batch_size)))
    optimizer = optim.optimizer(settings.optimizer, network.parameters())
    schedule = optim.schedule(settings.scheduler, optimizer, settings.epochs, steps)
    config = to_yaml(settings)
    history: list[dict] = []
    best, best_epoch, status = -1.0, 0, "finished"

    checkpoint.save(out / rundir.LAST, network, settings.model, config, epoch=0)
    with _Progress(settings, digits, steps) as progress:
        for epoch in range(1, settings.epochs + 1):
            row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
            start = time.perf_counter()
            row |= _train_one(network, digits, settings, optimizer, schedule, epoch, progress)
            seconds = time.perf_counter() - start
            row |= _evaluate(network, digits, precision)
            progress.on_scored()
            row["seconds"] = time.perf_counter() - start
            row["samples_per_second"] = len(digits.train) / seconds
            history.append(row)
            rundir.append_history(out, row)

            improved = row["val_accuracy"] > best
            if improved:
                best, best_epoch = row["val_accuracy"], epoch
                checkpoint.save(out / rundir.BEST, network, settings.model, config, epoch)
            checkpoint.save(
                out / rundir.LAST, network, settings.model, config, epoch,
                training={"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()},
            )  # fmt: skip
            _log_epoch(row, settings.epochs, improved)
            patience = settings.early_stopping.patience
            if patience is not None and epoch - best_epoch >= patience and epoch < settings.epochs:
                log.info("early stop: no better validation accuracy since epoch %d", best_epoch)
                status = "early_stopped"
                break
    rate = len(history) / sum(1 / row["samples_per_second"] for row in history)
    return Fit(status, history, best_epoch, samples_per_second=rate)


def _train_one(
    network: Classifier,
    digits: Digits,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    epoch: int,
    progress: "_Progress",
) -> dict[str, float]:
    seeding.seed_global(settings.seed, Stream.DROPOUT, epoch)
    precision = engine.resolve_precision(settings.precision, network.mean.device)
    loss, accuracy = engine.train_epoch(
        network, training_batches(digits.train, settings, epoch), optimizer, schedule, precision,
        epoch, progress.on_batch,
    )  # fmt: skip
    return {"train_loss_running": loss, "train_accuracy_running": accuracy}


def training_batches(
    train: Images, settings: TrainSettings, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, shuffled and augmented: images (N, 1, 28, 28) float32, labels.

    A function of the images, the seed and the epoch alone.
    """
    device, count = train.labels.device, len(train)
    order = data.epoch_order(settings.seed, epoch, count).to(device)
    generator = seeding.torch_generator(settings.seed, Stream.AUGMENT, epoch)
    draws = augment.draw(settings.aug, count, generator).to(device)
    for part in data.batch_slices(count, settings.batch_size):
        batch = train[order[part]]
        yield augment.apply(data.to_unit(batch.pixels), draws[part], settings.aug), batch.labels


def _evaluate(network: Classifier, digits: Digits, precision: torch.dtype) -> dict[str, float]:
    """Scores in evaluation mode, without augmentation."""
    scores = {}
    for name, part in (("train", digits.train), ("val", digits.validation)):
        predictions = engine.infer(network, data.evaluation_batches(part), precision)
        score = metrics.score(predictions)
        scores |= {f"{name}_loss": score["loss"], f"{name}_accuracy": score["accuracy"]}
    return scores


def _log_epoch(row: dict, epochs: int, improved: bool) -> None:
    log.info(
        "epoch %d/%d  lr %.3g  train %.2f%% (running %.2f%%, loss %.4f)  "
        "validation %.2f%% (loss %.4f)  %.1f s, %.0f images/s%s",
        row["epoch"], epochs, row["lr"], 100 * row["train_accuracy"],
        100 * row["train_accuracy_running"], row["train_loss_running"],
        100 * row["val_accuracy"], row["val_loss"], row["seconds"], row["samples_per_second"],
        "  best" if improved else "",
    )  # fmt: skip


class _Progress:
    """A bar where the output is a terminal, and once an estimate of the whole duration."""

    def __init__(self, settings: TrainSettings, digits: Digits, steps: int):
        self.settings = settings
        self.scored = len(digits.train) + len(digits.validation)
        self.bar = tqdm(
            total=settings.epochs * steps, unit="batch", dynamic_ncols=True, leave=False,
            disable=None,  # where stderr is no terminal
        )  # fmt: skip
        # Work is counted in images trained on. Scoring one has no backward pass and is taken as
        # a third of that.
        self.work = settings.epochs * (len(digits.train) + self.scored / 3)
        self.done = 0.0
        self.start: float | None = None  # after the first batch, which pays for warming up
        self.told = False

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def on_batch(self, samples: int) -> None:
        self.bar.update()
        now = time.perf_counter()
        if self.start is None:
            self.start = now
            return
        self.done += samples
        if not self.told and now - self.start >= ESTIMATE_AFTER:
            self.told = True
            seconds = (now - self.start) / self.done * self.work
            log.info("about %s for %d epochs", _duration(seconds), self.settings.epochs)
            if seconds > LONG:
                log.info("to be faster: %s", ", ".join(_advice(self.settings)))

    def on_scored(self) -> None:
        self.done += self.scored / 3


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours"


def _advice(settings: TrainSettings) -> Iterator[str]:
    """Overrides that make a run shorter, the most effective first."""
    if isinstance(settings.model, CustomSettings | Vgg16Settings) and settings.model.width > 0.25:
        yield "model.width=0.25 (about a sixteenth of the work)"
    if settings.data.fraction > 0.25:
        yield "data.fraction=0.25"
    if settings.epochs > 3:
        yield "epochs=3"
    if settings.data.name == "mnist":
        yield "data=mnist5k"
    yield "or a GPU"
