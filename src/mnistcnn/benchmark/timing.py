"""Repeatable timings: alternating rounds and their spread, rates, matrix products, FLOP counts."""

import contextlib
import gc
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mnistcnn.kernels.conv_block import computed_by_torch
from mnistcnn.system import signals

# sizes of the square matrices whose product is timed; the fastest one counts
MATRIX_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192), "mps": (2048, 4096)}

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spread:
    """The values of all rounds, in order, with their median, minimum and maximum."""

    rounds: list[float]
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        median, low, high = map(format_number, (self.median, self.low, self.high))
        if len(self.rounds) == 1:
            return median
        return f"{median} ({low} to {high})"


def spread(values: Iterable[float], factor: float = 1.0) -> Spread:
    """Return the spread of ``factor`` times the values."""
    rounds = [float(factor * value) for value in values]
    return Spread(rounds, float(np.median(rounds)), min(rounds), max(rounds))


def ratios(
    numerators: Sequence[float], denominators: Sequence[float], factor: float = 1.0
) -> Spread:
    """Return the spread of ``factor`` times the ratio of each round."""
    return spread((a / b for a, b in zip(numerators, denominators, strict=True)), factor)


def format_number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def alternate(measurements: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call all ``measurements`` in turn, ``rounds`` times; return the values of each by round.

    Other load on the machine and its temperature thus affect all of them equally.
    """
    values: dict[str, list[T]] = {name: [] for name in measurements}
    for number in range(1, rounds + 1):
        for name, measure in measurements.items():
            log.info("  round %d of %d: %s", number, rounds, name)
            gc.collect()  # garbage of one measurement must not slow down the next
            values[name].append(measure())
            signals.raise_if_stopped()
    return values


class RateMeter:
    """Measures samples per second over at least ``min_seconds`` and one batch.

    The first ``warm_up`` batches are not counted; there must be at least one.
    """

    def __init__(self, device: torch.device, min_seconds: float, warm_up: int):
        self.device, self.min_seconds, self.warm_up = device, min_seconds, warm_up
        self.batches, self.samples = 0, 0
        self.start = self.rate = math.nan

    def add(self, samples: int) -> bool:
        """Add a finished batch; return whether ``rate`` is measured and the work can stop."""
        self.batches += 1
        if self.batches == self.warm_up:
            self.start = synchronized_time(self.device)
        elif self.batches > self.warm_up:
            self.samples += samples
            if time.perf_counter() - self.start >= self.min_seconds:
                self.rate = self.samples / (synchronized_time(self.device) - self.start)
                return True
        return False


class PartTimer:
    """Measures the parts of a repeated computation."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what is computed inside the context."""
        start = synchronized_time(self.device)
        yield
        self.seconds.setdefault(name, []).append(synchronized_time(self.device) - start)

    def microseconds(self) -> dict[str, float]:
        """Return the median of each part, in the order in which they were measured first."""
        return {name: 1e6 * float(np.median(each)) for name, each in self.seconds.items()}


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch and the C kernels use ``count`` threads inside the context."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def synchronized_time(device: torch.device) -> float:
    """Return the time in seconds, after all pending work of an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def matrix_product_rate(
    device: torch.device,
    precision: torch.dtype,
    sizes: Sequence[int] = (),
    min_seconds: float = 0.5,
) -> float:
    """Return the highest FLOP/s of products of two square matrices of dtype ``precision``.

    After a first product, which does not count, each size is repeated for ``min_seconds``.
    """
    rates = []
    for size in sizes or MATRIX_SIZES[device.type]:
        a, b = (torch.rand(size, size, device=device, dtype=precision) for _ in range(2))
        product = torch.mm(a, b)
        repeats, elapsed = 1, 0.0
        while elapsed < min_seconds:
            repeats *= 2
            start = synchronized_time(device)
            for _ in range(repeats):
                torch.mm(a, b, out=product)
            elapsed = synchronized_time(device) - start
        rates.append(repeats * 2 * size**3 / elapsed)
    return max(rates)


def training_flop_per_sample(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> float:
    """Return the FLOP of matrix products and convolutions per sample, forward and backward.

    A multiplication and an addition count as two. Pooling, normalisation, the optimizer and so on
    are not counted. Torch computes all layers: operations of the C kernels would not be counted.
    """
    model.train()
    with computed_by_torch(model), FlopCounterMode(display=False) as counter:
        loss_fn(model(images), labels).backward()
    return counter.get_total_flops() / len(images)
