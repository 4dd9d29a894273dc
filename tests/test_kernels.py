"""The C kernel computes what torch computes; the result does not depend on the threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mnistcnn.kernels import conv_block
from mnistcnn.kernels.conv_block import MAX_WEIGHTS, ConvBlock, conv_blocks, native_conv_block
from mnistcnn.kernels.loader import load_library
from mnistcnn.kernels.selection import NOT_BUILT, select_kernels
from mnistcnn.training.flat_parameters import flatten_parameters
from mnistcnn.training.optim import build_optimizer
from mnistcnn.training.trainer import build_model

from .blocks import CHANNELS, Options, check_exactly, check_precision, make_block, variants
from .conftest import settings
from .test_fast_paths import STEPS, batch_losses

pytestmark = pytest.mark.skipif(load_library() is None, reason=NOT_BUILT)

NAN = float("nan")


@pytest.fixture
def restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Output and gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", CHANNELS)
def test_output_and_gradients_are_those_of_torch(channels, stride, padding):
    """With whole numbers, many windows have several maxima: the gradient goes to the first."""
    for options in variants(channels, stride, padding):
        check_precision(options)
        check_exactly(options)


@pytest.mark.parametrize("size", [(4, 4), (4, 5), (5, 4), (6, 28), (28, 6), (26, 26)])
def test_images_of_any_size(size):
    for channels in [(1, 8), (3, 5), (16, 24)]:
        check_exactly(Options(channels, stride=1, padding=0, size=size))
        check_exactly(Options(channels, stride=2, padding=1, size=size, image_gradient=False))


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (3, 3)])
def test_images_smaller_than_the_kernel_with_padding(size):
    check_exactly(Options((2, 9), stride=1, padding=1, size=size))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("batch", [1, 2, 19, 64])
@pytest.mark.parametrize("channels", [(1, 8), (8, 8), (7, 20), (33, 17), (64, 64)])
def test_results_do_not_depend_on_the_number_of_threads(channels, batch):
    block = make_block(Options(channels, 1, padding=1, size=(20, 20), has_scale=True, batch=batch))
    torch.set_num_threads(1)
    expected = block.native()
    for threads in (1, 2, 3, 3):
        torch.set_num_threads(threads)
        for actual, each in zip(block.native(), expected, strict=True):
            assert torch.equal(actual.view(torch.int32), each.view(torch.int32))


def test_the_gradient_goes_to_the_first_of_equal_maxima():
    """All four values of the window are 1, and the pixels under them differ."""
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, 1, 1:3] = images[0, 0, 2, 1:3] = 1.0  # one pixel below each tap of `weight`
    weight = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]).expand(1, 1, 3, 3).clone()
    weight.requires_grad_()
    images.requires_grad_()
    output = native_conv_block(images, weight, torch.zeros(1))
    assert output.tolist() == [[[[1.0]]]]
    output.backward()
    expected = torch.zeros(4, 4)
    expected[1, 1] = 1  # the middle of the first position's pixels
    assert torch.equal(images.grad[0, 0], expected)
    assert torch.equal(weight.grad[0, 0], images.detach()[0, 0, :3, :3])


@pytest.mark.parametrize("channels", [(1, 8), (3, 20)])
def test_a_constant_image_has_torchs_gradients(channels):
    block = make_block(Options(channels, stride=1, padding=1, size=(8, 8)), whole_numbers=True)
    block.images.fill_(1)
    block.weight.fill_(1)
    block.bias.fill_(1)
    for actual, expected in zip(block.native(), block.by_torch(), strict=True):
        assert torch.equal(actual.double(), expected)


@pytest.mark.parametrize("where", ["images", "weight", "bias"])
@pytest.mark.parametrize("channels", [(1, 8), (3, 20), (8, 8)])
def test_nan_is_where_torch_has_it(channels, where):
    options = Options(channels, stride=1, padding=1, has_scale=True)
    block = make_block(options)
    values: Tensor = getattr(block, where)
    values[(0,) * values.dim()] = values[(-1,) * values.dim()] = NAN
    expected = block.by_torch()[0].isnan()
    assert expected.any() and not expected.all()
    assert torch.equal(block.native()[0].isnan(), expected)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_output_of_zero_has_no_gradient(zero):
    images = torch.rand(2, 1, 6, 6, requires_grad=True)
    weight = torch.full((8, 1, 3, 3), zero, requires_grad=True)
    bias = torch.full((8,), zero, requires_grad=True)
    output = native_conv_block(images, weight, bias)
    output.sum().backward()
    assert output.count_nonzero() == 0
    for each in (images, weight, bias):
        assert each.grad.count_nonzero() == 0


# Blocks of a network -----------------------------------------------------------------------------


def make_conv_block(*arguments: int, native: bool = True, **settings: float) -> ConvBlock:
    torch.manual_seed(0)
    block = ConvBlock(*arguments, **settings)
    block.native = native
    return block


@pytest.mark.parametrize("arguments", [(1, 8), (8, 8), (3, 20, 2, 1), (32, 64)])
def test_the_output_without_gradients_is_that_of_training(arguments):
    block = make_conv_block(*arguments, dropout=0.5).eval()
    images = torch.randn(19, arguments[0], 13, 12)
    expected = block(images)
    assert expected.requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            actual = block(images)
        assert not actual.requires_grad and torch.equal(actual, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_draws_the_numbers_of_dropout2d(memory_format):
    images = torch.rand(19, 3, 12, 12).to(memory_format=memory_format)
    outputs, states = [], []
    for native in (False, True):
        block = make_conv_block(3, 20, dropout=0.4, native=native).to(memory_format=memory_format)
        block.conv.bias.data.fill_(10)  # no output is zero by ReLU
        torch.manual_seed(5)
        outputs.append(block(images).detach())
        states.append(torch.get_rng_state())
    assert torch.equal(outputs[0] == 0, outputs[1] == 0)
    assert 0.3 < (outputs[1] == 0).float().mean() < 0.5
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=0)
    assert torch.equal(*states)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_no_random_number_is_drawn_without_dropout(dropout):
    block = make_conv_block(1, 8, dropout=dropout).train(dropout == 0)
    images, state = torch.rand(2, 1, 8, 8), torch.get_rng_state()
    block(images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arguments", [(256, 129), (3, 5, 3), (3, 5, 3, 2)])
def test_other_blocks_are_computed_by_torch(arguments, monkeypatch):
    assert MAX_WEIGHTS < 256 * 129 * 9
    images = torch.randn(2, arguments[0], 12, 12)
    expected = make_conv_block(*arguments, native=False)(images)
    monkeypatch.setattr(conv_block, "native_conv_block", None)
    assert torch.equal(make_conv_block(*arguments)(images), expected)


def test_the_layers_are_not_called_if_the_kernel_computes_a_block(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", None)
    assert make_conv_block(256, 128)(torch.rand(2, 256, 8, 8)).shape == (2, 128, 3, 3)


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.channels=[8,8]"],
        ["model.channels=[1,1]", "model.dropout=0", "seed=8"],  # with others, all outputs are 0
        ["model.channels=[3,5,7]"],
        ["model.channels=[32,64,32]"],
        ["model.channels=[64]"],
        ["model.padding=2"],
        ["model.stride=2"],
        ["model.dropout=0"],
        ["aug=full"],
    ],
)
def test_the_learning_curve_is_that_of_torch(splits, overrides):
    # At the default rate, a difference in the last bit grows beyond the tolerance.
    chosen = settings("data=mnist5k", f"steps={STEPS}", "epochs=1", "optimizer.lr=0.1", *overrides)
    losses = {}
    for kernels in ("torch", "native"):
        model = build_model(chosen, splits)
        assert select_kernels(model, kernels, "float32", "none") == kernels
        assert len(conv_blocks(model)) == len(chosen.model.channels)
        optimizer = build_optimizer(chosen.optimizer, flatten_parameters(model))
        losses[kernels] = batch_losses(model, optimizer, splits, chosen)
    assert len(losses["native"]) == STEPS and losses["native"] != losses["torch"]
    torch.testing.assert_close(losses["native"], losses["torch"], rtol=1e-4, atol=0)
