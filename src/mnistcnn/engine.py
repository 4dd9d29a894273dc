"""One training epoch, and the only inference pass."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnistcnn.errors import PlainError
from mnistcnn.metrics import Predictions
from mnistcnn.models import Classifier

# On an accelerator, looking at a loss stops the pipeline: look at many at a time.
LOOK_EVERY = 100


class NonFiniteLoss(PlainError):
    """A batch's loss was not a finite number; ``epoch`` and ``batch`` count from 1."""

    def __init__(self, epoch: int, batch: int, lr: float, loss: float):
        super().__init__(
            f"the loss became {loss} in epoch {epoch}, batch {batch}, at learning rate {lr:g}: "
            "a smaller optimizer.lr may help"
        )


@dataclass
class Running:
    """An epoch as the report measures it: in training mode, averaged while the weights move.

    ``epoch`` counts from 1. The sums are over the samples of ``batches`` batches so far, each
    scored before its step; losses in nats. ``seconds`` are those spent before a pause, and
    ``trained_seconds`` those that the batches took, once all were there.
    """

    epoch: int
    batches: int = 0
    samples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    first_lr: float = math.nan  # of the first step, and of the last
    last_lr: float = math.nan
    seconds: float = 0.0
    trained_seconds: float | None = None
    _pending: list[tuple[Tensor, Tensor, int, float]] = field(default_factory=list, init=False)

    def numbers(self) -> dict[str, float]:
        """What ``Running(**numbers)`` goes on from. Raises NonFiniteLoss."""
        self.settle()
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    @property
    def loss(self) -> float:
        return self.loss_sum / self.samples

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples

    def add(self, loss: Tensor, correct: Tensor, samples: int, lr: float) -> None:
        """Count a batch: its mean loss, the number of its right answers (both scalars), its size.

        Raises NonFiniteLoss; on an accelerator up to LOOK_EVERY batches late.
        """
        self._pending.append((loss.detach(), correct, samples, lr))
        if loss.device.type == "cpu" or len(self._pending) == LOOK_EVERY:
            self.settle()

    def settle(self) -> None:
        """Fetch what is still on an accelerator. Raises NonFiniteLoss."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses, correct, sizes, rates = zip(*pending, strict=True)
        values = torch.stack(losses).tolist()
        for loss, size, lr in zip(values, sizes, rates, strict=True):
            self.batches += 1
            if not math.isfinite(loss):
                raise NonFiniteLoss(self.epoch, self.batches, lr, loss)
            self.loss_sum += loss * size
            self.samples += size
            self.last_lr = lr
            if self.batches == 1:
                self.first_lr = lr
        self.correct += int(torch.stack(correct).sum())


def _autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


def train_epoch(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    precision: torch.dtype,
    running: Running,
    on_batch: Callable[[int], None] = lambda samples: None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Take one step per batch, and count it in ``running``.

    ``batches`` yields images (N, 1, 28, 28) float32 and labels (N,) int64 on the network's
    device; ``loss_of`` takes logits (N, 10) float32 and labels. ``on_batch`` is told each batch's
    number of samples after its step: there, and where ``batches`` is asked for the next, the epoch
    may be left and later gone on with. ``forward`` does what ``network`` does when called, another
    way.

    Raises NonFiniteLoss; on a CPU before the step that would have followed.
    """
    network.train()
    forward = network if forward is None else forward
    for images, labels in batches:
        lr = optimizer.param_groups[0]["lr"]
        with _autocast(images.device, precision):
            logits = forward(images)
        loss = loss_of(logits.float(), labels)
        running.add(loss, (logits.detach().argmax(dim=1) == labels).sum(), len(labels), lr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        on_batch(len(labels))
    running.settle()


@torch.inference_mode()
def infer(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: torch.dtype,
    with_features: bool = False,
) -> Predictions:
    """One pass in evaluation mode over ``batches`` as :func:`train_epoch` takes them.

    Logits and features are made in ``precision`` and returned in float32, on the CPU, with the
    labels, all in the order of the batches. The features of a large network and a large split
    take much memory: they are kept only if asked for.
    """
    network.eval()
    labels, log_probabilities, features = [], [], []
    for images, batch_labels in batches:
        with _autocast(images.device, precision):
            batch_features, logits = network.features_and_logits(images)
        labels.append(batch_labels)
        log_probabilities.append(logits.float().log_softmax(dim=1))
        if with_features:
            features.append(batch_features.float())

    def joined(tensors: list[Tensor]) -> np.ndarray:
        return torch.cat(tensors).cpu().numpy()

    return Predictions(
        joined(labels),
        joined(log_probabilities),
        joined(features) if with_features else None,
    )
