"""Streams of random numbers."""

import numpy as np
import torch

from mnistcnn import seeding
from mnistcnn.seeding import Stream


def test_streams_are_functions_of_seed_purpose_and_index():
    seeds = {
        seeding.derived_seed(seed, stream, index)
        for seed in (0, 1, 2**63 - 1)
        for stream in Stream
        for index in range(5)
    }
    assert len(seeds) == 3 * len(Stream) * 5


def test_pinned():
    """A change here changes every result ever made."""
    assert seeding.derived_seed(0, Stream.SPLIT) == 3953331965
    order = torch.randperm(8, generator=seeding.torch_generator(0, Stream.ORDER, 1))
    assert order.tolist() == [7, 3, 4, 2, 1, 0, 6, 5]
    permutation = seeding.numpy_generator(0, Stream.TSNE).permutation(8)
    assert permutation.tolist() == [0, 4, 3, 2, 6, 1, 5, 7]


def test_generators_do_not_touch_the_global_ones():
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    torch.rand(3, generator=seeding.torch_generator(3, Stream.AUGMENT))
    seeding.numpy_generator(3, Stream.SPLIT).normal()
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_zero_is_a_seed():
    torch.manual_seed(9)
    seeding.seed_global(0, Stream.WEIGHTS)
    first = torch.rand(2)
    torch.manual_seed(10)
    seeding.seed_global(0, Stream.WEIGHTS)
    assert torch.equal(torch.rand(2), first)
