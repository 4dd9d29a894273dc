"""Derive independent random streams, each a function of the seed and its purpose.

A stream does not depend on how many numbers were drawn from the others: the split does not depend
on the network, and the order of epoch 7 does not depend on epoch 6. All streams are drawn on the
CPU, so that they are the same on every device.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of a stream. The numbers are part of every result: never renumber them."""

    SPLIT = 1
    ORDER = 2
    AUGMENT = 3
    WEIGHTS = 4
    DROPOUT = 5
    TSNE = 6
    NEIGHBOURS = 7


def _sequence(seed: int, stream: Stream, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(entropy=seed, spawn_key=(stream, index))


def derived_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """Return a 32-bit seed, for libraries that take no generator."""
    return int(_sequence(seed, stream, index).generate_state(1)[0])


def numpy_generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return a new NumPy generator for one purpose.

    ``index`` distinguishes epochs, classes and so on.
    """
    return np.random.default_rng(_sequence(seed, stream, index))


def torch_generator(seed: int, stream: Stream, index: int = 0) -> torch.Generator:
    """Return a new torch generator on the CPU for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, stream, index))


def seed_global(seed: int, stream: Stream, index: int = 0) -> None:
    """Seed torch's global generators on all devices, used by initialisation and dropout."""
    torch.manual_seed(derived_seed(seed, stream, index))


def global_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states (uint8) of torch's global generators, by device type.

    These are the states of the CPU's generator and of that of ``device``.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_global_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore the result of :func:`global_states`, for ``device`` only if it has such a state."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
