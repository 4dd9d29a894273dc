"""The networks, the table that names them, and the features before their last layer."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mnistcnn import DIGITS, SIDE
from mnistcnn.settings import check, choice, number


class Classifier(nn.Module):
    """A network of two parts: a body that makes features, a linear head that scores the digits.

    Takes images (N, 1, 28, 28) float32 in [0, 1] and normalises them itself, with the mean and
    standard deviation of the images it was trained on, which travel with its weights. Of the
    images, the body is given the first ``seen`` rows and columns, which are all that matters to it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, head: nn.Linear, seen: int = SIDE):
        super().__init__()
        self.body = body
        self.head = head
        self.seen = seen
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def normalise_by(self, mean: float, std: float) -> None:
        """Set the pixel statistics of the training images, in units of [0, 1]."""
        self.mean.fill_(mean)
        self.std.fill_(std)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Penultimate features (N, F) and unnormalised log-probabilities (N, 10)."""
        images = images[:, :, : self.seen, : self.seen]
        features = self.body((images - self.mean) / self.std)
        # A head may have more outputs than there are digits (the report's custom network has
        # 4096); the first ten are the digits, and the others are never asked.
        return features, self.head(features)[:, :DIGITS]

    def forward(self, images: Tensor) -> Tensor:
        return self.features_and_logits(images)[1]

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


# The report's default ConvNet -------------------------------------------------------------------


@dataclass
class ConvNetSettings:
    name: str = choice("convnet")
    channels: list[int] = number(1, 4096)  # of each block: as many blocks as elements
    padding: int = number(0, 8)
    stride: int = number(1, 4)  # of the first convolution
    batch_norm: str = choice("none", "before_relu", "after_relu")
    dropout: float = number(0, 0.99)  # of whole channels
    hidden: int = number(1, 65_536)

    def side(self) -> int:
        """Height and width, in pixels, of what the last block gives; 0 or less: nothing."""
        side, stride = SIDE, self.stride
        for _ in self.channels:
            side = ((side + 2 * self.padding - 3) // stride + 1) // 2
            stride = 1
        return side

    def seen(self) -> int:
        """Height and width, in pixels, of the part of an image that the last block depends on.

        Max-pooling leaves out the last row and column of an odd number, and what only they depend
        on need not be computed: 26 pixels are enough for the default, and more than 22 are lost on
        three blocks. Not so where a batch is normalised, over all that there is, or with padding.
        """
        if self.padding or self.batch_norm != "none":
            return SIDE
        side = self.side()
        for stride in [*[1] * (len(self.channels) - 1), self.stride]:  # from the last block back
            side = (2 * side - 1) * stride + 3
        return side

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.side() < 1:
            yield (
                "channels",
                f"shorter: {len(self.channels)} blocks leave nothing of a {SIDE}-pixel image "
                f"with padding={self.padding} and stride={self.stride}",
            )


def convnet(settings: ConvNetSettings) -> Classifier:
    """Blocks of convolution, ReLU, max-pooling and Dropout2d, then a hidden linear layer.

    ReLU never changes which of the pixels in a window is the largest: where nothing stands between
    the two, pooling comes first and leaves it a quarter of the work. The numbers are the same.
    """
    layers: list[nn.Module] = []
    stride = settings.stride
    for inputs, outputs in pairwise([1, *settings.channels]):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=settings.padding))
        if settings.batch_norm == "before_relu":
            layers.append(nn.BatchNorm2d(outputs))
        if settings.batch_norm == "after_relu":
            layers += [nn.ReLU(inplace=True), nn.BatchNorm2d(outputs), nn.MaxPool2d(2)]
        else:
            layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        layers.append(nn.Dropout2d(settings.dropout))
        stride = 1
    flat = settings.channels[-1] * settings.side() ** 2
    layers += [nn.Flatten(), nn.Linear(flat, settings.hidden), nn.ReLU(inplace=True)]
    return Classifier(nn.Sequential(*layers), nn.Linear(settings.hidden, DIGITS), settings.seen())


# The report's custom network --------------------------------------------------------------------


@dataclass
class CustomSettings:
    name: str = choice("custom")
    width: float = number(0, 4, above=True)  # scales channels, hidden and outputs
    channels: list[int] = number(1, 65_536)  # of each block
    hidden: int = number(1, 65_536)
    outputs: int = number(DIGITS, 65_536)
    dropout: float = number(0, 0.99)

    def problems(self) -> Iterator[tuple[str, str]]:
        if SIDE >> len(self.channels) < 1:
            yield "channels", f"a list of at most 4: each block halves a {SIDE}-pixel image"


def _scaled(size: int, width: float, least: int = 1) -> int:
    return max(least, round(size * width))


def custom(settings: CustomSettings) -> Classifier:
    """VGG-like blocks of two convolutions each, batch-normalised, with one ReLU per block."""
    channels = [_scaled(size, settings.width) for size in settings.channels]
    hidden = _scaled(settings.hidden, settings.width)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([1, *channels]):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
        ]
    flat = channels[-1] * (SIDE >> len(channels)) ** 2
    layers += [nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(inplace=True)]
    return Classifier(
        nn.Sequential(*layers),
        nn.Linear(hidden, _scaled(settings.outputs, settings.width, least=DIGITS)),
    )


# The two known architectures, and the fully connected one ---------------------------------------


@dataclass
class Vgg16Settings:
    name: str = choice("vgg16")
    width: float = number(0, 4, above=True)  # scales channels and hidden
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


VGG16_BLOCKS = [[64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3]


def vgg16(settings: Vgg16Settings) -> Classifier:
    """VGG16 (configuration D of arXiv:1409.1556) for 28 x 28 pixels.

    The first convolution pads the image to 32 x 32, so that five poolings leave one pixel.
    All layers are initialised after He et al. (arXiv:1502.01852): with PyTorch's defaults, or with
    the small linear weights that suit VGG's 25,088 inputs, the signal of sixteen layers without
    batch normalisation dies out, and Adam at 0.001 stays at 10% for epochs.
    """
    layers: list[nn.Module] = []
    inputs, padding = 1, 3
    for block in VGG16_BLOCKS:
        for size in block:
            outputs = _scaled(size, settings.width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU(inplace=True)]
            inputs, padding = outputs, 1
        layers.append(nn.MaxPool2d(2))
    hidden = _scaled(settings.hidden, settings.width)
    layers.append(nn.Flatten())
    for size in (inputs, hidden):
        layers += [nn.Linear(size, hidden), nn.ReLU(inplace=True), nn.Dropout(settings.dropout)]
    classifier = Classifier(nn.Sequential(*layers), nn.Linear(hidden, DIGITS))
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return classifier


@dataclass
class ResNet50Settings:
    name: str = choice("resnet50")
    layers: list[int] = number(1, 64)  # bottleneck blocks in each of the four stages
    width: float = number(0, 4, above=True)  # scales the 3x3 convolutions, as a wide ResNet does

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.layers) != 4:
            yield "layers", "a list of four numbers"


def resnet50(settings: ResNet50Settings) -> Classifier:
    """torchvision's ResNet50 (arXiv:1512.03385, v1.5) with one input channel."""
    from torchvision.models.resnet import Bottleneck, ResNet  # seconds that few runs need

    body = ResNet(
        Bottleneck,
        settings.layers,
        num_classes=DIGITS,
        width_per_group=_scaled(64, settings.width),
    )
    body.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    head, body.fc = body.fc, nn.Identity()
    return Classifier(body, head)


