"""What the benchmark compares with: the report's way of training, and Lightning's.

Both are written as their authors would: torchvision's dataset, transforms on one PIL image after
the other, a DataLoader, the network from plain layers. Nothing of mnistcnn is in them. Both train
without end, and call ``on_batch`` with each batch's number of samples after its step.
"""

import importlib.util
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split

BATCH_SIZE = 128
LEARNING_RATE = 1.0  # of Adadelta
MEAN, STD = 0.131, 0.3085  # of MNIST's pixels, as the report has them
VALIDATION = 0.15  # part of the training images that is held out

OnBatch = Callable[[int], None]


def network() -> nn.Sequential:
    """The report's default ConvNet: normalised images (N, 1, 28, 28) to logits (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.5),
        nn.Flatten(), nn.Linear(8 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(logits, dim=1), labels)


# Images, one by one ------------------------------------------------------------------------------


def write_raw_files(
    root: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> None:
    """MNIST's four files as torchvision looks for them under ``root``, which so downloads none.

    Of images (N, 28, 28) uint8 and labels (N,) int64. torchvision takes raw files as they are.
    """
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, (pixels, labels) in (("train", train), ("t10k", test)):
        _write_idx(folder / f"{name}-images-idx3-ubyte", pixels.cpu().numpy())
        _write_idx(folder / f"{name}-labels-idx1-ubyte", labels.cpu().numpy().astype(np.uint8))


def _write_idx(path: Path, values: np.ndarray) -> None:
    """Unsigned bytes (0x08), the number of dimensions, their sizes, and the values."""
    sizes = np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def augmentation() -> list[Callable]:
    """The report's augmentation of a PIL image, in its order."""
    from torchvision import transforms

    return [
        transforms.GaussianBlur(15, (0.01, 0.2)),
        transforms.ColorJitter(brightness=0.1, saturation=0.1, hue=0.1),
        transforms.RandomAffine(15, scale=(0.9, 1.1)),
    ]


def training_images(root: Path, augmented: bool) -> Dataset:
    """MNIST's training images without those held out, each a tensor (1, 28, 28) when asked for."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    as_tensor = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    transform = transforms.Compose([*(augmentation() if augmented else []), *as_tensor])
    train, _ = random_split(MNIST(root, transform=transform), [1 - VALIDATION, VALIDATION])
    return train


def loader(images: Dataset, workers: int, pin_memory: bool = False) -> DataLoader:
    return DataLoader(
        images, BATCH_SIZE, shuffle=True, num_workers=workers, pin_memory=pin_memory,
        worker_init_fn=_leave_signals_alone,
    )  # fmt: skip


def _leave_signals_alone(worker: int) -> None:
    """A worker inherits the command's handlers, and would tell the command of each signal twice."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command hears it, and ends the worker
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


# The report's way --------------------------------------------------------------------------------


def train(batches: Iterable, device: torch.device, on_batch: OnBatch) -> None:
    """Train a new network on ``batches``, over and over again."""
    model = network().to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    while True:
        model.train()
        loss_sum, correct = 0.0, 0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            logits = model(images)
            loss = loss_of(logits, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()
            on_batch(len(labels))


# Lightning's -------------------------------------------------------------------------------------


def has_lightning() -> bool:
    return importlib.util.find_spec("lightning") is not None


def _module() -> Any:
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, index):
            images, labels = batch
            logits = self.model(images)
            loss = loss_of(logits, labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adadelta(self.parameters(), lr=LEARNING_RATE)

    return Module()


def _data_module(root: Path, workers: int, pin_memory: bool) -> Any:
    import lightning.pytorch as lightning

    class DataModule(lightning.LightningDataModule):
        def setup(self, stage):
            self.images = training_images(root, augmented=False)

        def train_dataloader(self):
            return loader(self.images, workers, pin_memory)

    return DataModule()


def _callback(**methods: Callable) -> Any:
    from lightning.pytorch.callbacks import Callback

    return type("Told", (Callback,), methods)()


def _fit(root: Path, device: torch.device, workers: int, callback: Any) -> None:
    """What costs time and is not training (bars, loggers, checkpoints, validation) is left out."""
    import lightning.pytorch as lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there might be more workers
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type), devices=1, max_epochs=-1,
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[callback],
        )  # fmt: skip
        trainer.fit(_module(), datamodule=_data_module(root, workers, device.type == "cuda"))


def train_with_lightning(
    root: Path, device: torch.device, workers: int, on_batch: OnBatch
) -> None:
    """Train a new network over and over again. Raises ImportError where there is no Lightning."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        on_batch(len(batch[1]))

    _fit(root, device, workers, _callback(on_train_batch_end=on_train_batch_end))


def print_time_of_lightnings_first_batch(root: str, device: str) -> None:
    """For a process of its own: print the time of its first batch, in seconds since 1970."""

    class Begun(Exception):
        pass

    def on_train_batch_start(self, trainer, module, batch, index):
        print(time.time(), flush=True)
        raise Begun

    try:
        told = _callback(on_train_batch_start=on_train_batch_start)
        _fit(Path(root), torch.device(device), 0, told)
    except Begun:
        pass
