"""Batches: sizes, order and conversion of pixels."""

import pytest
import torch

from mnistcnn.data.batches import batch_slices, evaluation_batches, pass_order, to_float


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),  # a single remaining sample joins the preceding batch
        (3, 8, [3]),
        (1, 8, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_batch_slices_cover_all_samples(count, batch_size, sizes):
    slices = list(batch_slices(count, batch_size))
    assert [part.stop - part.start for part in slices] == sizes
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(count))


def test_evaluation_batches_cover_all_images_in_order(splits):
    images, labels = zip(*evaluation_batches(splits.train), strict=True)
    assert torch.equal(torch.cat(labels), splits.train.labels)
    assert torch.equal(torch.cat(images), to_float(splits.train.pixels))


def test_to_float_scales_pixels_and_adds_a_channel():
    images = to_float(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    assert images.shape == (1, 1, 1, 3) and images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_pass_order_is_a_permutation_that_depends_on_seed_and_epoch():
    first = pass_order(0, 1, 100)
    assert sorted(first.tolist()) == list(range(100))
    assert torch.equal(first, pass_order(0, 1, 100))
    assert not torch.equal(first, pass_order(0, 2, 100))
    assert not torch.equal(first, pass_order(1, 1, 100))
