"""Hold datasets of labelled images as tensors in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images: ``pixels`` (N, 28, 28) uint8, ``labels`` (N,) int64, on one device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    def take(self, indices: Tensor) -> "Images":
        """Return the images at ``indices`` (K,) int64.

        index_select copies whole images, which is faster than indexing pixel by pixel.
        """
        return Images(self.pixels.index_select(0, indices), self.labels.index_select(0, indices))

    def to(self, device: torch.device) -> "Images":
        """Return the images on ``device``."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A dataset: ``train`` is the pool for training and validation; ``test`` is never trained on.

    Label k means the class ``class_names[k]``; ``train`` has at least two images of each class.
    ``label_errors`` are the sorted indices of the test images whose label is known to be wrong.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    label_errors: tuple[int, ...] = ()
