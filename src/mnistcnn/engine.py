"""One training epoch, and the only inference pass."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnistcnn.errors import PlainError, SettingError
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


def resolve_device(name: str) -> torch.device:
    """The device that ``auto`` (CUDA, then MPS, then the CPU) or a device's name stands for.

    Raises SettingError where there is no such device here.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise SettingError("device", name, "one of " + ", ".join(["auto", *present]) + " here")
    return torch.device(name)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def place(network: Classifier, device: torch.device) -> Classifier:
    """Move a network to a device, in the layout of weights that computes fastest there."""
    if device.type == "cuda":
        # the fastest algorithm of a first try may be another one in the next run
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    if device.type == "mps":
        return network.to(device)
    return network.to(device, memory_format=torch.channels_last)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that matrix products and convolutions compute in; ``auto`` is bfloat16 on CUDA."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def _autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def train_epoch(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    schedule: LRScheduler,
    precision: torch.dtype,
    epoch: int,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> tuple[float, float]:
    """Take one step per batch; return the running loss (nats) and accuracy, as in the report.

    ``batches`` yields images (N, 1, 28, 28) float32 and labels (N,) int64 on the network's
    device. Loss and accuracy are those of each batch before its step, in training mode, averaged
    over the samples of the epoch. ``on_batch`` is told each batch's number of samples.

    Raises NonFiniteLoss; on a CPU before the step that would have followed.
    """
    network.train()
    sizes: list[int] = []
    correct: list[Tensor] = []
    pending: list[Tensor] = []  # losses that nobody has looked at yet
    losses: list[float] = []
    for images, labels in batches:
        lr = optimizer.param_groups[0]["lr"]
        with _autocast(images.device, precision):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        pending.append(loss.detach())
        if images.device.type == "cpu" or len(pending) == LOOK_EVERY:
            losses += _finite(pending, epoch, len(losses), lr)
            pending = []
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        correct.append((logits.detach().argmax(dim=1) == labels).sum())
        sizes.append(len(labels))
        on_batch(len(labels))
    losses += _finite(pending, epoch, len(losses), lr)
    mean_loss = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    return mean_loss, torch.stack(correct).sum().item() / sum(sizes)


def _finite(pending: list[Tensor], epoch: int, seen: int, lr: float) -> list[float]:
    """The values of losses, the first of which is that of batch ``seen + 1``."""
    values = torch.stack(pending).tolist() if pending else []
    for batch, value in enumerate(values, start=seen + 1):
        if not math.isfinite(value):
            raise NonFiniteLoss(epoch, batch, lr, value)
    return values


@torch.inference_mode()
def infer(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: torch.dtype,
    with_features: bool = False,
) -> Predictions:
    """One pass in evaluation mode: what the network says of every image of ``batches``."""
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
