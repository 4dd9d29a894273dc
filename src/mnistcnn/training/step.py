"""Take one optimizer step, and average the metrics of an epoch's steps."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnistcnn.system.errors import MnistcnnError
from mnistcnn.training.flat_parameters import zero_gradients

# reading a loss from an accelerator waits for it to finish: read this many losses at a time
SYNC_EVERY = 100


class NonFiniteLoss(MnistcnnError):  # noqa: N818  metrics.json has the name
    """The loss of a batch is not a finite number; ``epoch`` and ``batch`` count from 1."""

    def __init__(self, epoch: int, batch: int, lr: float, loss: float):
        super().__init__(
            f"the loss became {loss} in epoch {epoch}, batch {batch}, at learning rate {lr:g}: "
            "a smaller optimizer.lr may help"
        )


@dataclass
class TrainMetrics:
    """Metrics of one epoch in training mode, averaged while the weights change.

    ``epoch`` counts from 1. Sums are over the ``samples`` of the first ``batches`` batches, each
    scored before its step; losses are in nats. ``first_lr`` and ``last_lr`` are the learning rates
    of the first and the last step so far. ``seconds`` were spent on the epoch before the training
    was resumed, ``train_seconds`` on all its steps (None until the last one).
    """

    epoch: int
    batches: int = 0
    samples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    first_lr: float = math.nan
    last_lr: float = math.nan
    seconds: float = 0.0
    train_seconds: float | None = None
    _start: float | None = field(default=None, init=False)
    _pending: list[tuple[Tensor, Tensor, int, float]] = field(default_factory=list, init=False)

    def state_dict(self) -> dict[str, float]:
        """Return the arguments that restore the metrics: ``TrainMetrics(**state)``.

        Raises NonFiniteLoss if a pending loss is not finite.
        """
        self.flush()
        state = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return state | {"seconds": self.elapsed()}

    def start_clock(self) -> None:
        """Start the clock of :meth:`elapsed` at ``seconds``."""
        self._start = time.perf_counter() - self.seconds

    def elapsed(self) -> float:
        """Return the seconds spent on the epoch, without interruptions."""
        return self.seconds if self._start is None else time.perf_counter() - self._start

    @property
    def loss(self) -> float:
        """Mean loss in nats."""
        return self.loss_sum / self.samples

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, in [0, 1]."""
        return self.correct / self.samples

    def add(self, loss: Tensor, correct: Tensor, samples: int, lr: float) -> None:
        """Add a batch: its mean loss, its number of correct predictions (scalars) and its size.

        Raises NonFiniteLoss if the loss is not finite, on an accelerator up to SYNC_EVERY batches
        late.
        """
        self._pending.append((loss.detach(), correct, samples, lr))
        if loss.device.type == "cpu" or len(self._pending) == SYNC_EVERY:
            self.flush()

    def flush(self) -> None:
        """Read the pending losses from the device.

        Raises NonFiniteLoss if one is not finite.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses, correct, sizes, rates = zip(*pending, strict=True)
        values, counts = _read(losses), _read(correct)
        for loss, size, lr in zip(values, sizes, rates, strict=True):
            self.batches += 1
            if not math.isfinite(loss):
                raise NonFiniteLoss(self.epoch, self.batches, lr, loss)
            self.loss_sum += loss * size
            self.samples += size
            self.last_lr = lr
            if self.batches == 1:
                self.first_lr = lr
        self.correct += sum(counts)


def _read(scalars: Sequence[Tensor]) -> list[Any]:
    """Return the values of scalars on one device, with a single copy from an accelerator."""
    if scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    return torch.stack(tuple(scalars)).tolist()


def training_step(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    metrics: TrainMetrics,
) -> None:
    """Take one optimizer step and add its batch to ``metrics``.

    ``forward`` maps images (N, 1, 28, 28) float32 to logits (N, 10) in float32 or bfloat16;
    ``loss_fn`` takes logits in float32 and labels (N,) int64. Raises NonFiniteLoss if the
    loss is not finite, on a CPU before the step is taken.
    """
    lr = optimizer.param_groups[0]["lr"]
    logits = forward(images)
    loss = loss_fn(logits.float(), labels)
    metrics.add(loss, (logits.detach().argmax(dim=1) == labels).sum(), len(labels), lr)
    zero_gradients(optimizer)
    loss.backward()
    optimizer.step()
    scheduler.step()
