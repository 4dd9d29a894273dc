"""Build a fully connected network with one hidden layer."""

from torch import nn

from mnistcnn import IMAGE_SIZE, NUM_CLASSES
from mnistcnn.config.schema import FcNetSettings
from mnistcnn.models.classifier import Classifier


def fcnet(settings: FcNetSettings) -> Classifier:
    """Build a network with one hidden layer on the flattened pixels."""
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(IMAGE_SIZE * IMAGE_SIZE, settings.hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(settings.dropout),
    )
    return Classifier(body, nn.Linear(settings.hidden, NUM_CLASSES))
