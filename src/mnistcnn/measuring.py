"""Timings that can be compared: in alternation, many times over, with their spread."""

import contextlib
import gc
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

Value = TypeVar("Value")
OnBatch = Callable[[int], None]  # is told each batch's number of samples, once that is done

# Sides of the square matrices whose product is timed: the fastest counts.
MATRIX_SIDES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192), "mps": (2048, 4096)}


@dataclass(frozen=True)
class Spread:
    """What several rounds gave, in their order, and where their middle and their ends lie."""

    rounds: list[float]
    median: float
    quartiles: tuple[float, float]
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(
        [float(value) for value in values], float(middle), (float(lower), float(upper)),
        float(min(values)), float(max(values)),
    )  # fmt: skip


def alternate(
    sides: Mapping[str, Callable[[], Value]],
    rounds: int,
    tell: Callable[[int, str, Value], None] = lambda number, side, value: None,
) -> dict[str, list[Value]]:
    """Call all ``sides`` in turn, and that ``rounds`` times: what each gave, in order.

    Whatever else the machine is at, and however warm it runs, so meets all sides alike. ``tell``
    hears of each value with the number of its round, from 1.
    """
    values: dict[str, list[Value]] = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side, measure in sides.items():
            gc.collect()  # what the side before has left is not this one's to clear away
            value = measure()
            values[side].append(value)
            tell(number, side, value)
    return values


# Rates -------------------------------------------------------------------------------------------


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class _Enough(Exception):
    """The clock has seen as much as it wanted to."""


class _Clock:
    """Is told of batches, and ends the work once it has timed them for long enough."""

    def __init__(self, device: torch.device, seconds: float, warm_up: int):
        self.device, self.enough, self.warm_up = device, seconds, warm_up
        self.samples, self.seconds, self.start = 0, math.nan, math.nan

    def __call__(self, samples: int) -> None:
        if self.warm_up > 0:
            self.warm_up -= 1
            if self.warm_up == 0:
                self._begin()
            return
        self.samples += samples
        if time.perf_counter() - self.start >= self.enough:
            synchronise(self.device)
            self.seconds = time.perf_counter() - self.start
            raise _Enough

    def _begin(self) -> None:
        synchronise(self.device)
        self.start = time.perf_counter()


def rate(
    work: Callable[[OnBatch], None], device: torch.device, seconds: float, warm_up: int
) -> float:
    """Samples per second of ``work`` on ``device``, over at least ``seconds`` and one batch.

    ``work`` has no end of its own and calls what it is given after each batch. The first
    ``warm_up`` batches, at least one, are not counted.
    """
    clock = _Clock(device, seconds, max(1, warm_up))
    with contextlib.suppress(_Enough):
        work(clock)
    if math.isnan(clock.seconds):
        raise ValueError("the work ended before the clock did")
    return clock.samples / clock.seconds


def matrix_product_rate(
    device: torch.device, precision: torch.dtype, seconds: float, sides: Sequence[int] = ()
) -> float:
    """The most FLOP/s that a product of two square matrices reaches, of several sizes.

    Each size is repeated for at least ``seconds`` after a first product that does not count.
    """
    return max(
        _product_rate(device, precision, seconds, side)
        for side in sides or MATRIX_SIDES[device.type]
    )


def _product_rate(
    device: torch.device, precision: torch.dtype, seconds: float, side: int
) -> float:
    one, other = (torch.rand(side, side, device=device, dtype=precision) for _ in range(2))
    product = torch.mm(one, other)
    repeats = 1
    while True:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(one, other, out=product)
        synchronise(device)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return repeats * 2 * side**3 / elapsed
        repeats *= 2


def training_flop_per_sample(
    network: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> float:
    """FLOP of matrix products and convolutions in a sample's forward and backward pass.

    A multiplication and an addition are two. All else (pooling, normalisation, the optimizer) is
    not counted. The network's gradients are gone afterwards.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network.train()
    with FlopCounterMode(display=False) as counter:
        loss_of(network(images), labels).backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(images)


# How time grows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x ** exponent; the exponent's standard ``error`` is None of two points."""

    exponent: float
    factor: float
    error: float | None


def power_law(x: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Fit positive ``y`` (n,) to positive ``x`` (n,) by least squares of their logarithms."""
    from scipy.stats import linregress

    line = linregress(np.log(x), np.log(y))
    error = float(line.stderr) if len(np.atleast_1d(x)) > 2 else None
    return PowerLaw(float(line.slope), float(np.exp(line.intercept)), error)


# The machine -------------------------------------------------------------------------------------


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()
