"""Blocks of a network for the tests of the C kernel, and the same blocks computed by torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistcnn.kernels.conv_block import native_conv_block

CHANNELS = [(1, 8), (8, 8), (3, 5), (7, 20), (16, 24), (32, 64), (33, 17), (64, 64), (1, 1), (1, 3)]


@dataclass(frozen=True)
class Options:
    """The options of a block, and how its arguments are given."""

    channels: tuple[int, int]
    stride: int
    padding: int
    size: tuple[int, int] = (12, 9)
    relu: bool = True
    has_scale: bool = False
    batch: int = 19
    image_gradient: bool = True
    channels_last: bool = True


def variants(channels: tuple[int, int], stride: int, padding: int) -> Iterator[Options]:
    """Yield eight blocks in which each pair of values of the other options occurs."""
    for a, b, c in product((False, True), repeat=3):
        yield Options(
            channels,
            stride,
            padding,
            size=(9, 12) if a else (12, 13),
            relu=b,
            has_scale=c,
            batch=1 if a ^ b else 19,
            image_gradient=a ^ c,
            channels_last=b ^ c,
        )


@dataclass
class Block:
    """Arguments of :func:`native_conv_block`, and the gradient of its output."""

    options: Options
    images: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor | None
    grad_output: Tensor

    def native(self) -> list[Tensor]:
        """Return the output and the gradients of weight, bias and, if needed, images."""
        images, weight, bias = self._leaves(torch.float32)
        if self.options.channels_last:
            images = images.detach().to(memory_format=torch.channels_last)
            images.requires_grad_(self.options.image_gradient)
        options = self.options
        output = native_conv_block(
            images, weight, bias, self.scale, options.stride, options.padding, options.relu
        )
        return self._results(output, weight, bias, images)

    def by_torch(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Return the same values, computed by torch."""
        images, weight, bias = self._leaves(dtype)
        output = F.max_pool2d(self.convolution(images, weight, bias), 2)
        if self.options.relu:
            output = F.relu(output)
        if self.scale is not None:
            output = output * self.scale.to(dtype)[:, :, None, None]
        return self._results(output, weight, bias, images)

    def convolution(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(images, weight, bias, self.options.stride, self.options.padding)

    def _leaves(self, dtype: torch.dtype) -> list[Tensor]:
        leaves = [each.to(dtype, copy=True) for each in (self.images, self.weight, self.bias)]
        leaves[0].requires_grad_(self.options.image_gradient)
        return [leaves[0], *(each.requires_grad_() for each in leaves[1:])]

    def _results(self, output: Tensor, *leaves: Tensor) -> list[Tensor]:
        leaves = tuple(leaf for leaf in leaves if leaf.requires_grad)
        gradients = torch.autograd.grad(output, leaves, self.grad_output.to(output.dtype))
        return [output.detach(), *gradients]


def make_block(options: Options, whole_numbers: bool = False) -> Block:
    """Return a block of random numbers.

    ``whole_numbers`` are -1, 0 and 1: all sums are then exact, and many windows have several equal
    maxima. Otherwise the gradient of a window is zero if rounding may decide which of its values
    is the maximum, or the sign of the maximum.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        if whole_numbers:
            return torch.randint(-1, 2, shape, generator=generator).float()
        return torch.randn(*shape, generator=generator)

    in_channels, out_channels = options.channels
    images = random(options.batch, in_channels, *options.size)
    weight, bias = random(out_channels, in_channels, 3, 3), random(out_channels)
    scale = None
    if options.has_scale:
        scale = torch.randint(0, 2, (options.batch, out_channels), generator=generator) * 2.0
    block = Block(options, images, weight, bias, scale, grad_output=torch.empty(0))
    values = block.convolution(images.double(), weight.double(), bias.double())
    windows = values.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    block.grad_output = random(*windows.shape[:4])
    if not whole_numbers:
        first, second = windows.topk(2).values.unbind(-1)
        block.grad_output *= (first - second > 1e-3) & (first.abs() > 1e-3)
    return block


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def check_precision(options: Options) -> None:
    """Assert that the kernel agrees with torch in double precision."""
    block = make_block(options)
    for actual, expected in zip(block.native(), block.by_torch(), strict=True):
        assert actual.dtype == torch.float32
        assert relative_error(actual, expected) < 1e-5, options


def check_exactly(options: Options) -> None:
    """Assert that the kernel agrees exactly with torch where no value is rounded."""
    block = make_block(options, whole_numbers=True)
    for actual, expected in zip(block.native(), block.by_torch(), strict=True):
        assert torch.equal(actual.double(), expected), options
