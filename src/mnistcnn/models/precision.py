"""Choose the precision of a model's convolutions and matrix products."""

import logging

import torch
from torch import nn

from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.models.classifier import DTYPES, Classifier
from mnistcnn.models.layer_summary import multiplications_per_image
from mnistcnn.system.devices import has_bfloat16_arithmetic, supports_bfloat16
from mnistcnn.system.errors import SettingError

log = logging.getLogger(__name__)

# Multiplications per image and layer from which a CPU is faster in bfloat16: converting weights and
# activations takes time as well. Measured on two cores with AVX-512 BF16, training steps: custom
# 1.9 times as fast (92 million), at width 0.25 1.6 times (5.8 million), at 0.0625 1.1 times (0.4
# million); resnet50 1.0 to 1.2 times (1.4 million).
MIN_MULTIPLICATIONS = 2_500_000


def select_precision(model: Classifier, setting: str) -> str:
    """Set ``model.precision``, and return its name, ``float32`` or ``bfloat16``.

    ``auto`` is bfloat16 on a GPU that has arithmetic for it, and on a CPU that has it if the
    model's layers are large enough. Raises SettingError if the device cannot compute in bfloat16.
    """
    device = model.mean.device
    if setting == "auto":
        setting = "bfloat16" if _is_faster_in_bfloat16(model) else "float32"
    check_precision(setting, device)
    if setting == "bfloat16" and not has_bfloat16_arithmetic(device):
        log.warning("precision=bfloat16 may be slow on this device, which may not multiply in it")
    model.precision = DTYPES[setting]
    return setting


def check_precision(setting: str, device: torch.device) -> None:
    """Raise SettingError if a device cannot compute in a precision."""
    if setting == "bfloat16" and not supports_bfloat16(device):
        raise SettingError("precision", setting, f"auto or float32 on this device ({device})")


def _is_faster_in_bfloat16(model: Classifier) -> bool:
    if not has_bfloat16_arithmetic(model.mean.device):
        return False
    if model.mean.device.type != "cpu":
        return True
    if conv_blocks(model):  # which the C kernels compute in float32
        return False
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad
    ]
    return multiplications_per_image(model) >= MIN_MULTIPLICATIONS * len(layers)