@dataclass
class FcNetSettings:
    name: str = choice("fcnet")
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


def fcnet(settings: FcNetSettings) -> Classifier:
    """One hidden layer on the pixels."""
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, settings.hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(settings.dropout),
    )
    return Classifier(body, nn.Linear(settings.hidden, DIGITS))


MODELS = {
    "convnet": (ConvNetSettings, convnet),
    "custom": (CustomSettings, custom),
    "vgg16": (Vgg16Settings, vgg16),
    "resnet50": (ResNet50Settings, resnet50),
    "fcnet": (FcNetSettings, fcnet),
}
ModelSettings = ConvNetSettings | CustomSettings | Vgg16Settings | ResNet50Settings | FcNetSettings


def build(settings: ModelSettings) -> Classifier:
    """A freshly initialised network; its weights come from torch's global generator."""
    _, builder = MODELS[settings.name]
    return builder(settings)


def from_dict(values: dict) -> Classifier:
    """Rebuild the network that :func:`to_dict` described. Raises SettingError."""
    settings_class, _ = MODELS[values["name"]]
    settings = settings_class(**values)
    check(settings, "model.")
    return build(settings)


def to_dict(settings: ModelSettings) -> dict:
    """Plain values, as a checkpoint can hold them."""
    return asdict(settings)


def summary(network: Classifier) -> str:
    """A table of layers, output shapes and parameter counts."""
    from torchinfo import summary as torchinfo_summary

    # input_data and not input_size, which would draw from the global random generator
    image = torch.zeros(1, 1, SIDE, SIDE, device=network.mean.device)
    return str(torchinfo_summary(network, input_data=image, depth=4, verbose=0))
