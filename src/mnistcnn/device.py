"""Where a run computes, and in which number type."""

import contextlib
import ctypes
import platform

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
    """Settings of this process that make runs on ``device`` repeatable, honest and fast."""
    keep_freed_memory()
    if device.type == "cuda":
        # the fastest algorithm of a first try may be another one in the next run
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32
        torch.cuda.reset_peak_memory_stats(device)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees: blocks below 32 MiB, 1 GiB of them in all.

    The C library gives large blocks back to the system, and gets them again, page by page, for the
    next batch: a tenth of the time of a small network's training step. Only glibc's is told.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    largest_block = 32 << 20  # bytes; it accepts no more
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, largest_block)  # M_MMAP_THRESHOLD: from this size on
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: free at the end of the heap


def place(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, its weights in the layout that computes fastest there."""
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    network.to(device, memory_format=layout)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
