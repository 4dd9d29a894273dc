"""What all measurements of the benchmark share: their sizes, the digits, how a table is written."""

import itertools
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mnistcnn import baselines, device, engine, fit, measuring, optim, signals, sweep
from mnistcnn.compiled import Forward
from mnistcnn.config import TrainSettings, to_settings
from mnistcnn.data import Digits
from mnistcnn.measuring import OnBatch, Spread, spread

log = logging.getLogger(__name__)

OURS = "mnistcnn"
LIGHTNING = "Lightning"

Work = Callable[[OnBatch], None]  # without an end of its own


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``--rounds`` may change the first."""

    rounds: int
    seconds: float  # at least, of each timing within this process
    warm_up: int  # batches that are not counted
    matrix_seconds: float  # at least, of each size
    matrix_sides: tuple[int, ...]  # none: those that suit the device
    networks: tuple[str, ...]  # overrides; what does not fit a network is left out
    run: tuple[str, ...]  # overrides of the runs of `report` and `start`
    short_run: tuple[str, ...]  # of those of `scaling`
    fractions: tuple[float, ...]
    fraction_epochs: int  # of each of these runs
    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    sweep: int  # runs
    sweep_epochs: int


SMALL_PICTURES = ("tsne.samples=100", "tsne.perplexity=10")
FULL = Sizes(
    rounds=5, seconds=3.0, warm_up=10, matrix_seconds=0.5, matrix_sides=(), networks=(), run=(),
    short_run=SMALL_PICTURES, fractions=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), fraction_epochs=4,
    epochs=(1, 2, 4, 8), batch_sizes=(32, 64, 128, 256, 512), sweep=3, sweep_epochs=3,
)  # fmt: skip
QUICK = Sizes(
    rounds=1, seconds=0.1, warm_up=1, matrix_seconds=0.01, matrix_sides=(256,),
    networks=("batch_size=4", "model.width=0.1"), run=("epochs=1", "data.fraction=0.1",
    *SMALL_PICTURES), short_run=("data.fraction=0.1", *SMALL_PICTURES), fractions=(0.05, 0.1),
    fraction_epochs=1, epochs=(1, 2), batch_sizes=(32, 128), sweep=2, sweep_epochs=1,
)  # fmt: skip


@dataclass
class Section:
    """One table. ``values`` is what ``benchmark.json`` has of it, with every single round."""

    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def markdown(self) -> str:
        table = sweep.markdown(self.header, self.rows)
        return "\n\n".join([f"## {self.title}", table, *self.notes])


@dataclass
class Bench:
    """What the sections share. Numbers of sections are measured with these sizes, on these digits.

    ``folder`` is thrown away in the end.
    """

    sizes: Sizes
    overrides: list[str]  # of every configuration: data and device
    digits: Digits
    folder: Path

    @property
    def device(self) -> torch.device:
        return self.digits.train.labels.device

    @property
    def precision(self) -> torch.dtype:
        return device.resolve_precision("auto", self.device)

    @cached_property
    def raw_files(self) -> Path:
        """Where torchvision finds the digits, all that are no test images among one another."""
        root = self.folder / "torchvision"
        parts = self.digits.train, self.digits.validation
        train = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts])
        test = self.digits.test
        baselines.write_raw_files(root, train, (test.pixels, test.labels))
        return root

    def settings(self, *overrides: str) -> TrainSettings:
        return settings(*self.overrides, *overrides)

    def directory(self) -> Path:
        """A new one, empty."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def alternate(self, sides: dict[str, Callable], rounds: int | None = None) -> dict[str, list]:
        rounds = rounds or self.sizes.rounds

        def tell(number: int, side: str, value: Any) -> None:
            shown = f"{value:.4g}" if isinstance(value, float) else "done"
            log.info("  round %d of %d, %s: %s", number, rounds, side, shown)
            signals.check()  # a loader that is thrown away may have swallowed one

        return measuring.alternate(sides, rounds, tell)

    def rate(self, work: Work, warm_up: int | None = None) -> float:
        warm_up = self.sizes.warm_up if warm_up is None else warm_up
        return measuring.rate(work, self.device, self.sizes.seconds, warm_up)

    def foreign_rate(self, work: Work) -> float:
        """The rate of what is not ours: with torch's settings as they come, not with ours."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=True
        ):
            return self.rate(work)

    def matrix_rate(self) -> float:
        """FLOP/s, in the type that training computes in here."""
        sizes = self.sizes
        return measuring.matrix_product_rate(
            self.device, self.precision, sizes.matrix_seconds, sizes.matrix_sides
        )


def settings(*overrides: str) -> TrainSettings:
    """What ``python -m mnistcnn.train OVERRIDES`` would train with."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        return to_settings(TrainSettings, compose("train", list(overrides)))


def ours(bench: Bench, of: TrainSettings) -> Work:
    """Training as :mod:`fit` does it, but for scores and checkpoints; each call goes on."""
    network = fit.fresh_network(of, bench.digits)
    train = bench.digits.train
    optimizer = optim.optimizer(of.optimizer, network.parameters())
    steps = fit.steps_per_epoch(of, len(train))
    schedule = optim.schedule(of.scheduler, optimizer, of.epochs, steps)
    forward = Forward(network, of.compile, of.epochs * steps, bench.device)
    precision = device.resolve_precision(of.precision, bench.device)
    epochs = itertools.count(1)

    def work(on_batch: OnBatch) -> None:
        for epoch in epochs:
            engine.train_epoch(
                network, fit.training_batches(train, of, epoch), optim.LOSSES[of.loss], optimizer,
                schedule, precision, engine.Running(epoch), on_batch, forward,
            )  # fmt: skip

    return work


# How numbers are written -------------------------------------------------------------------------


def number(value: float) -> str:
    """With three digits, or with all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(values: Spread, unit: float = 1.0) -> str:
    low, middle, high = (number(v / unit) for v in (values.low, values.median, values.high))
    return f"{middle} ({low} to {high})"


def ratios(one: Sequence[float], other: Sequence[float], factor: float = 1.0) -> Spread:
    """Of each round by itself."""
    return spread([factor * a / b for a, b in zip(one, other, strict=True)])
