"""Create a model from its settings, by name."""

from collections.abc import Callable
from typing import Any

import torch

from mnistcnn.config.constraints import check
from mnistcnn.config.schema import GROUP_SCHEMAS, ModelSettings
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.convnet import convnet
from mnistcnn.models.custom import custom
from mnistcnn.models.fcnet import fcnet
from mnistcnn.models.resnet50 import resnet50
from mnistcnn.models.vgg16 import vgg16

BUILDERS: dict[str, Callable[..., Classifier]] = {
    "convnet": convnet,
    "custom": custom,
    "vgg16": vgg16,
    "resnet50": resnet50,
    "fcnet": fcnet,
}


# trained parameters from which a step keeps all cores busy, and checkpoints take seconds
LARGE_NETWORK = 10_000_000


def create_model(settings: ModelSettings) -> Classifier:
    """Create a model with initial weights drawn from torch's global generator."""
    return BUILDERS[settings.name](settings)


def create_meta_model(settings: ModelSettings) -> Classifier:
    """Create a model without allocating its weights."""
    with torch.device("meta"):
        return create_model(settings)


def create_model_from_dict(values: dict[str, Any]) -> Classifier:
    """Create a model from ``dataclasses.asdict(settings)``.

    Raises SettingError if a value is not allowed.
    """
    settings = GROUP_SCHEMAS["model"][values["name"]](**values)
    check(settings, "model.")
    return create_model(settings)
