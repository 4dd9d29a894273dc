"""The epochs of a run: order, schedule, history, best on validation, early stop, going on."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
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
    signals,
)
from mnistcnn.checkpoint import Checkpoint
from mnistcnn.compiled import Forward
from mnistcnn.config import TrainSettings, to_yaml
from mnistcnn.data import Digits, Images
from mnistcnn.models import Classifier, CustomSettings, Vgg16Settings
from mnistcnn.rundir import Record
from mnistcnn.seeding import (
    Stream,
    global_states,
    restore_global,
    seed_global,
    torch_generator,
)
from mnistcnn.signals import Stopped

Batches = Iterator[tuple[Tensor, Tensor]]  # images and labels

log = logging.getLogger(__name__)

ESTIMATE_AFTER = 3.0  # seconds of training
LONG = 600.0  # seconds: an estimate above this comes with advice
CPU_WIDTH = 0.25  # of the large networks


@dataclass(frozen=True)
class Start:
    """Where a training goes on: the network, its optimizer and all else, and the epochs before."""

    checkpoint: Checkpoint
    history: list[dict]


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


def fit(
    network: Classifier,
    digits: Digits,
    settings: TrainSettings,
    record: Record,
    start: Start | None = None,
) -> Fit:
    """Train ``network``, writing ``history.jsonl``, ``best.pt`` and ``last.pt`` into the run.

    ``network`` and ``digits`` are on the device to train on. Afterwards the network has the
    weights of the last epoch. ``record`` learns after each epoch what there is to know by then.
    From a ``start`` on, all that is written is what a training without a pause would have written.

    Raises engine.NonFiniteLoss and errors.WriteError; ``last.pt`` is then the checkpoint before:
    that of the last whole epoch, the initial one, or one from within a long epoch. Raises
    signals.Stopped between two batches; ``last.pt`` then holds all.
    """
    training = _Training(network, digits, settings, record, start)
    history, epochs = training.history, settings.epochs
    patience = settings.early_stopping.patience or epochs
    with (
        _Progress(settings, digits, training.steps, training.steps_taken) as progress,
        signals.deferred() as asked,
    ):
        while len(history) < epochs:
            if history and len(history) - metrics.best_epoch(history) >= patience:
                best = metrics.best_epoch(history)
                log.info("early stop: no better validation accuracy since epoch %d", best)
                return Fit("early_stopped", history)
            try:
                row = _epoch(training, progress, asked)
            except Stopped:
                training.save()
                raise
            training.close_epoch(row)
            _log_epoch(row, epochs, metrics.best_epoch(history) == len(history))
    return Fit("finished", history)


class _Training:
    """All that changes while a network is trained, and how it is kept."""

    def __init__(
        self,
        network: Classifier,
        digits: Digits,
        settings: TrainSettings,
        record: Record,
        start: Start | None,
    ):
        self.network, self.digits, self.settings, self.record = network, digits, settings, record
        self.device = network.mean.device
        self.precision = device.resolve_precision(settings.precision, self.device)
        self.steps = steps_per_epoch(settings, len(digits.train))
        self.optimizer = optim.optimizer(settings.optimizer, network.parameters())
        self.schedule = optim.schedule(
            settings.scheduler, self.optimizer, settings.epochs, self.steps
        )
        self.config = to_yaml(settings)
        self.history: list[dict] = []
        self.running = engine.Running(epoch=1)
        if start is None:
            self.save()
        else:
            self._go_on_from(start)
        left = settings.epochs * self.steps - self.steps_taken
        self.forward = Forward(network, settings.compile, left, self.device)
        record.values["compile"] = self.forward.chosen

    def _go_on_from(self, start: Start) -> None:
        state = start.checkpoint.training
        self.network.load_state_dict(start.checkpoint.network.state_dict())
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        restore_global(state["generators"], self.device)
        self.history = list(start.history)
        self.running = engine.Running(**state["running"])
        self.saved = time.monotonic()
        if self.history:
            self.record.values |= _summary(self.history, self.steps)

    def save(self) -> None:
        """Write ``last.pt``, from which the training can go on: between any two batches."""
        running = self.running.numbers()
        state = {
            "optimizer": checkpoint.optimizer_state(self.optimizer),
            "schedule": self.schedule.state_dict(),
            "generators": global_states(self.device),
            "running": running,
            "best": self._best(),
            "history_sha256": rundir.history_sha256(self.history),
        }
        self._write(rundir.LAST, state)
        self.saved = time.monotonic()

    def close_epoch(self, row: dict) -> None:
        """Keep a whole epoch. ``best.pt`` comes last: it can be made of ``last.pt``."""
        self.history.append(row)
        rundir.append_history(self.record.out, row)
        self.running = engine.Running(epoch=len(self.history) + 1)
        self.save()
        if metrics.best_epoch(self.history) == len(self.history):
            self._write(rundir.BEST)
        self.record.values |= _summary(self.history, self.steps) | {"compile": self.forward.chosen}
        self.record.write()

    @property
    def steps_taken(self) -> int:
        return len(self.history) * self.steps + self.running.batches

    def _write(self, name: str, state: dict | None = None) -> None:
        with self.record.phase("checkpoints"):
            checkpoint.save(
                self.record.out / name, self.network, self.settings.model, self.config,
                len(self.history), self.steps_taken, state,
            )  # fmt: skip

    def _best(self) -> dict | None:
        if not self.history:
            return None
        row = self.history[metrics.best_epoch(self.history) - 1]
        return {key: row[key] for key in ("epoch", "val_accuracy")}


def _epoch(training: _Training, progress: "_Progress", asked: Callable[[], int | None]) -> dict:
    """Train for an epoch, or what is left of it, and score it: its row of ``history.jsonl``.

    Raises Stopped at the end of a batch, if a signal ``asked`` for it meanwhile.
    """
    settings, digits, running = training.settings, training.digits, training.running
    start = time.perf_counter() - running.seconds
    if running.batches == 0:
        seed_global(settings.seed, Stream.DROPOUT, running.epoch)

    def until_asked(batches: Batches) -> Batches:
        for batch in batches:
            if number := asked():
                running.seconds = time.perf_counter() - start
                raise Stopped(number)
            yield batch

    def on_batch(samples: int) -> None:
        progress.on_batch(samples)
        if time.monotonic() - training.saved >= 60 * settings.checkpoint.minutes:
            running.seconds = time.perf_counter() - start
            training.save()

    batches = training_batches(digits.train, settings, running.epoch, running.batches)
    engine.train_epoch(
        training.network, until_asked(batches), optim.LOSSES[settings.loss], training.optimizer,
        training.schedule, training.precision, running, on_batch, training.forward,
    )  # fmt: skip
    if running.trained_seconds is None:
        running.trained_seconds = time.perf_counter() - start
    scores = _evaluate(training.network, digits, training.precision, until_asked)
    for value in (scores["train_loss"], scores["val_loss"]):
        if not math.isfinite(value):  # the last step broke it
            raise engine.NonFiniteLoss(running.epoch, training.steps, running.last_lr, value)
    progress.on_scored()
    return {
        "epoch": running.epoch,
        "lr": running.first_lr,
        "train_loss_running": running.loss,
        "train_accuracy_running": running.accuracy,
        **scores,
        "seconds": time.perf_counter() - start,
        "samples_per_second": running.samples / running.trained_seconds,
    }


def _summary(history: list[dict], steps: int) -> dict:
    """What ``metrics.json`` says of the epochs; the rate is that of training alone."""
    return {
        "epochs": len(history),
        "steps": len(history) * steps,
        "best_epoch": metrics.best_epoch(history),
        "samples_per_second": len(history) / sum(1 / row["samples_per_second"] for row in history),
    }


def _steps_per_pass(settings: TrainSettings, count: int) -> int:
    return len(list(data.batch_slices(count, settings.batch_size)))


def steps_per_epoch(settings: TrainSettings, count: int) -> int:
    """An epoch is a pass over ``count`` images, or its share of ``steps`` where that is set."""
    if settings.steps is None:
        return _steps_per_pass(settings, count)
    return settings.steps // settings.epochs


def training_batches(train: Images, settings: TrainSettings, epoch: int, done: int = 0) -> Batches:
    """The batches of an epoch, shuffled and augmented: images (N, 1, 28, 28) float32, labels.

    A function of the images, the seed and the epoch alone; the first ``done`` are left out. Where
    ``steps`` is set, an epoch begins where the one before ended, and may end within a pass over the
    images or hold several.
    """
    steps = steps_per_epoch(settings, len(train))
    before = (epoch - 1) * steps + done
    passes, skipped = divmod(before, _steps_per_pass(settings, len(train)))
    whole = (_pass(train, settings, number) for number in itertools.count(passes + 2))
    first = _pass(train, settings, passes + 1, skipped)
    batches = itertools.chain(first, itertools.chain.from_iterable(whole))
    return itertools.islice(batches, steps - done)


def _pass(train: Images, settings: TrainSettings, number: int, skipped: int = 0) -> Batches:
    """The batches of a pass over the images (counted from 1), but for the first ``skipped``."""
    here, count = train.labels.device, len(train)
    order = data.epoch_order(settings.seed, number, count).to(here)
    generator = torch_generator(settings.seed, Stream.AUGMENT, number)
    draws = augment.draw(settings.aug, count, generator).to(here)
    for part in list(data.batch_slices(count, settings.batch_size))[skipped:]:
        batch = train.take(order[part])
        yield augment.apply(data.to_unit(batch.pixels), draws[part], settings.aug), batch.labels


def _evaluate(
    network: Classifier,
    digits: Digits,
    precision: torch.dtype,
    until_asked: Callable[[Batches], Batches],
) -> dict[str, float]:
    """Scores in evaluation mode, without augmentation."""
    scores = {}
    for name, part in (("train", digits.train), ("val", digits.validation)):
        predictions = engine.infer(network, until_asked(data.evaluation_batches(part)), precision)
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

    def __init__(self, settings: TrainSettings, digits: Digits, steps: int, done: int = 0):
        """``done`` of the run's steps were taken before."""
        self.settings = settings
        self.on_cpu = digits.train.labels.device.type == "cpu"
        self.scored = len(digits.train) + len(digits.validation)
        self.bar = tqdm(
            total=settings.epochs * steps, initial=done, unit="batch", dynamic_ncols=True,
            leave=False, disable=None,  # where stderr is no terminal
        )  # fmt: skip
        # Work is counted in images trained on. Scoring one has no backward pass and is taken as
        # a third of that.
        passes = steps / _steps_per_pass(settings, len(digits.train))  # per epoch
        self.left = settings.epochs - done / steps
        self.work = self.left * (passes * len(digits.train) + self.scored / 3)
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
        log.info("about %s for %.3g epochs", console.duration(seconds), self.left)
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
