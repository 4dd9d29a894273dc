"""Augment a whole batch of images at random, with separate parameters for each sample.

Images are (N, 1, H, W) float32 in [0, 1] with a black background, before normalisation. Each
transform takes one parameter per sample and matches the corresponding function in
``torchvision.transforms.v2.functional`` applied to each image separately (checked by the tests).
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistcnn.config.schema import AugmentSettings

NEGLIGIBLE = 1e-5  # blur weight relative to the central one that changes no 8-bit pixel


@dataclass(frozen=True)
class AugmentParameters:
    """The parameters of N samples, each a float32 tensor of shape (N,), all on one device."""

    angle: Tensor  # degrees, clockwise
    scale: Tensor
    shear: Tensor  # degrees along x
    flip: Tensor  # 0 or 1
    brightness: Tensor
    sigma: Tensor  # pixels

    def __getitem__(self, index: slice) -> "AugmentParameters":
        return AugmentParameters(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> "AugmentParameters":
        """Return the parameters on ``device``."""
        return AugmentParameters(*(getattr(self, field.name).to(device) for field in fields(self)))


def sample_parameters(
    settings: AugmentSettings, count: int, generator: torch.Generator
) -> AugmentParameters:
    """Sample parameters for ``count`` images, uniformly from the ranges of ``settings``.

    Each image uses six random numbers, whatever the settings: presets that differ in one range
    have identical values for all other parameters.
    """
    angle, scale, shear, flip, brightness, sigma = torch.rand(count, 6, generator=generator).T

    def between(bounds: list[float], unit: Tensor) -> Tensor:
        low, high = bounds
        return low + (high - low) * unit

    return AugmentParameters(
        angle=between([-settings.rotation, settings.rotation], angle),
        scale=between(settings.scale, scale),
        shear=between([-settings.shear, settings.shear], shear),
        flip=(flip < settings.flip).float(),
        brightness=between(settings.brightness, brightness),
        sigma=between(settings.blur_sigma, sigma),
    )


def augment_batch(
    images: Tensor, parameters: AugmentParameters, settings: AugmentSettings
) -> Tensor:
    """Apply blur, then brightness, then one affine map: the order of the report's pipeline.

    Transforms disabled by ``settings`` are skipped.
    """
    radius = blur_radius(settings)
    if radius > 0:
        images = gaussian_blur(images, parameters.sigma, radius)
    if settings.brightness != [1.0, 1.0]:
        images = adjust_brightness(images, parameters.brightness)
    if _has_affine(settings):
        images = affine(
            images,
            parameters.angle,
            parameters.scale,
            parameters.shear,
            parameters.flip,
            settings.interpolation,
        )
    return images


def has_effect(settings: AugmentSettings) -> bool:
    """Return whether :func:`augment_batch` applies any transform with these settings."""
    has_brightness = settings.brightness != [1.0, 1.0]
    return blur_radius(settings) > 0 or has_brightness or _has_affine(settings)


def _has_affine(settings: AugmentSettings) -> bool:
    is_scaled = settings.scale != [1.0, 1.0]
    return bool(settings.rotation or settings.shear or settings.flip or is_scaled)


def affine(
    images: Tensor,
    angle: Tensor,
    scale: Tensor,
    shear: Tensor,
    flip: Tensor,
    interpolation: str = "bilinear",
) -> Tensor:
    """Shear along x, rotate clockwise and scale about the centre, then flip if ``flip`` is 1.

    All are applied in one resampling; pixels outside the image are black. The matrix maps output
    pixels to input pixels: the inverse of rotation @ shear * scale, with the parametrisation of
    torchvision's ``affine`` (angle and shear in degrees).
    """
    angle, shear = torch.deg2rad(angle), torch.deg2rad(shear)
    cos, sin, tan = torch.cos(angle), torch.sin(angle), torch.tan(shear)
    mirror = 1 - 2 * flip  # flipping the output negates its x
    from_x = torch.stack([(cos - sin * tan) * mirror, -sin * mirror], dim=1) / scale[:, None]
    from_y = torch.stack([sin + cos * tan, cos], dim=1) / scale[:, None]
    # Add the contributions of each column and of each row to a source point. F.affine_grid
    # multiplies matrices for every pixel and takes four times as long as the rest of this function.
    height, width = images.shape[2:]
    columns = (from_x[:, :, None] * _pixel_centres(width, images))[:, :, None, :]
    rows = (from_y[:, :, None] * _pixel_centres(height, images))[:, :, :, None]
    grid = (columns + rows).permute(0, 2, 3, 1)  # (N, H, W, 2): x and y
    return F.grid_sample(images, grid, mode=interpolation, align_corners=False)


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    """Return the centres of ``count`` pixels if the image edges are at -1 and 1: (count,)."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor and clamp to 1."""
    return (images * factor[:, None, None, None]).clamp(max=1)


def blur_radius(settings: AugmentSettings) -> int:
    """Return the kernel radius, in pixels, beyond which the strongest blur has no effect.

    A Gaussian falls below NEGLIGIBLE of its peak at sigma * sqrt(-2 ln NEGLIGIBLE): the report's
    15-pixel kernel with sigma at most 0.2 has radius 0 and changes nothing.
    """
    reach = math.floor(settings.blur_sigma[1] * math.sqrt(-2 * math.log(NEGLIGIBLE)))
    return min(reach, settings.blur_kernel // 2)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Apply a Gaussian blur with one standard deviation (pixels) per sample; reflect edges."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    # clamp sigma: 0 means no blur (all weight on the centre), not a division by zero
    weights = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (N, 2 * radius + 1)
    # each sample is a channel with its own kernel: rows first, then columns
    samples = F.pad(images, [radius] * 4, mode="reflect").transpose(0, 1)
    samples = F.conv2d(samples, weights[:, None, :, None], groups=len(images))
    return F.conv2d(samples, weights[:, None, None, :], groups=len(images)).transpose(0, 1)
