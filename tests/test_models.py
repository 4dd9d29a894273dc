"""Models: parameter counts computed by hand, output shapes, features and normalisation."""

from dataclasses import asdict

import pytest
import torch

from mnistcnn.config.schema import GROUP_SCHEMAS
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.layer_summary import layer_summary
from mnistcnn.models.registry import BUILDERS, create_model, create_model_from_dict

from .conftest import settings


def create(*overrides: str) -> Classifier:
    torch.manual_seed(0)
    return create_model(settings(*overrides).model)


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + bias * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def test_every_model_in_the_schema_has_a_builder():
    assert BUILDERS.keys() == GROUP_SCHEMAS["model"].keys()


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["model=convnet"], 14_178),
        (["model.channels=[32,32]", "model.padding=2"], 141_354),
        (["model=custom"], 65_828_136),
        (["model=fcnet"], 15_910),
    ],
)
def test_parameter_counts_of_the_report(overrides, count):
    assert create(*overrides).parameter_count() == count


def test_parameter_count_of_vgg16():
    channels = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(conv(i, o) for i, o in zip([1, *channels], channels, strict=False))
    assert len(channels) == 13
    # five poolings of the padded 32 x 32 image leave one pixel with 512 channels
    hidden = linear(512, 4096) + linear(4096, 4096) + linear(4096, 10)
    assert create("model=vgg16").parameter_count() == convolutions + hidden


def test_parameter_count_of_resnet50():
    def batch_norm(channels: int) -> int:
        return 2 * channels

    count = conv(1, 64, 7, bias=False) + batch_norm(64)
    inputs = 64
    for inner, blocks in zip([64, 128, 256, 512], [3, 4, 6, 3], strict=True):
        outputs = 4 * inner
        for block in range(blocks):
            count += conv(inputs, inner, 1, bias=False) + batch_norm(inner)
            count += conv(inner, inner, 3, bias=False) + batch_norm(inner)
            count += conv(inner, outputs, 1, bias=False) + batch_norm(outputs)
            if block == 0:
                count += conv(inputs, outputs, 1, bias=False) + batch_norm(outputs)
            inputs = outputs
    assert create("model=resnet50").parameter_count() == count + linear(2048, 10)


def test_width_scales_the_custom_network():
    c1, c3, hidden = 32, 257, 1024  # a quarter of 128, 1028 and 4096
    expected = conv(1, c1) + 3 * conv(c1, c1) + conv(c1, c3) + conv(c3, c3)
    expected += 4 * 2 * c1 + 2 * 2 * c3  # batch normalisation
    expected += linear(c3 * 9, hidden) + linear(hidden, hidden)
    assert create("model=custom", "model.width=0.25").parameter_count() == expected


@pytest.mark.parametrize(
    ("overrides", "features"),
    [
        (["model=convnet"], 64),
        (["model.channels=[32,64,32]"], 64),
        (["model.stride=2"], 64),
        (["model.padding=2", "model.batch_norm=before_relu"], 64),
        (["model=custom", "model.width=0.05"], 205),
        (["model=vgg16", "model.width=0.1"], 410),
        (["model=resnet50", "model.layers=[1,1,1,1]", "model.width=0.25"], 2048),
        (["model=fcnet"], 20),
    ],
)
def test_features_and_logits(overrides, features):
    model = create(*overrides).eval()
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        penultimate, logits = model.features_and_logits(images)
        assert penultimate.shape == (3, features)
        assert logits.shape == (3, 10)
        # the features are the input of the last layer
        torch.testing.assert_close(model.head(penultimate)[:, :10], logits)
        torch.testing.assert_close(model(images), logits)


@pytest.mark.parametrize(
    ("position", "layers"),
    [
        ("none", ["Conv2d", "MaxPool2d", "ReLU", "Dropout2d"]),
        ("before_relu", ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU", "Dropout2d"]),
        ("after_relu", ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "Dropout2d"]),
    ],
)
def test_position_of_batch_normalisation(position, layers):
    modules = create(f"model.batch_norm={position}").body.modules()
    names = [type(module).__name__ for module in modules if not list(module.children())]
    assert names[: len(layers)] == layers


def test_stride_applies_to_the_first_convolution_only():
    modules = create("model.stride=2").modules()
    strides = [module.stride for module in modules if isinstance(module, torch.nn.Conv2d)]
    assert strides == [(2, 2), (1, 1)]


def test_model_normalises_its_images():
    model = create("model=fcnet").eval()
    images = torch.rand(5, 1, 28, 28)
    expected = model((images - 0.25) / 0.5)
    model.set_normalization(0.25, 0.5)
    torch.testing.assert_close(model(images), expected)


def test_unused_outputs_are_stored_but_not_computed():
    model = create("model=custom", "model.width=0.02")
    assert model(torch.rand(4, 1, 28, 28)).shape == (4, 10)
    unused = linear(82, 72)  # 2% of 4096 hidden units, and as many outputs
    assert model.parameter_count() - model.trained_parameter_count() == unused
    torch.nn.functional.cross_entropy(model(torch.rand(4, 1, 28, 28)), torch.arange(4)).backward()
    without_gradient = [name for name, each in model.named_parameters() if each.grad is None]
    assert without_gradient == ["head.unused.weight", "head.unused.bias"]


@pytest.mark.parametrize("width", [0.1, 0.5])
def test_initial_vgg16_distinguishes_images(width):
    """With PyTorch's default initialisation all images would get the same logits."""
    model = create("model=vgg16", f"model.width={width}").eval()
    logits = model(torch.rand(16, 1, 28, 28).round())
    assert 0.05 < logits.std(dim=0).mean() < 5


def test_create_model_from_dict():
    model_settings = settings("model=convnet", "model.channels=[4,5]").model
    model = create_model_from_dict(asdict(model_settings))
    assert str(model) == str(create_model(model_settings))


def test_layer_summary_counts_parameters_and_uses_no_random_numbers():
    model = create("model=convnet")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    text = layer_summary(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "Total params: 14,178" in text and "Conv2d" in text


def test_layer_summary_shows_the_uncropped_image():
    model = create("model=convnet")
    crop_size = model.crop_size
    text = layer_summary(model)
    assert "[1, 8, 26, 26]" in text  # the first convolution of 28 x 28 pixels, without padding
    assert model.crop_size == crop_size < 28
