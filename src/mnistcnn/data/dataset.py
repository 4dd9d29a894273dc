"""Load a dataset and split it into training, validation and test images."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnistcnn.config.schema import Mnist5kSettings, MnistSettings
from mnistcnn.data.images import Dataset, Images
from mnistcnn.data.mnist import load_mnist, load_mnist5k
from mnistcnn.system.random_streams import Stream, numpy_generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSplits:
    """The splits of a dataset.

    ``train_indices`` (sorted int64) are the positions of ``train`` among the dataset's original
    training images. ``class_names`` and ``label_errors`` are those of :class:`Dataset`.
    """

    name: str
    fraction: float
    train: Images
    validation: Images
    test: Images
    train_indices: np.ndarray
    class_names: tuple[str, ...]
    label_errors: tuple[int, ...]

    def to(self, device: torch.device) -> "DatasetSplits":
        """Return the splits with their images on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def describe(self) -> dict[str, Any]:
        """Return the names, the sizes and a hash of the training indices, as JSON values."""
        indices = np.ascontiguousarray(self.train_indices, dtype="<i8")
        return {
            "name": self.name,
            "classes": list(self.class_names),
            "fraction": self.fraction,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "train_indices_sha256": hashlib.sha256(indices.tobytes()).hexdigest(),
        }

    def pixel_statistics(self) -> tuple[float, float]:
        """Return mean and population standard deviation of the training pixels, in [0, 1].

        They are computed from integer counts on the CPU, and are therefore bit-identical on every
        device.
        """
        counts = torch.bincount(self.train.pixels.cpu().flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        return mean.item(), variance.sqrt().item()


def load_dataset(settings: MnistSettings | Mnist5kSettings) -> Dataset:
    """Return a dataset, on the CPU.

    It is kept in memory: loading it again takes no time. Raises UsageError if it cannot be read or
    downloaded, or if it is corrupt.
    """
    if isinstance(settings, MnistSettings):
        return load_mnist(Path(settings.dir), tuple(settings.mirrors))
    return load_mnist5k()


def load_splits(settings: MnistSettings | Mnist5kSettings, seed: int) -> DatasetSplits:
    """Load a dataset and split it, on the CPU. The test images do not depend on the seed.

    Raises UsageError if the dataset cannot be read or downloaded, or if it is corrupt.
    """
    dataset = load_dataset(settings)
    train_indices, validation_indices = stratified_split(
        dataset.train.labels.numpy(),
        len(dataset.class_names),
        settings.validation,
        settings.fraction,
        seed,
    )
    log.info(
        "data %s: %d training, %d validation, %d test images",
        dataset.name,
        len(train_indices),
        len(validation_indices),
        len(dataset.test),
    )
    return DatasetSplits(
        name=dataset.name,
        fraction=settings.fraction,
        train=dataset.train.take(torch.from_numpy(train_indices)),
        validation=dataset.train.take(torch.from_numpy(validation_indices)),
        test=dataset.test,
        train_indices=train_indices,
        class_names=dataset.class_names,
        label_errors=dataset.label_errors,
    )


def stratified_split(
    labels: np.ndarray, classes: int, validation: float, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of the training and the validation images.

    ``labels`` (N,) are below ``classes``, and each occurs at least twice. Each class's images are
    shuffled with a generator of their own. The first ``validation`` of them (rounded down) are
    validation images; the first ``fraction`` of the remaining ones (rounded to nearest) are
    training images. Hence the images of a smaller fraction are a subset of those of a larger one,
    and the validation images do not depend on the fraction. Each split has at least one image of
    each class.
    """
    train, held_out = [], []
    for label in range(classes):
        indices = np.flatnonzero(labels == label)
        indices = numpy_generator(seed, Stream.SPLIT, label).permutation(indices)
        validation_count, train_count = _split_counts(len(indices), validation, fraction)
        held_out.append(indices[:validation_count])
        train.append(indices[validation_count:][:train_count])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


def _split_counts(count: int, validation: float, fraction: float) -> tuple[int, int]:
    """Return the numbers of validation and of training images among ``count`` of one class."""
    validation_count = max(1, int(validation * count))
    return validation_count, max(1, round(fraction * (count - validation_count)))


def training_count(settings: MnistSettings | Mnist5kSettings) -> int:
    """Return the number of training images. Raises UsageError as :func:`load_dataset` does."""
    counts = torch.bincount(load_dataset(settings).train.labels).tolist()
    return sum(_split_counts(n, settings.validation, settings.fraction)[1] for n in counts)
