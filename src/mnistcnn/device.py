"""Where a run computes, and in which number type."""

import torch
from torch import nn

from mnistcnn.errors import SettingError


def resolve(name: str) -> torch.device:
    """The device that ``auto`` (CUDA, then MPS, then the CPU) or a device's name stands for.

    Raises SettingError where there is no such device here.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise SettingError("device", name, "one of " + ", ".join(["auto", *present]) + " here")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that convolutions and matrix products compute in: ``auto`` is bfloat16 on CUDA.

    ``float32`` and ``bfloat16`` mean themselves everywhere.
    """
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def prepare(device: torch.device) -> None:
    """Settings of this process that make runs on ``device`` repeatable and its numbers honest."""
    if device.type == "cuda":
        # the fastest algorithm of a first try may be another one in the next run
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32
        torch.cuda.reset_peak_memory_stats(device)


def place(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, its weights in the layout that computes fastest there."""
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    network.to(device, memory_format=layout)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
