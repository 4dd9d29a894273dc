"""Choose whether torch or the C kernels compute the blocks of a model."""

import logging

import torch
from torch import nn

from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.kernels.loader import load_library
from mnistcnn.system.errors import SettingError

log = logging.getLogger(__name__)

NOT_BUILT = "the C kernels are not built (installing the package with GCC or Clang builds them)"


def kernels_obstacle(device: torch.device, precision: str, compile_mode: str) -> str | None:
    """Return why the C kernels cannot be used; None if they can.

    ``precision`` is a setting or the precision of a model, ``compile_mode`` a setting.
    """
    if device.type != "cpu":
        return f"the device is {device.type}"
    if precision == "bfloat16":
        return "precision=bfloat16"
    if compile_mode not in ("auto", "none"):
        return f"compile={compile_mode}"
    return NOT_BUILT if load_library() is None else None


def check_kernels(setting: str, device: torch.device, precision: str, compile_mode: str) -> None:
    """Check the setting ``kernels``.

    Raises SettingError if it is ``native`` and the C kernels cannot be used.
    """
    obstacle = kernels_obstacle(device, precision, compile_mode)
    if setting == "native" and obstacle is not None:
        raise SettingError("kernels", setting, f"auto or torch: {obstacle}")


def select_kernels(model: nn.Module, setting: str, precision: str, compile_mode: str) -> str:
    """Let the C kernels or torch compute the blocks of ``model``; return ``native`` or ``torch``.

    ``auto`` is native on a CPU in float32 without compilation, if the kernels are built and the
    model has a block for them. Raises SettingError as :func:`check_kernels` does.
    """
    device, blocks = next(model.parameters()).device, conv_blocks(model)
    if blocks:
        check_kernels(setting, device, precision, compile_mode)
    obstacle = kernels_obstacle(device, precision, compile_mode)
    if blocks and setting == "auto" and obstacle == NOT_BUILT:
        log.info("kernels=torch: %s", NOT_BUILT)
    native = bool(blocks) and setting != "torch" and obstacle is None
    for block in blocks:
        block.native = native
    return "native" if native else "torch"
