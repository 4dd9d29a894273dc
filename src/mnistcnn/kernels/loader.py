"""Load the compiled C kernels, if they were built, for the instruction set of this processor."""

import ctypes
import functools
import importlib.util
import platform

import torch


class Shape(ctypes.Structure):
    """The sizes of a block: the struct ``Shape`` in ``conv_block.c``."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "images",
            "height",
            "width",
            "in_channels",
            "out_channels",
            "stride",
            "padding",
            "relu",
        )
    ]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Return the functions of ``conv_block.c``, or None if they are not available here.

    torch has been imported before, so that the library uses the threads of torch's OpenMP.
    """
    spec = importlib.util.find_spec(f"mnistcnn.kernels.conv_block_{instruction_set()}")
    if spec is None or spec.origin is None:
        return None
    try:
        return open_library(spec.origin)
    except OSError:  # built for another system
        return None


def open_library(path: str) -> ctypes.CDLL:
    """Return the functions in a compiled ``conv_block.c``. Raises OSError."""
    library = ctypes.CDLL(path)
    pointer = ctypes.c_void_p
    library.conv_block_forward.argtypes = [ctypes.POINTER(Shape), *[pointer] * 6, ctypes.c_int]
    library.conv_block_backward.argtypes = [ctypes.POINTER(Shape), *[pointer] * 8, ctypes.c_int]
    return library


def instruction_set() -> str | None:
    """Return the best variant in ``build.py`` for this processor; None if it has no AVX2."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "generic"
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return "avx512"
    return "avx2" if capability == "AVX2" else None
