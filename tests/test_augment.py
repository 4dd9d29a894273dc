"""Each transform against torchvision's own on single images, parameter by parameter."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from mnistcnn import augment, data
from mnistcnn.seeding import Stream, torch_generator

from .conftest import settings

COUNT = 32


@pytest.fixture(scope="module")
def images(digits) -> torch.Tensor:
    return data.to_unit(digits.train.pixels[:: len(digits.train) // COUNT][:COUNT])


def spread(low: float, high: float) -> torch.Tensor:
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
    ids=["rotation", "scale", "shear", "together"],
)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_affine(images, angle, scale, shear, flip, mode):
    ours = augment.affine(images, angle, scale, shear, torch.full((COUNT,), flip), mode)
    for index in range(COUNT):
        theirs = reference.affine(
            images[index],
            angle=angle[index].item(),
            translate=[0, 0],
            scale=scale[index].item(),
            shear=[shear[index].item(), 0.0],
            interpolation=InterpolationMode(mode),
        )
        if flip:
            theirs = reference.horizontal_flip(theirs)
        difference = (ours[index] - theirs).abs()
        if mode == "bilinear":
            assert difference.max() < 1e-4
        else:  # where a point lies halfway between two pixels, either may be the nearest
            assert (difference > 1e-4).float().mean() < 0.02


def test_brightness(images):
    factor = spread(0, 2)
    ours = augment.adjust_brightness(images, factor)
    for index in range(COUNT):
        theirs = reference.adjust_brightness(images[index], factor[index].item())
        torch.testing.assert_close(ours[index], theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", ["prose", "full"])
def test_blur(images, preset):
    aug = settings(f"aug={preset}").aug
    sigma = spread(*aug.blur_sigma)
    radius = augment.blur_radius(aug)
    ours = augment.blur(images, sigma, radius) if radius else images
    for index in range(COUNT):
        theirs = reference.gaussian_blur(images[index], [15, 15], [sigma[index].item()] * 2)
        torch.testing.assert_close(ours[index], theirs, atol=2e-5, rtol=0)


def test_the_reports_blur_is_none(images):
    assert augment.blur_radius(settings("aug=full").aug) == 0
    assert augment.blur_radius(settings("aug=prose").aug) == 2
    strongest = reference.gaussian_blur(images, [15, 15], [0.2, 0.2])
    assert (strongest - images).abs().max() < 1.1e-5  # one 8-bit step is 4e-3


def test_no_blur_where_sigma_is_zero(images):
    torch.testing.assert_close(augment.blur(images, ZERO, 2), images, atol=1e-7, rtol=0)


def test_none_changes_nothing(images):
    aug = settings("aug=none").aug
    draws = augment.draw(aug, COUNT, torch.Generator().manual_seed(0))
    assert augment.apply(images, draws, aug) is images


@pytest.mark.parametrize(
    ("preset", "limits"),
    [
        ("full", {"angle": (-15, 15), "scale": (0.9, 1.1), "shear": (0, 0), "flip": (0, 0),
                  "brightness": (0.9, 1.1), "sigma": (0.01, 0.2)}),
        ("prose", {"angle": (-30, 30), "scale": (1, 1), "shear": (-45, 45), "flip": (0, 0),
                   "brightness": (0, 1), "sigma": (0.1, 0.5)}),
        ("rotate45_flip", {"angle": (-45, 45), "scale": (1, 1), "shear": (0, 0), "flip": (0, 1),
                           "brightness": (1, 1), "sigma": (0, 0)}),
    ],
)  # fmt: skip
def test_draws_fill_the_ranges_of_each_preset(preset, limits):
    draws = augment.draw(settings(f"aug={preset}").aug, 10_000, torch.Generator().manual_seed(1))
    for name, (low, high) in limits.items():
        values = getattr(draws, name)
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert values.std().item() == pytest.approx(
            (high - low) * (0.5 if name == "flip" else 12**-0.5), rel=0.03
        )


def test_each_sample_has_its_own_draw(images):
    aug = settings("aug=full").aug
    same = images[:1].expand(COUNT, -1, -1, -1)
    draws = augment.draw(aug, COUNT, torch_generator(0, Stream.AUGMENT, 1))
    results = augment.apply(same, draws, aug)
    assert len(torch.unique(results.flatten(1), dim=0)) == COUNT


def test_a_part_of_the_draws_augments_a_part_of_the_batch(images):
    aug = settings("aug=prose").aug
    draws = augment.draw(aug, COUNT, torch.Generator().manual_seed(2))
    whole = augment.apply(images, draws, aug)
    part = augment.apply(images[8:16], draws[8:16], aug)
    torch.testing.assert_close(part, whole[8:16])
