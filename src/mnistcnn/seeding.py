"""Independent streams of random numbers, each a function of the seed and what it is for.

Nothing that decides a result draws from a stream that something else has advanced before it: the
split does not depend on the network, nor the order of epoch 7 on what happened in epoch 6. All
streams are drawn on the CPU, so that they are the same on every device.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream is for. The numbers are part of every result: never renumber them."""

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
    """A 32-bit seed for a library that takes nothing else."""
    return int(_sequence(seed, stream, index).generate_state(1)[0])


def numpy_generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(_sequence(seed, stream, index))


def torch_generator(seed: int, stream: Stream, index: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, stream, index))


def seed_global(seed: int, stream: Stream, index: int = 0) -> None:
    """Seed torch's own generators (all devices), which initialisation and dropout draw from."""
    torch.manual_seed(derived_seed(seed, stream, index))


def global_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's own generators are that a training on ``device`` draws from: uint8, by type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_global(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Take them back there, as far as ``states`` know of this type of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
