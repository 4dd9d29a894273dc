"""The splits of a dataset: sizes, stratification, dependence on the seed, statistics."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistcnn.data.dataset import DatasetSplits, load_splits, stratified_split, training_count
from mnistcnn.data.images import Images
from mnistcnn.data.mnist import LABEL_ERRORS, load_mnist, load_mnist5k

from .conftest import settings


def mnist5k(*overrides: str, seed: int = 0) -> DatasetSplits:
    return load_splits(settings("data=mnist5k", *overrides).data, seed)


def class_counts(images: Images) -> list[int]:
    return torch.bincount(images.labels, minlength=10).tolist()


def test_splits_of_mnist5k_are_stratified(splits):
    assert class_counts(splits.train) == [340] * 10
    assert class_counts(splits.validation) == [60] * 10
    assert class_counts(splits.test) == [100] * 10
    assert splits.train.pixels.shape == (3400, 28, 28)
    assert splits.train.pixels.dtype == torch.uint8
    assert splits.train.labels.dtype == torch.int64


def test_no_image_is_in_two_splits(splits):
    pixels = torch.cat([splits.train.pixels, splits.validation.pixels, splits.test.pixels])
    assert len(torch.unique(pixels.flatten(1), dim=0)) == 5000


def test_seed_decides_the_split_but_not_the_test_set(splits):
    same_seed, other_seed = mnist5k(), mnist5k(seed=1)
    assert np.array_equal(same_seed.train_indices, splits.train_indices)
    assert not np.array_equal(other_seed.train_indices, splits.train_indices)
    assert torch.equal(other_seed.test.pixels, splits.test.pixels)
    assert class_counts(other_seed.validation) == [60] * 10


def test_fractions_are_nested_and_stratified_and_keep_the_other_splits(splits):
    larger = splits
    for fraction in (0.5, 0.25, 0.125, 0.0625):
        smaller = mnist5k(f"data.fraction={fraction}")
        assert set(smaller.train_indices) < set(larger.train_indices)
        assert class_counts(smaller.train) == [round(fraction * 340)] * 10
        assert torch.equal(smaller.validation.pixels, splits.validation.pixels)
        assert torch.equal(smaller.test.pixels, splits.test.pixels)
        larger = smaller


def test_smallest_fraction_keeps_one_image_per_digit():
    assert class_counts(mnist5k("data.fraction=0.0001").train) == [1] * 10


def test_smallest_validation_split_has_one_image_per_digit():
    assert class_counts(mnist5k("data.validation=0.0001").validation) == [1] * 10


def test_train_indices_identify_the_training_images(splits):
    small = mnist5k("data.fraction=0.1")
    positions = np.searchsorted(splits.train_indices, small.train_indices)
    assert torch.equal(splits.train.pixels[torch.from_numpy(positions)], small.train.pixels)
    description = small.describe()
    sha256 = hashlib.sha256(small.train_indices.astype("<i8").tobytes()).hexdigest()
    assert description["train_indices_sha256"] == sha256
    sizes = [description[split] for split in ("train", "validation", "test")]
    assert sizes == [340, 600, 1000]
    assert description["name"] == "mnist5k"
    assert description["classes"] == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]


def test_pixel_statistics_are_those_of_the_training_images():
    small = mnist5k("data.fraction=0.1")
    pixels = small.train.pixels.numpy() / 255.0
    assert small.pixel_statistics() == pytest.approx((pixels.mean(), pixels.std()), rel=1e-9)


@pytest.mark.parametrize(
    ("counts", "validation", "fraction", "train", "held_out"),
    [
        ([100, 20, 2], 0.15, 1.0, [85, 17, 1], [15, 3, 1]),
        ([100, 20, 2], 0.5, 0.1, [5, 1, 1], [50, 10, 1]),
        ([40, 60], 0.25, 0.5, [15, 22], [10, 15]),
    ],
)
def test_a_split_of_few_unequal_classes_is_stratified(
    counts, validation, fraction, train, held_out
):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    splits = stratified_split(labels, len(counts), validation, fraction, seed=0)
    assert [np.bincount(labels[indices]).tolist() for indices in splits] == [train, held_out]
    assert not set(splits[0]) & set(splits[1])
    assert all((np.diff(indices) > 0).all() for indices in splits)


@pytest.mark.parametrize("overrides", [[], ["data.fraction=0.01"], ["data.validation=0.3333"]])
def test_the_number_of_training_images_is_known_before_the_split(overrides):
    data = settings("data=mnist5k", *overrides).data
    assert training_count(data) == len(load_splits(data, seed=0).train)


def test_mnist5k_has_no_known_label_errors(splits):
    assert load_mnist5k().label_errors == splits.label_errors == ()
    assert splits.to(torch.device("cpu")).class_names == load_mnist5k().class_names


@pytest.mark.full_mnist
def test_known_label_errors_of_mnist_are_test_images_with_these_labels(mnist_dir):
    mnist = load_splits(settings(f"data.dir={mnist_dir}").data, seed=0)
    assert mnist.label_errors == LABEL_ERRORS == tuple(sorted(set(LABEL_ERRORS)))
    assert LABEL_ERRORS[0] >= 0 and LABEL_ERRORS[-1] < len(mnist.test)
    labels = mnist.test.labels[list(LABEL_ERRORS)].tolist()
    assert labels == [8, 0, 9, 4, 2, 5, 6, 6, 5, 5, 0, 1, 4, 6, 5]


@pytest.mark.full_mnist
def test_splits_of_mnist_have_the_sizes_and_statistics_of_the_report(mnist_dir):
    mnist = load_splits(settings(f"data.dir={mnist_dir}").data, seed=0)
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (51_005, 8_995, 10_000)
    assert class_counts(mnist.test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, std = mnist.pixel_statistics()
    assert mean == pytest.approx(0.131, abs=5e-4)
    assert std == pytest.approx(0.3085, abs=5e-4)


@pytest.mark.full_mnist
def test_mnist5k_contains_training_images_of_mnist_only(mnist_dir, splits):
    mnist = load_mnist(Path(mnist_dir), ())
    train_images = {image.tobytes() for image in mnist.train.pixels.numpy()}
    assert all(image.tobytes() in train_images for image in splits.test.pixels.numpy())
    assert not train_images & {image.tobytes() for image in mnist.test.pixels.numpy()}
