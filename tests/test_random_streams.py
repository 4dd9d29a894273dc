"""Random streams: independent, reproducible, and separate from the global generators."""

import numpy as np
import torch

from mnistcnn.system.random_streams import (
    Stream,
    derived_seed,
    numpy_generator,
    seed_global,
    torch_generator,
)


def test_seed_stream_and_index_give_distinct_seeds():
    seeds = {
        derived_seed(seed, stream, index)
        for seed in (0, 1, 2**63 - 1)
        for stream in Stream
        for index in range(5)
    }
    assert len(seeds) == 3 * len(Stream) * 5


def test_streams_have_the_recorded_values():
    """A change of these values changes the results of every run."""
    assert derived_seed(0, Stream.SPLIT) == 3953331965
    order = torch.randperm(8, generator=torch_generator(0, Stream.ORDER, 1))
    assert order.tolist() == [7, 3, 4, 2, 1, 0, 6, 5]
    permutation = numpy_generator(0, Stream.TSNE).permutation(8)
    assert permutation.tolist() == [0, 4, 3, 2, 6, 1, 5, 7]


def test_streams_do_not_change_the_global_generators():
    torch.manual_seed(5)
    np.random.seed(5)
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    torch.rand(3, generator=torch_generator(3, Stream.AUGMENT))
    numpy_generator(3, Stream.SPLIT).normal()
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_zero_is_a_valid_seed():
    torch.manual_seed(9)
    seed_global(0, Stream.WEIGHTS)
    first = torch.rand(2)
    torch.manual_seed(10)
    seed_global(0, Stream.WEIGHTS)
    assert torch.equal(torch.rand(2), first)
