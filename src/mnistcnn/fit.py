"""The epochs of a run: order, schedule, history, best on validation, early stop, time left."""

import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mnistcnn import (
    augment,
    checkpoint,
    console,
    data,
    device,
    engine,
    metrics,
    models,
    optim,
    rundir,
)
from mnistcnn.config import TrainSettings, to_yaml
from mnistcnn.data import Digits, Images
from mnistcnn.models import Classifier, CustomSettings, Vgg16Settings
from mnistcnn.rundir import Record
from mnistcnn.seeding import Stream, seed_global, torch_generator

log = logging.getLogger(__name__)

ESTIMATE_AFTER = 3.0  # seconds of training
LONG = 600.0  # seconds: an estimate above this comes with advice
CPU_WIDTH = 0.25  # of the large networks


@dataclass(frozen=True)
class Fit:
    """What became of a training: ``status`` is ``finished`` or ``early_stopped``."""

    status: str
    history: list[dict]


def fresh_network(settings: TrainSettings, digits: Digits) -> Classifier:
    """A network for ``digits``, on their device, its weights decided by the seed alone."""
    seed_global(settings.seed, Stream.WEIGHTS)
    network = models.build(settings.model)
    network.normalise_by(*digits.pixel_statistics())
    device.place(network, digits.train.labels.device)
    return network


def fit(network: Classifier, digits: Digits, settings: TrainSettings, record: Record) -> Fit:
    """Train ``network``, writing ``history.jsonl``, ``best.pt`` and ``last.pt`` into the run.

    ``network`` and ``digits`` are on the device to train on. Afterwards the network has the
    weights of the last epoch. ``record`` learns after each epoch what there is to know by then.

    Raises engine.NonFiniteLoss; ``last.pt`` then holds the weights of the last whole epoch, or
    the initial ones.
    """
    precision = device.resolve_precision(settings.precision, network.mean.device)
    steps = steps_per_epoch(settings, len(digits.train))
    optimizer = optim.optimizer(settings.optimizer, network.parameters())
    loss = optim.LOSSES[settings.loss]
    schedule = optim.schedule(settings.scheduler, optimizer, settings.epochs, steps)
    patience = settings.early_stopping.patience or settings.epochs
    config = to_yaml(settings)
    history: list[dict] = []

    def save(name: str, epoch: int) -> None:
        checkpoint.save(record.out / name, network, settings.model, config, epoch)

    save(rundir.LAST, epoch=0)
    with _Progress(settings, digits, steps) as progress:
        for epoch in range(1, settings.epochs + 1):
            row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
            start = time.perf_counter()
            seed_global(settings.seed, Stream.DROPOUT, epoch)
            batches = training_batches(digits.train, settings, epoch)
            running = engine.train_epoch(
                network, batches, loss, optimizer, schedule, precision, epoch, progress.on_batch
            )
            row["train_loss_running"] = running.loss
            row["train_accuracy_running"] = running.accuracy
            trained = time.perf_counter()
            row |= _evaluate(network, digits, precision)
            for value in (row["train_loss"], row["val_loss"]):
                if not math.isfinite(value):  # the last step broke it
                    raise engine.NonFiniteLoss(epoch, steps, running.last_lr, value)
            progress.on_scored()
            row["seconds"] = time.perf_counter() - start
            row["samples_per_second"] = running.samples / (trained - start)

            history.append(row)
            rundir.append_history(record.out, row)
            best_epoch = metrics.best_epoch(history)
            save(rundir.LAST, epoch)
            if best_epoch == epoch:
                save(rundir.BEST, epoch)
            record.values |= _summary(history, steps)
            _log_epoch(row, settings.epochs, best_epoch == epoch)
            if epoch - best_epoch >= patience and epoch < settings.epochs:
                log.info("early stop: no better validation accuracy since epoch %d", best_epoch)
                return Fit("early_stopped", history)
    return Fit("finished", history)


