"""Augmentation: each transform equals torchvision's for single images with the same parameters."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from mnistcnn.data.augment import (
    adjust_brightness,
    affine,
    augment_batch,
    blur_radius,
    gaussian_blur,
    sample_parameters,
)
from mnistcnn.data.batches import to_float
from mnistcnn.system.random_streams import Stream, torch_generator

from .conftest import settings

COUNT = 32


@pytest.fixture(scope="module")
def images(splits) -> torch.Tensor:
    return to_float(splits.train.pixels[:: len(splits.train) // COUNT][:COUNT])


def spread(low: float, high: float) -> torch.Tensor:
    """Return one value per image, evenly spaced from ``low`` to ``high``."""
    return torch.linspace(low, high, COUNT)


ZERO, ONE = torch.zeros(COUNT), torch.ones(COUNT)


@pytest.mark.parametrize(
    ("angle", "scale", "shear"),
    [
        (spread(-180, 180), ONE, ZERO),
        (ZERO, spread(0.5, 2), ZERO),
        (ZERO, ONE, spread(-60, 60)),
        (spread(-45, 45), spread(1.2, 0.8), spread(-30, 30)),
    ],
    ids=["rotation", "scale", "shear", "all"],
)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_affine_equals_torchvision(images, angle, scale, shear, flip, mode):
    actual = affine(images, angle, scale, shear, torch.full((COUNT,), flip), mode)
    for index in range(COUNT):
        expected = reference.affine(
            images[index],
            angle=angle[index].item(),
            translate=[0, 0],
            scale=scale[index].item(),
            shear=[shear[index].item(), 0.0],
            interpolation=InterpolationMode(mode),
        )
        if flip:
            expected = reference.horizontal_flip(expected)
        difference = (actual[index] - expected).abs()
        if mode == "bilinear":
            assert difference.max() < 1e-4
        else:  # a point halfway between two pixels may be rounded to either
            assert (difference > 1e-4).float().mean() < 0.02


def test_brightness_equals_torchvision(images):
    factor = spread(0, 2)
    actual = adjust_brightness(images, factor)
    for index in range(COUNT):
        expected = reference.adjust_brightness(images[index], factor[index].item())
        torch.testing.assert_close(actual[index], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", ["prose", "full"])
def test_blur_equals_torchvision(images, preset):
    aug = settings(f"aug={preset}").aug
    sigma = spread(*aug.blur_sigma)
    radius = blur_radius(aug)
    actual = gaussian_blur(images, sigma, radius) if radius else images
    for index in range(COUNT):
        expected = reference.gaussian_blur(images[index], [15, 15], [sigma[index].item()] * 2)
        torch.testing.assert_close(actual[index], expected, atol=2e-5, rtol=0)


def test_blur_of_the_preset_full_changes_nothing(images):
    assert blur_radius(settings("aug=full").aug) == 0
    assert blur_radius(settings("aug=prose").aug) == 2
    strongest = reference.gaussian_blur(images, [15, 15], [0.2, 0.2])
    assert (strongest - images).abs().max() < 1.1e-5  # one 8-bit step is 4e-3


def test_blur_with_sigma_zero_changes_nothing(images):
    torch.testing.assert_close(gaussian_blur(images, ZERO, 2), images, atol=1e-7, rtol=0)


def test_preset_none_returns_the_same_images(images):
    aug = settings("aug=none").aug
    parameters = sample_parameters(aug, COUNT, torch.Generator().manual_seed(0))
    assert augment_batch(images, parameters, aug) is images


@pytest.mark.parametrize(
    ("preset", "limits"),
    [
        (
            "full",
            {
                "angle": (-15, 15),
                "scale": (0.9, 1.1),
                "shear": (0, 0),
                "flip": (0, 0),
                "brightness": (0.9, 1.1),
                "sigma": (0.01, 0.2),
            },
        ),
        (
            "prose",
            {
                "angle": (-30, 30),
                "scale": (1, 1),
                "shear": (-45, 45),
                "flip": (0, 0),
                "brightness": (0, 1),
                "sigma": (0.1, 0.5),
            },
        ),
        (
            "rotate45_flip",
            {
                "angle": (-45, 45),
                "scale": (1, 1),
                "shear": (0, 0),
                "flip": (0, 1),
                "brightness": (1, 1),
                "sigma": (0, 0),
            },
        ),
    ],
)
def test_parameters_are_uniform_in_the_ranges_of_each_preset(preset, limits):
    generator = torch.Generator().manual_seed(1)
    parameters = sample_parameters(settings(f"aug={preset}").aug, 10_000, generator)
    for name, (low, high) in limits.items():
        values = getattr(parameters, name)
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert values.std().item() == pytest.approx(
            (high - low) * (0.5 if name == "flip" else 12**-0.5), rel=0.03
        )


def test_each_sample_has_its_own_parameters(images):
    aug = settings("aug=full").aug
    copies = images[:1].expand(COUNT, -1, -1, -1)
    parameters = sample_parameters(aug, COUNT, torch_generator(0, Stream.AUGMENT, 1))
    augmented = augment_batch(copies, parameters, aug)
    assert len(torch.unique(augmented.flatten(1), dim=0)) == COUNT


def test_sliced_parameters_augment_a_slice_of_the_batch(images):
    aug = settings("aug=prose").aug
    parameters = sample_parameters(aug, COUNT, torch.Generator().manual_seed(2))
    whole = augment_batch(images, parameters, aug)
    part = augment_batch(images[8:16], parameters[8:16], aug)
    torch.testing.assert_close(part, whole[8:16])
