"""Build the report's custom VGG-like network."""

from itertools import pairwise

from torch import nn

from mnistcnn import IMAGE_SIZE, NUM_CLASSES
from mnistcnn.config.schema import CustomSettings
from mnistcnn.models.classifier import Classifier, scale_channels


def custom(settings: CustomSettings) -> Classifier:
    """Build VGG-like blocks of two convolutions with batch normalisation and one ReLU per block."""
    channels = [scale_channels(size, settings.width) for size in settings.channels]
    hidden = scale_channels(settings.hidden, settings.width)
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise([1, *channels]):
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
        ]
    flat_size = channels[-1] * (IMAGE_SIZE >> len(channels)) ** 2
    layers += [nn.Flatten(), nn.Linear(flat_size, hidden), nn.ReLU(inplace=True)]
    outputs = scale_channels(settings.outputs, settings.width, minimum=NUM_CLASSES)
    head = nn.Linear(hidden, NUM_CLASSES)
    if outputs > NUM_CLASSES:
        # The report's layer has 4096 outputs, of which the first ten are the classes. Nothing
        # depends on the others: they are stored, but neither computed nor trained.
        head.unused = nn.Linear(hidden, outputs - NUM_CLASSES).requires_grad_(False)
    return Classifier(nn.Sequential(*layers), head)
