"""The baselines with torch: plain PyTorch and Lightning, without any code of mnistcnn.

Both train the report's default network with torchvision's MNIST and transforms of PIL images.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms
from torchvision.datasets import MNIST

PLAIN = "plain PyTorch baseline"
LIGHTNING = "Lightning"
JAX = "JAX"

BATCH_SIZE = 128
LEARNING_RATE = 1.0  # of Adadelta
MEAN, STD = 0.131, 0.3085  # of the pixels of MNIST, as in the report
VALIDATION = 0.15  # fraction of the training images


def build_network() -> nn.Sequential:
    """Return the report's default network: normalised images (N, 1, 28, 28) to logits (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5),
        nn.Flatten(), nn.Linear(8 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of logits (N, 10) and labels (N,)."""
    return F.nll_loss(F.log_softmax(logits, dim=1), labels)


def write_raw_files(root: Path, tensors: dict[str, Tensor]) -> None:
    """Write integer tensors as the files of MNIST, where torchvision looks for them under ``root``.

    Keys are file names. The IDX format is the type (8: unsigned bytes), the number of dimensions,
    the sizes and the values.
    """
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, tensor in tensors.items():
        values = tensor.cpu().numpy().astype(np.uint8)
        sizes = np.array(values.shape, dtype=">u4").tobytes()
        (folder / name).write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def augmentation() -> list[Callable[[Image], Image]]:
    """Return the report's transforms of a PIL image, in its order."""
    return [
        transforms.GaussianBlur(15, (0.01, 0.2)),
        transforms.ColorJitter(brightness=0.1, saturation=0.1, hue=0.1),
        transforms.RandomAffine(15, scale=(0.9, 1.1)),
    ]


def training_images(root: Path, augmented: bool) -> Dataset[tuple[Tensor, int]]:
    """Return MNIST's training images, except a random validation set, as tensors (1, 28, 28)."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    transform = transforms.Compose([*(augmentation() if augmented else []), *to_tensor])
    train, _ = random_split(MNIST(root, transform=transform), [1 - VALIDATION, VALIDATION])
    return train


def build_loader(
    images: Dataset[tuple[Tensor, int]], workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """Load shuffled batches to the CPU, into pinned memory if ``device`` is CUDA."""
    return DataLoader(
        images,
        BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C: it reaches all processes of a terminal, but only the command handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(loader: DataLoader[tuple[Tensor, int]], device: torch.device) -> Iterator[int]:
    """Train a new network without end; yield the size of each batch after its step."""
    model = build_network().to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    model.train()
    while True:
        loss_sum, correct = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            logits = model(images)
            loss = loss_fn(logits, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()
            yield len(labels)


def is_installed(name: str, device: torch.device) -> bool:
    """Return whether ``LIGHTNING``, or ``JAX`` for this type of device, is installed."""
    if name == LIGHTNING or device.type == "cpu":
        return find_spec(name.lower()) is not None
    return any(device.type in plugin.name for plugin in entry_points(group="jax_plugins"))


def train_with_lightning(
    root: Path, device: torch.device, workers: int, **hooks: Callable[..., None]
) -> None:
    """Train a new network without end, with ``hooks`` such as ``on_train_batch_end``.

    A hook stops the training by setting ``trainer.should_stop``. Everything except training is
    turned off. Raises ImportError if Lightning is not installed.
    """
    import lightning.pytorch as lightning
    from lightning.pytorch.callbacks import LambdaCallback

    class Module(lightning.LightningModule):  # type: ignore[misc]  # mypy does not read Lightning
        def __init__(self) -> None:
            super().__init__()
            self.model = build_network()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            images, labels = batch
            loss = loss_fn(self.model(images), labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adadelta(self.parameters(), lr=LEARNING_RATE)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the advice to use more workers
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LambdaCallback(**hooks)],
        )
        loader = build_loader(training_images(root, augmented=False), workers, device)
        trainer.fit(Module(), loader)


def exit_at_first_lightning_batch(root: str, device: str) -> None:
    """Train with Lightning and end this process immediately before the first batch."""
    train_with_lightning(
        Path(root), torch.device(device), 0, on_train_batch_start=lambda *_: os._exit(0)
    )
