"""The networks: parameter counts from first principles, shapes, features, normalisation."""

import pytest
import torch

from mnistcnn import models

from .conftest import settings


def built(*overrides: str) -> models.Classifier:
    torch.manual_seed(0)
    return models.build(settings(*overrides).model)


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + bias * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["model=convnet"], 14_178),
        (["model.channels=[32,32]", "model.padding=2"], 141_354),
        (["model=custom"], 65_828_136),
        (["model=fcnet"], 15_910),
    ],
)
def test_the_reports_parameter_counts(overrides, count):
    assert built(*overrides).parameter_count() == count


def test_vgg16_has_the_parameters_of_its_layers():
    plan = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(conv(i, o) for i, o in zip([1, *plan], plan, strict=False))
    assert len(plan) == 13
    # five halvings of the padded 32 x 32 image leave one pixel of 512 channels
    hidden = linear(512, 4096) + linear(4096, 4096) + linear(4096, 10)
    assert built("model=vgg16").parameter_count() == convolutions + hidden


def test_resnet50_has_the_parameters_of_its_layers():
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
    assert built("model=resnet50").parameter_count() == count + linear(2048, 10)


def test_width_scales_the_custom_network():
    c1, c3, hidden = 32, 257, 1024  # a quarter of 128, 1028 and 4096
    expected = conv(1, c1) + 3 * conv(c1, c1) + conv(c1, c3) + conv(c3, c3)
    expected += 4 * 2 * c1 + 2 * 2 * c3  # batch normalisation
    expected += linear(c3 * 9, hidden) + linear(hidden, hidden)
    assert built("model=custom", "model.width=0.25").parameter_count() == expected


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
    network = built(*overrides).eval()
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        penultimate, logits = network.features_and_logits(images)
        assert penultimate.shape == (3, features)
        assert logits.shape == (3, 10)
        # the features are what the last layer sees
        torch.testing.assert_close(network.head(penultimate)[:, :10], logits)
        torch.testing.assert_close(network(images), logits)


@pytest.mark.parametrize(
    ("order", "kinds"),
    [
        ("none", ["Conv2d", "MaxPool2d", "ReLU", "Dropout2d"]),
        ("before_relu", ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU", "Dropout2d"]),
        ("after_relu", ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "Dropout2d"]),
    ],
)
def test_the_order_of_batch_normalisation(order, kinds):
    body = built(f"model.batch_norm={order}").body
    assert [type(layer).__name__ for layer in body][: len(kinds)] == kinds


def test_only_the_first_convolution_strides():
    strides = [m.stride for m in built("model.stride=2").modules() if hasattr(m, "stride")
               and isinstance(m, torch.nn.Conv2d)]  # fmt: skip
    assert strides == [(2, 2), (1, 1)]


def test_a_network_normalises_its_images():
    network = built("model=fcnet").eval()
    images = torch.rand(5, 1, 28, 28)
    plain = network((images - 0.25) / 0.5)
    network.normalise_by(0.25, 0.5)
    torch.testing.assert_close(network(images), plain)


def test_outputs_beyond_the_digits_are_never_trained():
    network = built("model=custom", "model.width=0.02")
    torch.nn.functional.cross_entropy(network(torch.rand(4, 1, 28, 28)), torch.arange(4)).backward()
    trained = network.head.weight.grad.abs().sum(dim=1) > 0
    assert trained.tolist() == [True] * 10 + [False] * 72  # 2% of 4096 outputs


@pytest.mark.parametrize("width", [0.1, 0.5])
def test_vgg16_starts_with_a_signal(width):
    """With PyTorch's default initialisation all images would get the same scores."""
    network = built("model=vgg16", f"model.width={width}").eval()
    logits = network(torch.rand(16, 1, 28, 28).round())
    assert 0.05 < logits.std(dim=0).mean() < 5


def test_from_dict_rebuilds():
    one = settings("model=convnet", "model.channels=[4,5]").model
    assert str(models.from_dict(models.to_dict(one))) == str(models.build(one))


def test_summary_counts_and_draws_nothing():
    network = built("model=convnet")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    text = models.summary(network)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "Total params: 14,178" in text and "Conv2d" in text
