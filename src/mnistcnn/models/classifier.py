"""Classify images with a body that computes features and a head that scores the classes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mnistcnn import IMAGE_SIZE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Classifier(nn.Module):
    """A body that maps images to features (N, F), followed by a linear head.

    The input is (N, 1, 28, 28) float32 in [0, 1]. The model normalises it with the mean and
    standard deviation of its training images, which are buffers and part of the state dict.

    The body receives only the first ``crop_size`` rows and columns of each image; the others must
    not affect the features.

    ``precision`` is the dtype of convolutions and matrix products, float32 or bfloat16; weights are
    float32 with both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, head: nn.Linear, crop_size: int = IMAGE_SIZE):
        super().__init__()
        self.body = body
        self.head = head
        self.crop_size = crop_size
        self.precision = torch.float32
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def set_normalization(self, mean: float, std: float) -> None:
        """Set the pixel statistics of the training images, for pixels in [0, 1]."""
        self.mean.fill_(mean)
        self.std.fill_(std)

    def normalize(self, images: Tensor) -> Tensor:
        """Crop and normalise images (N, 1, 28, 28): the input of the body."""
        images = images[:, :, : self.crop_size, : self.crop_size]
        return (images - self.mean).div_(self.std)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penultimate features (N, F) and the logits (N, 10), in ``precision``."""
        with self.autocast():
            features = self.body(self.normalize(images))
            return features, self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10), in ``precision``."""
        return self.features_and_logits(images)[1]

    @property
    def precision_name(self) -> str:
        """``float32`` or ``bfloat16``."""
        return str(self.precision).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which ``precision`` applies."""
        if self.precision == torch.float32:
            return nullcontext()  # entering autocast takes time
        return torch.autocast(self.mean.device.type, self.precision)

    def parameter_count(self) -> int:
        """Return the number of elements of all parameters, without buffers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def trained_parameter_count(self) -> int:
        """Return the number of elements of the parameters that training changes."""
        trained = (each for each in self.parameters() if each.requires_grad)
        return sum(parameter.numel() for parameter in trained)


def scale_channels(size: int, width: float, minimum: int = 1) -> int:
    """Multiply a layer size by ``width`` and round it to an integer of at least ``minimum``."""
    return max(minimum, round(size * width))
