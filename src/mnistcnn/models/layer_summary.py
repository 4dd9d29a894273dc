"""Summarise a model's layers, output shapes and parameter counts in a table."""

from typing import TYPE_CHECKING, NamedTuple

import torch

from mnistcnn import IMAGE_SIZE
from mnistcnn.kernels.conv_block import computed_by_torch
from mnistcnn.models.classifier import Classifier

if TYPE_CHECKING:
    from torchinfo import ModelStatistics


class Layer(NamedTuple):
    """A layer: its depth in the network, the shape of its output, and its own parameters."""

    name: str
    depth: int
    output: str
    parameters: int


def layers(model: Classifier) -> list[Layer]:
    """Return the layers of :func:`layer_summary`, in their order."""
    return [
        Layer(
            f"{info.var_name}: {info.class_name}" if info.depth else info.class_name,
            info.depth,
            " x ".join(map(str, info.output_size[1:])),  # without the batch
            info.num_params if info.is_leaf_layer else 0,
        )
        for info in _summarize(model).summary_list
    ]


def layer_summary(model: Classifier) -> str:
    """Return torchinfo's table of layers for one image of 28 x 28 pixels.

    The shapes are those of the uncropped image (26 x 26 after the default network's first
    convolution, as in the report's Figure 3), even if the model crops its input to save time.
    """
    return str(_summarize(model))


def multiplications_per_image(model: Classifier) -> int:
    """Return the number of multiplications for one image of 28 x 28 pixels."""
    return int(_summarize(model).total_mult_adds)


def _summarize(model: Classifier) -> "ModelStatistics":
    """Call torchinfo. Torch computes all layers, since only layers that are called are listed."""
    from torchinfo import summary

    # pass input_data, not input_size: the latter would draw from the global random generator
    image = torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, device=model.mean.device)
    crop_size = model.crop_size
    model.crop_size = IMAGE_SIZE
    try:
        with computed_by_torch(model):
            return summary(model, input_data=image, depth=4, verbose=0)
    finally:
        model.crop_size = crop_size
