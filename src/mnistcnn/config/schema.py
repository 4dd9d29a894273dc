"""Declare the settings of a run: types and constraints, in the order of ``conf/train.yaml``.

The values, with a comment on each, are in ``conf/``.
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
COMPILE_MODES = ("auto", "none", "default", "reduce-overhead", "max-autotune")

# data --------------------------------------------------------------------------------------------


@dataclass
class MnistSettings:
    name: str = choice("mnist")
    dir: str
    mirrors: list[str]
    fraction: float = number(0, 1, exclude_low=True)
    validation: float = number(0, 0.9, exclude_low=True)

    def __post_init__(self) -> None:
        if not self.dir:  # an environment variable that is set but empty
            raise SettingError("data.dir", "''", "the name of a directory")
        # absolute: a checkpoint that stores it may be evaluated in another working directory
        self.dir = os.path.abspath(os.path.expanduser(self.dir))


@dataclass
class Mnist5kSettings:
    name: str = choice("mnist5k")
    fraction: float = number(0, 1, exclude_low=True)
    validation: float = number(0, 0.9, exclude_low=True)


# aug ---------------------------------------------------------------------------------------------


@dataclass
class AugmentSettings:
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
        for name in ("scale", "brightness", "blur_sigma"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                yield name, "a list of two numbers, the smaller first"
        if self.blur_kernel % 2 == 0:
            yield "blur_kernel", "an odd number"


# optimizer: the fields are the arguments of torch's class ----------------------------------------


@dataclass
class AdadeltaSettings:
    name: str = choice("adadelta")
    lr: float = number(0, 1_000_000, exclude_low=True)
    rho: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class AdamSettings:
    name: str = choice("adam", "adamax", "adamw")
    lr: float = number(0, 1_000_000, exclude_low=True)
    betas: list[float] = number(0, 0.999999)
    weight_decay: float = number(0, 1_000_000)

    def problems(self) -> Problems:
        if len(self.betas) != 2:
            yield "betas", "a list of two numbers"


@dataclass
class SgdSettings:
    name: str = choice("sgd")
    lr: float = number(0, 1_000_000, exclude_low=True)
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class RmspropSettings:
    name: str = choice("rmsprop")
    lr: float = number(0, 1_000_000, exclude_low=True)
    alpha: float = number(0, 1)  # smoothing
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


OptimizerSettings = AdadeltaSettings | AdamSettings | SgdSettings | RmspropSettings


# scheduler ---------------------------------------------------------------------------------------


@dataclass
class StepSettings:
    name: str = choice("step")
    gamma: float = number(0, 1, exclude_low=True)
    epochs: int = number(1)  # between two reductions


@dataclass
class NoneSettings:
    name: str = choice("none")


@dataclass
class CosineSettings:
    name: str = choice("cosine")
    final: float = number(0, 1)  # the last learning rate, as a fraction of the first


@dataclass
class OneCycleSettings:
    name: str = choice("onecycle")
    warmup: float = number(0, 0.99, exclude_low=True)  # fraction of the run with a rising rate


SchedulerSettings = StepSettings | NoneSettings | CosineSettings | OneCycleSettings


# model -------------------------------------------------------------------------------------------


@dataclass
class ConvNetSettings:
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
        if self.output_size() < 1:
            yield (
                "channels",
                f"a shorter list: {len(self.channels)} blocks leave nothing of a "
                f"{IMAGE_SIZE}-pixel image with padding={self.padding} and stride={self.stride}",
            )


@dataclass
class CustomSettings:
    name: str = choice("custom")
    width: float = number(0, 4, exclude_low=True)  # scales channels, hidden and outputs
    channels: list[int] = number(1, 65_536)  # one element per block
    hidden: int = number(1, 65_536)
    outputs: int = number(NUM_CLASSES, 65_536)
    dropout: float = number(0, 0.99)

    def problems(self) -> Problems:
        if IMAGE_SIZE >> len(self.channels) < 1:
            yield "channels", f"a list of at most 4: each block halves a {IMAGE_SIZE}-pixel image"


@dataclass
class Vgg16Settings:
    name: str = choice("vgg16")
    width: float = number(0, 4, exclude_low=True)  # scales channels and hidden
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


@dataclass
class ResNet50Settings:
    name: str = choice("resnet50")
    layers: list[int] = number(1, 64)  # bottleneck blocks in each of the four stages
    width: float = number(0, 4, exclude_low=True)  # scales the 3x3 convolutions (wide ResNet)

    def problems(self) -> Problems:
        if len(self.layers) != 4:
            yield "layers", "a list of four numbers"


@dataclass
class FcNetSettings:
    name: str = choice("fcnet")
    hidden: int = number(1, 65_536)
    dropout: float = number(0, 0.99)


ModelSettings = ConvNetSettings | CustomSettings | Vgg16Settings | ResNet50Settings | FcNetSettings


# artifacts ---------------------------------------------------------------------------------------


@dataclass
class TsneSettings:
    samples: int = number(10, 10_000)  # random test images; all if there are fewer
    of: str = choice("features", "pixels")
    perplexity: float = number(1, 1000)


@dataclass
class NeighbourSettings:
    targets: int = number(1, 20)  # random test images
    k: int = number(1, 50)


# the commands ------------------------------------------------------------------------------------


@dataclass
class EarlyStoppingSettings:
    patience: int | None = number(1)  # epochs


@dataclass
class CheckpointSettings:
    minutes: float = number(0)  # between two checkpoints within an epoch


@dataclass
class TrainSettings:
    """All settings of a run. GROUP_SCHEMAS has the types of the fields declared as Any."""

    data: Any
    aug: AugmentSettings
    optimizer: Any
    scheduler: Any
    model: Any
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
    select: str = choice("best", "last")

    def problems(self) -> Problems:
        if self.batch_size == 1 and isinstance(self.model, ResNet50Settings):
            yield "batch_size", "at least 2 for resnet50, because of its batch normalisation"
        if self.steps is not None and self.steps % self.epochs:
            lower = self.steps - self.steps % self.epochs
            nearest = [steps for steps in (lower, lower + self.epochs) if steps]
            suggested = " or ".join(map(str, nearest))
            yield "steps", f"a multiple of epochs={self.epochs}, for example {suggested}"


@dataclass
class SourceSettings:
    """The directory of the MNIST files, if not the one used for training."""

    dir: str | None


@dataclass
class EvaluateSettings:
    ckpt: str
    data: SourceSettings
    device: str
    tsne: TsneSettings
    neighbours: NeighbourSettings
    precision: str | None = choice(*PRECISIONS)


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
