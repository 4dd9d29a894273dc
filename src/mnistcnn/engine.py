"""One training epoch, and the only inference pass."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

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


class Running(NamedTuple):
    """An epoch as the report measures it: in training mode, averaged while the weights move."""

    loss: float  # nats
    accuracy: float
    last_lr: float  # of the last step
    samples: int


def _autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def train_epoch(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    precision: torch.dtype,
    epoch: int,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> Running:
    """Take one step per batch.

    ``batches`` yields images (N, 1, 28, 28) float32 and labels (N,) int64 on the network's
    device; ``loss_of`` takes logits (N, 10) float32 and labels. What is returned is of each
    batch before its step, averaged over the samples of the epoch. ``epoch`` is only named in
    errors; ``on_batch`` is told each batch's number of samples.

    Raises NonFiniteLoss; on a CPU before the step that would have followed.
    """
    network.train()
    sizes: list[int] = []
    correct: list[Tensor] = []
    losses: list[float] = []
    pending: list[tuple[Tensor, float]] = []  # losses that nobody has looked at, learning rates
    for images, labels in batches:
        lr = optimizer.param_groups[0]["lr"]
        with _autocast(images.device, precision):
            logits = network(images)
        loss = loss_of(logits.float(), labels)
        pending.append((loss.detach(), lr))
        if images.device.type == "cpu" or len(pending) == LOOK_EVERY:
            losses += _finite(pending, epoch, len(losses))
            pending = []
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        correct.append((logits.detach().argmax(dim=1) == labels).sum())
        sizes.append(len(labels))
        on_batch(len(labels))
    losses += _finite(pending, epoch, len(losses))
    mean_loss = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    accuracy = torch.stack(correct).sum().item() / sum(sizes)
    return Running(mean_loss, accuracy, lr, sum(sizes))


def _finite(pending: list[tuple[Tensor, float]], epoch: int, seen: int) -> list[float]:
    """The values of losses, the first of which is that of batch ``seen + 1``."""
    values = torch.stack([loss for loss, _ in pending]).tolist() if pending else []
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise NonFiniteLoss(epoch, seen + index + 1, pending[index][1], value)
    return values


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