def _summary(history: list[dict], steps: int) -> dict:
    """What ``metrics.json`` says of the epochs; the rate is that of training alone."""
    return {
        "epochs": len(history),
        "steps": len(history) * steps,
        "best_epoch": metrics.best_epoch(history),
        "samples_per_second": len(history)
        / sum(1 / row["samples_per_second"] for row in history),
    }


def _steps_per_pass(settings: TrainSettings, count: int) -> int:
    return len(list(data.batch_slices(count, settings.batch_size)))


def steps_per_epoch(settings: TrainSettings, count: int) -> int:
    """An epoch is a pass over ``count`` images, or its share of ``steps`` where that is set."""
    if settings.steps is None:
        return _steps_per_pass(settings, count)
    return settings.steps // settings.epochs


def training_batches(
    train: Images, settings: TrainSettings, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, shuffled and augmented: images (N, 1, 28, 28) float32, labels.

    A function of the images, the seed and the epoch alone. Where ``steps`` is set, an epoch
    begins where the one before ended, and may end within a pass over the images or hold several.
    """
    steps = steps_per_epoch(settings, len(train))
    passes, skipped = divmod((epoch - 1) * steps, _steps_per_pass(settings, len(train)))
    whole = (_pass(train, settings, number) for number in itertools.count(passes + 2))
    first = _pass(train, settings, passes + 1, skipped)
    return itertools.islice(itertools.chain(first, itertools.chain.from_iterable(whole)), steps)


def _pass(
    train: Images, settings: TrainSettings, number: int, skipped: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a pass over the images (counted from 1), but for the first ``skipped``."""
    here, count = train.labels.device, len(train)
    order = data.epoch_order(settings.seed, number, count).to(here)
    generator = torch_generator(settings.seed, Stream.AUGMENT, number)
    draws = augment.draw(settings.aug, count, generator).to(here)
    for part in list(data.batch_slices(count, settings.batch_size))[skipped:]:
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
        self.on_cpu = digits.train.labels.device.type == "cpu"
        self.scored = len(digits.train) + len(digits.validation)
        self.bar = tqdm(
            total=settings.epochs * steps, unit="batch", dynamic_ncols=True, leave=False,
            disable=None,  # where stderr is no terminal
        )  # fmt: skip
        # Work is counted in images trained on. Scoring one has no backward pass and is taken as
        # a third of that.
        passes = steps / _steps_per_pass(settings, len(digits.train))  # per epoch
        self.work = settings.epochs * (passes * len(digits.train) + self.scored / 3)
        self.done = 0.0
        self.start = time.perf_counter()
        self.warm = False
        self.told = False

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def on_batch(self, samples: int) -> None:
        self.bar.update()
        if self.told:
            return
        self.done += samples
        seconds = time.perf_counter() - self.start
        if seconds >= ESTIMATE_AFTER:
            self._tell(seconds / self.done * self.work)
        elif not self.warm:  # the first batch pays for warming up: begin to count after it
            self.warm, self.done, self.start = True, 0.0, time.perf_counter()

    def on_scored(self) -> None:
        self.done += self.scored / 3

    def _tell(self, seconds: float) -> None:
        self.told = True
        log.info("about %s for %d epochs", console.duration(seconds), self.settings.epochs)
        if seconds > LONG:
            log.info("to be faster: %s", ", ".join(_advice(self.settings, self.on_cpu)))


def _advice(settings: TrainSettings, on_cpu: bool) -> Iterator[str]:
    """Overrides that make a run shorter, the most effective first."""
    model = settings.model
    if isinstance(model, CustomSettings | Vgg16Settings) and model.width > CPU_WIDTH:
        share = (CPU_WIDTH / model.width) ** 2  # work grows with inputs times outputs
        yield f"model.width={CPU_WIDTH} ({100 * share:.0f}% of the work)"
    if settings.steps is not None:
        yield f"steps={max(1, settings.steps // settings.epochs // 4) * settings.epochs}"
    else:
        if settings.data.fraction > 0.25:
            yield "data.fraction=0.25"
        if settings.epochs > 3:
            yield "epochs=3"
    if settings.data.name == "mnist":
        yield "data=mnist5k"
    if on_cpu:
        yield "a GPU"
