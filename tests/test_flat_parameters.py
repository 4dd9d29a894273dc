"""Parameters in one flat tensor: views, memory formats, and the steps of the optimizers."""

import pytest
import torch
from torch.nn import Module, Parameter

from mnistcnn.models.registry import create_model
from mnistcnn.system.devices import place_model
from mnistcnn.training import flat_parameters
from mnistcnn.training.flat_parameters import flatten_parameters, zero_gradients
from mnistcnn.training.optim import OPTIMIZERS, build_optimizer

from .conftest import same_weights, settings

MODELS = [
    ["model=convnet", "model.channels=[3,5]"],  # sizes that are no multiples of a vector's
    ["model=custom", "model.width=0.02"],
    ["model=resnet50", "model.layers=[1,1,1,1]", "model.width=0.1"],
]


@pytest.fixture(params=[1_000, 1_000_000], autouse=True)
def part_size(request, monkeypatch):
    monkeypatch.setattr(flat_parameters, "PART_SIZE", request.param)


def make_model(*overrides: str) -> Module:
    torch.manual_seed(0)
    model = create_model(settings(*overrides).model)
    place_model(model, torch.device("cpu"))
    return model


def trained(model: Module) -> list[Parameter]:
    return [each for each in model.parameters() if each.requires_grad]


def assert_views(model: Module, parts: list[Parameter]) -> None:
    """Assert that parameters and gradients are consecutive views of the tensor of ``parts``."""
    offset, first = 0, parts[0]
    for parameter in trained(model):
        for view, whole in ((parameter.data, first.data), (parameter.grad, first.grad)):
            assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
            assert view.storage_offset() == offset
            if view.dim() == 4:
                assert view.is_contiguous(memory_format=torch.channels_last)
            else:
                assert view.is_contiguous()
        offset += parameter.numel()
    for part, start in zip(parts, range(0, offset, flat_parameters.PART_SIZE), strict=True):
        for view, whole in ((part.data, first.data), (part.grad, first.grad)):
            assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
            assert view.storage_offset() == start
    assert sum(part.numel() for part in parts) == offset


@pytest.mark.parametrize("overrides", MODELS)
def test_parameters_and_gradients_are_views_and_keep_their_values(overrides):
    expected = make_model(*overrides).state_dict()
    model = make_model(*overrides)
    parts = flatten_parameters(model)
    assert_views(model, parts)
    assert same_weights(model.state_dict(), expected)
    assert all(part.grad.count_nonzero() == 0 for part in parts)
    assert len(trained(model)) == len(trained(make_model(*overrides)))


@pytest.mark.parametrize("overrides", MODELS)
def test_a_backward_pass_writes_into_the_flat_gradient(overrides):
    model, plain = make_model(*overrides), make_model(*overrides)
    parts = flatten_parameters(model)
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    for each in (model, plain):
        torch.manual_seed(1)
        torch.nn.functional.cross_entropy(each(images), labels).backward()
    assert_views(model, parts)
    for actual, expected in zip(trained(model), trained(plain), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-5, atol=1e-6)
    zero_gradients(build_optimizer(settings().optimizer, parts))
    assert_views(model, parts)
    assert all(parameter.grad.count_nonzero() == 0 for parameter in trained(model))


@pytest.mark.parametrize("overrides", MODELS)
def test_loading_weights_keeps_the_views(overrides):
    model = make_model(*overrides)
    parts = flatten_parameters(model)
    other = make_model(*overrides)
    for parameter in trained(other):
        parameter.data.normal_()
    model.load_state_dict(other.state_dict())
    assert_views(model, parts)
    assert same_weights(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("overrides", MODELS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_separate_parameters(name, overrides):
    optimizer_settings = settings(f"optimizer={name}").optimizer
    model, plain = make_model(*overrides), make_model(*overrides)
    parts = flatten_parameters(model)
    optimizer = build_optimizer(optimizer_settings, parts)
    arguments = vars(optimizer_settings) | {"foreach": False}
    plain_optimizer = OPTIMIZERS[arguments.pop("name")](trained(plain), **arguments)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        for parameter, other in zip(trained(model), trained(plain), strict=True):
            other.grad = torch.empty_like(other).normal_(generator=generator)
            parameter.grad.copy_(other.grad)
        optimizer.step()
        plain_optimizer.step()
    assert_views(model, parts)
    # fused implementations round the last elements of each tensor, less than a vector, differently
    tolerance = 1e-6 if optimizer.defaults.get("fused") else 0
    for actual, expected in zip(trained(model), trained(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
