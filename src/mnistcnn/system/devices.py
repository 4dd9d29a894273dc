"""Resolve devices, and configure the process for them."""

import contextlib
import ctypes
import os
import platform

import torch
from torch import nn

from mnistcnn.system.errors import SettingError
from mnistcnn.system.resources import available_cores, available_memory


def resolve_device(name: str) -> torch.device:
    """Return the device with this name; ``auto`` is CUDA if available, else MPS, else the CPU.

    Raises SettingError if this machine has no such device.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        allowed = ", ".join(["auto", *available])
        raise SettingError("device", name, f"one of {allowed} on this machine")
    return torch.device(name)


def has_bfloat16_arithmetic(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":  # of other processors than x86, torch does not tell
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 at all, possibly slowly."""
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def configure_process(device: torch.device) -> None:
    """Make computations on ``device`` repeatable, and small allocations fast.

    Also limit the number of threads, and reset the device's peak-memory counter.
    """
    limit_threads()
    keep_freed_memory()
    if device.type == "cuda":
        # cudnn.benchmark may choose another algorithm in each process
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        torch.cuda.reset_peak_memory_stats(device)


def limit_threads() -> None:
    """Make torch use no more threads than cores, unless OMP_NUM_THREADS is set.

    By default torch counts the cores without the CPU quota of a container.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed blocks below 32 MiB, up to 1 GiB in total.

    The total is at most a quarter of the available memory.

    By default it returns large blocks to the system and maps them again, page by page, for the
    next batch, which takes a tenth of the time of a small network's training step. Other C
    libraries are not changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    largest_block = 32 << 20  # bytes: the largest value that glibc accepts
    total = 1 << 30  # bytes
    if (memory := available_memory()) is not None:
        total = min(total, memory // 4)
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, largest_block)  # M_MMAP_THRESHOLD
        mallopt(-1, total)  # M_TRIM_THRESHOLD


def place_model(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, in the memory format that is fastest there."""
    memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
    model.to(device).to(memory_format=memory_format)


def describe_device(device: torch.device) -> str:
    """Return the name of a device, such as ``cpu``; for CUDA with the name of the GPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
