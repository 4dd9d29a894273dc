"""Build the report's default ConvNet."""

from itertools import pairwise

from torch import nn

from mnistcnn import IMAGE_SIZE, NUM_CLASSES
from mnistcnn.config.schema import ConvNetSettings
from mnistcnn.kernels.conv_block import ConvBlock
from mnistcnn.models.classifier import Classifier


def convnet(settings: ConvNetSettings) -> Classifier:
    """Build blocks of convolution, ReLU, max-pooling and Dropout2d, then a hidden linear layer."""
    layers: list[nn.Module] = []
    stride = settings.stride
    for in_channels, out_channels in pairwise([1, *settings.channels]):
        layers += _block(in_channels, out_channels, stride, settings)
        stride = 1
    flat_size = settings.channels[-1] * settings.output_size() ** 2
    layers += [nn.Flatten(), nn.Linear(flat_size, settings.hidden), nn.ReLU(inplace=True)]
    return Classifier(
        nn.Sequential(*layers),
        nn.Linear(settings.hidden, NUM_CLASSES),
        crop_size(settings),
    )


def _block(
    in_channels: int, out_channels: int, stride: int, settings: ConvNetSettings
) -> list[nn.Module]:
    """Return the layers of one block, with batch normalisation if it is set."""
    if settings.batch_norm == "none":
        return [ConvBlock(in_channels, out_channels, stride, settings.padding, settings.dropout)]
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=settings.padding)
    norm, dropout = nn.BatchNorm2d(out_channels), nn.Dropout2d(settings.dropout)
    if settings.batch_norm == "before_relu":
        return [conv, norm, nn.MaxPool2d(2), nn.ReLU(inplace=True), dropout]
    return [conv, nn.ReLU(inplace=True), norm, nn.MaxPool2d(2), dropout]


def crop_size(settings: ConvNetSettings) -> int:
    """Return the height and width, in pixels, of the part of the image that affects the output.

    Max-pooling drops the last row and column of an odd-sized input, so the pixels that affect
    only those can be cropped: 26 x 26 pixels suffice for the default network, and 22 x 22 for
    three blocks. With padding, which a crop would move, or with batch normalisation, whose
    statistics cover all pixels, the image is not cropped.
    """
    if settings.padding or settings.batch_norm != "none":
        return IMAGE_SIZE
    size = settings.output_size()
    # from the last block back to the first: only the first convolution has a stride
    for stride in [*[1] * (len(settings.channels) - 1), settings.stride]:
        size = (2 * size - 1) * stride + 3
    return size
