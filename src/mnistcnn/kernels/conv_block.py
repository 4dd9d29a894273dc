"""Compute a block of convolution, max-pooling and ReLU, by torch or by the C kernel."""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mnistcnn.kernels.loader import Shape, load_library

# For 16 parts of a batch, the kernel adds up gradients separately: 19 MB for this many weights.
MAX_WEIGHTS = 9 * 32 * 1024


class ConvBlock(nn.Sequential):
    """3x3 convolution, 2x2 max-pooling, ReLU and Dropout2d of images (N, C, H, W) float32.

    Pooling comes before ReLU: the result is the same because ReLU is monotonic, and ReLU then
    processes a quarter of the values. Odd last rows and columns are dropped.

    If ``native`` is set, the C kernel computes all layers at once. Blocks of more than MAX_WEIGHTS
    weights are computed by torch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=padding)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.native = False

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, out_channels, H', W')."""
        conv = self.conv
        if not self.native or conv.stride[0] > 2 or conv.weight.numel() > MAX_WEIGHTS:
            output: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
            return output
        scale = None
        if self.training and self.dropout.p > 0:
            scale = dropout_scale(len(images), conv.out_channels, self.dropout.p)
        return native_conv_block(
            images, conv.weight, conv.bias, scale, conv.stride[0], int(conv.padding[0])
        )


def conv_blocks(model: nn.Module) -> list[ConvBlock]:
    """Return the blocks in a model, in order."""
    return [module for module in model.modules() if isinstance(module, ConvBlock)]


@contextlib.contextmanager
def computed_by_torch(model: nn.Module) -> Iterator[None]:
    """Let torch compute all blocks of a model inside the context."""
    native_blocks = [block for block in conv_blocks(model) if block.native]
    for block in native_blocks:
        block.native = False
    try:
        yield
    finally:
        for block in native_blocks:
            block.native = True


def dropout_scale(count: int, channels: int, probability: float) -> Tensor:
    """Return factors (N, K): 0 with ``probability``, else 1 / (1 - probability).

    With the same state of torch's generator, they are those of Dropout2d on the CPU.
    """
    kept = 1 - probability
    return torch.empty(count, channels).bernoulli_(kept).div_(kept)


def native_conv_block(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    relu: bool = True,
) -> Tensor:
    """Compute ``max_pool2d(conv2d(images, ...), 2)`` and, with ``relu``, its ReLU by the C kernel.

    ``images`` are (N, C, H, W), ``weight`` (K, C, 3, 3), ``bias`` (K,) and ``scale`` (N, K), which
    multiplies the result and has no gradient; all float32 on the CPU. Images and weight should
    have the channels-last memory format of the result (N, K, H', W'). ``stride`` is 1 or 2. The
    gradient of a window goes to its first maximum, as in torch. The result
    and the gradients do not depend on the number of threads. The library must be available
    (:func:`load_library`). Raises MemoryError.
    """
    assert bias is not None
    if torch.is_grad_enabled() and (weight.requires_grad or images.requires_grad):
        output: Tensor = _ConvBlock.apply(images, weight, bias, scale, stride, padding, relu)
        return output
    shape, output = _prepare(images, weight, stride, padding, relu)
    _forward(shape, _channels_last(images), _channels_last(weight), bias, scale, output, None)
    return output.permute(0, 3, 1, 2)


class _ConvBlock(Function):
    """The differentiable form of :func:`native_conv_block`."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        stride: int,
        padding: int,
        relu: bool,
    ) -> Tensor:
        shape, output = _prepare(images, weight, stride, padding, relu)
        images, weight = _channels_last(images), _channels_last(weight)
        positions = torch.empty(output.shape, dtype=torch.uint8)
        _forward(shape, images, weight, bias, scale, output, positions)
        ctx.shape = shape
        ctx.save_for_backward(images, weight, scale, positions)
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, scale, positions = ctx.saved_tensors
        grad_output = _channels_last(grad_output)  # a name keeps its memory until the call returns
        grad_images = torch.empty_like(images) if ctx.needs_input_grad[0] else None
        grad_weight, grad_bias = torch.empty_like(weight), weight.new_empty(len(weight))
        status = _library().conv_block_backward(
            ctypes.byref(ctx.shape),
            images.data_ptr(),
            weight.data_ptr(),
            None if scale is None else scale.data_ptr(),
            positions.data_ptr(),
            grad_output.data_ptr(),
            None if grad_images is None else grad_images.data_ptr(),
            grad_weight.data_ptr(),
            grad_bias.data_ptr(),
            torch.get_num_threads(),
        )
        _check(status)
        if grad_images is not None:
            grad_images = grad_images.permute(0, 3, 1, 2)
        return grad_images, grad_weight.permute(0, 3, 1, 2), grad_bias, *[None] * 4


def _prepare(
    images: Tensor, weight: Tensor, stride: int, padding: int, relu: bool
) -> tuple[Shape, Tensor]:
    """Return the sizes of a block, and memory for its output (N, H', W', K)."""
    count, in_channels, height, width = images.shape
    shape = Shape(count, height, width, in_channels, len(weight), stride, padding, relu)
    out_height, out_width = (
        ((size + 2 * padding - 3) // stride + 1) // 2 for size in (height, width)
    )
    return shape, images.new_empty(count, out_height, out_width, len(weight))


def _forward(
    shape: Shape,
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    output: Tensor,
    positions: Tensor | None,
) -> None:
    status = _library().conv_block_forward(
        ctypes.byref(shape),
        images.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        None if scale is None else scale.data_ptr(),
        output.data_ptr(),
        None if positions is None else positions.data_ptr(),
        torch.get_num_threads(),
    )
    _check(status)


def _channels_last(tensor: Tensor) -> Tensor:
    """Return (N, C, H, W) as contiguous (N, H, W, C); no copy is made if that is its memory."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None, "ConvBlock.native is set only if the library is available"
    return library


def _check(status: int) -> None:
    if status:
        raise MemoryError("not enough memory for the sums of gradients of a convolution")
