"""Random transforms of a whole batch at once, each sample with draws of its own.

Images are (N, 1, H, W) float32 in [0, 1] with a black background, before normalisation. Every
transform takes one parameter per sample and agrees with the function of the same purpose in
``torchvision.transforms.v2.functional`` applied to each image by itself (the tests hold it to
that).
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistcnn.settings import choice, number

NEGLIGIBLE = 1e-5  # a blur weight, relative to the central one, that moves no 8-bit pixel


@dataclass
class AugmentSettings:
    name: str
    rotation: float = number(0, 180)  # degrees, drawn from [-rotation, rotation]
    scale: list[float] = number(0, 10, above=True)  # [smallest, largest]
    shear: float = number(0, 80)  # degrees along x, drawn from [-shear, shear]
    flip: float = number(0, 1)  # probability of a horizontal flip
    brightness: list[float] = number(0, 10)  # [smallest, largest] factor
    blur_sigma: list[float] = number(0, 10)  # [smallest, largest], pixels; 0 is no blur
    blur_kernel: int = number(1, 27)  # pixels, odd: the widest kernel
    interpolation: str = choice("bilinear", "nearest")

    def problems(self):
        for name in ("scale", "brightness", "blur_sigma"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                yield name, "a list of two numbers, the smaller first"
        if self.blur_kernel % 2 == 0:
            yield "blur_kernel", "odd"


@dataclass(frozen=True)
class Draws:
    """The parameters of N samples, each a float32 tensor of shape (N,), all on one device."""

    angle: Tensor  # degrees, clockwise
    scale: Tensor
    shear: Tensor  # degrees along x
    flip: Tensor  # 0 or 1
    brightness: Tensor
    sigma: Tensor  # pixels

    def __getitem__(self, index: slice) -> "Draws":
        return Draws(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> "Draws":
        return Draws(*(getattr(self, field.name).to(device) for field in fields(self)))


def draw(settings: AugmentSettings, count: int, generator: torch.Generator) -> Draws:
    """Draw the parameters of ``count`` samples, uniformly from the ranges of ``settings``.

    Each sample uses six random numbers whatever the settings: presets that differ in one range
    share the draws of all the others.
    """
    angle, scale, shear, flip, brightness, sigma = torch.rand(count, 6, generator=generator).T

    def between(low: float, high: float, unit: Tensor) -> Tensor:
        return low + (high - low) * unit

    return Draws(
        angle=between(-settings.rotation, settings.rotation, angle),
        scale=between(*settings.scale, scale),
        shear=between(-settings.shear, settings.shear, shear),
        flip=(flip < settings.flip).float(),
        brightness=between(*settings.brightness, brightness),
        sigma=between(*settings.blur_sigma, sigma),
    )


def apply(images: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Blur, then brightness, then one affine map: the order of the report's pipeline.

    What ``settings`` rule out altogether is skipped, not computed and thrown away.
    """
    if blur_radius(settings) > 0:
        images = blur(images, draws.sigma, blur_radius(settings))
    if settings.brightness != [1.0, 1.0]:
        images = adjust_brightness(images, draws.brightness)
    if settings.rotation or settings.shear or settings.flip or settings.scale != [1.0, 1.0]:
        images = affine(
            images, draws.angle, draws.scale, draws.shear, draws.flip, settings.interpolation
        )
    return images


def affine(
    images: Tensor,
    angle: Tensor,
    scale: Tensor,
    shear: Tensor,
    flip: Tensor,
    interpolation: str = "bilinear",
) -> Tensor:
    """Shear along x, rotate clockwise and scale about the centre, then flip where ``flip`` is 1.

    One resampling for all; what comes from outside the image is black. The matrix maps output
    pixels to input pixels: the inverse of rotation @ shear * scale, with the parametrisation of
    torchvision's ``affine`` (angle and shear in degrees).
    """
    angle, shear = torch.deg2rad(angle), torch.deg2rad(shear)
    cos, sin, tan = torch.cos(angle), torch.sin(angle), torch.tan(shear)
    mirror = 1 - 2 * flip  # a flip of the output is a change of sign of its x
    of_x = torch.stack([(cos - sin * tan) * mirror, -sin * mirror], dim=1) / scale[:, None]
    of_y = torch.stack([sin + cos * tan, cos], dim=1) / scale[:, None]
    # what each column adds to a source point and what each row does: F.affine_grid multiplies
    # matrices for every pixel, and takes four times as long as all the rest
    height, width = images.shape[2:]
    columns = (of_x[:, :, None] * _centres(width, images))[:, :, None, :]
    rows = (of_y[:, :, None] * _centres(height, images))[:, :, :, None]
    grid = (columns + rows).permute(0, 2, 3, 1)  # (N, H, W, 2): x and y
    return F.grid_sample(images, grid, mode=interpolation, align_corners=False)


def _centres(count: int, like: Tensor) -> Tensor:
    """The middles of ``count`` pixels where the image's edges are -1 and 1: (count,)."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor; what exceeds white becomes white."""
    return (images * factor[:, None, None, None]).clamp(max=1)


def blur_radius(settings: AugmentSettings) -> int:
    """Pixels to each side of the centre where the strongest blur of ``settings`` has any effect.

    A Gaussian falls below NEGLIGIBLE of its peak at sigma * sqrt(-2 ln NEGLIGIBLE): the report's
    15-pixel kernel with sigma at most 0.2 has radius 0 and changes nothing.
    """
    reach = math.floor(settings.blur_sigma[1] * math.sqrt(-2 * math.log(NEGLIGIBLE)))
    return min(reach, settings.blur_kernel // 2)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with a standard deviation (pixels) per sample; edges are reflected."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    # a sigma of 0 is no blur, not a division by zero: all weight falls on the centre
    weights = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (N, 2 * radius + 1)
    # each sample is a channel with a kernel of its own: rows first, then columns
    samples = F.pad(images, [radius] * 4, mode="reflect").transpose(0, 1)
    samples = F.conv2d(samples, weights[:, None, :, None], groups=len(images))
    return F.conv2d(samples, weights[:, None, None, :], groups=len(images)).transpose(0, 1)
