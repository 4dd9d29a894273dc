"""Compile the forward pass in training with ``torch.compile``, if the settings enable it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnistcnn.system.errors import MnistcnnError

Forward = Callable[[Tensor], Tensor]


def resolve_compile_mode(mode: str) -> str:
    """Return the mode in use: ``auto`` is ``none`` on every device.

    Compiling takes most of a minute, changes the last digits of a result, and made the default
    network slower on a CPU.
    """
    return "none" if mode == "auto" else mode


def compiled_forward(model: nn.Module, mode: str) -> Forward:
    """Return the model itself for the modes ``none`` and ``auto``, else its compiled form.

    The returned function raises MnistcnnError if its first call cannot be compiled; errors of
    later calls, such as compiling the backward pass, are raised unchanged.
    """
    mode = resolve_compile_mode(mode)
    if mode == "none":
        return model
    # the last batch of a pass has another size: compile one static graph for each size
    compiled: Forward = torch.compile(model, mode=mode, dynamic=False)
    first_call = True

    def forward(images: Tensor) -> Tensor:
        nonlocal first_call
        if not first_call:
            return compiled(images)
        try:
            logits = compiled(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a missing C compiler, a GPU that is too old, ...
            reason = " ".join(str(error).split())[:200]
            raise MnistcnnError(
                f"compile={mode} does not work on this machine "
                f"({type(error).__name__}: {reason}): use compile=none"
            ) from error
        first_call = False
        return logits

    return forward
