"""Losses, optimizers and learning-rate schedules by name: torch's own."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from torch.nn import Parameter
from torch.nn.functional import cross_entropy, nll_loss
from torch.optim import SGD, Adadelta, Adam, Adamax, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    StepLR,
)

from mnistcnn.errors import SettingError
from mnistcnn.settings import choice, number
from mnistcnn.startup import eager

# What is minimised, from logits (N, 10) and labels (N,). The second wants log-probabilities: on
# logits, as the report had it, it has no lower bound.
LOSSES = {"cross_entropy": cross_entropy, "nll_of_logits": nll_loss}

# Optimizers: the fields of each dataclass are the arguments of torch's class ---------------------


@dataclass
class AdadeltaSettings:
    name: str = choice("adadelta")
    lr: float = number(0, 1_000_000, above=True)
    rho: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class AdamSettings:
    """Of Adam and its relatives."""

    name: str = choice("adam", "adamax", "adamw")
    lr: float = number(0, 1_000_000, above=True)
    betas: list[float] = number(0, 0.999999)
    weight_decay: float = number(0, 1_000_000)

    def problems(self):
        if len(self.betas) != 2:
            yield "betas", "a list of two numbers"


@dataclass
class SgdSettings:
    name: str = choice("sgd")
    lr: float = number(0, 1_000_000, above=True)
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


@dataclass
class RmspropSettings:
    name: str = choice("rmsprop")
    lr: float = number(0, 1_000_000, above=True)
    alpha: float = number(0, 1)  # smoothing
    momentum: float = number(0, 1)
    weight_decay: float = number(0, 1_000_000)


OPTIMIZERS = {
    "adadelta": (AdadeltaSettings, Adadelta),
    "adam": (AdamSettings, Adam),
    "adamax": (AdamSettings, Adamax),
    "adamw": (AdamSettings, AdamW),
    "rmsprop": (RmspropSettings, RMSprop),
    "sgd": (SgdSettings, SGD),
}
OptimizerSettings = AdadeltaSettings | AdamSettings | SgdSettings | RmspropSettings


def optimizer(settings: OptimizerSettings, parameters: Iterable[Parameter]) -> Optimizer:
    arguments = asdict(settings)
    _, optimizer_class = OPTIMIZERS[arguments.pop("name")]
    # one kernel for the whole update where torch has it, else one for all tensors at a time
    way = "fused" if optimizer_class in (Adam, AdamW, SGD) else "foreach"
    return eager(optimizer_class)(parameters, **arguments, **{way: True})


# Schedules: all of them take one step per batch --------------------------------------------------


@dataclass
class StepSettings:
    name: str = choice("step")
    gamma: float = number(0, 1, above=True)
    epochs: int = number(1)  # between one reduction and the next


@dataclass
class NoneSettings:
    name: str = choice("none")


@dataclass
class CosineSettings:
    name: str = choice("cosine")
    final: float = number(0, 1)  # the last learning rate as a part of the first


@dataclass
class OneCycleSettings:
    name: str = choice("onecycle")
    warmup: float = number(0, 0.99, above=True)  # part of the run in which the rate rises


SCHEDULES = {
    "step": StepSettings,
    "none": NoneSettings,
    "cosine": CosineSettings,
    "onecycle": OneCycleSettings,
}
ScheduleSettings = StepSettings | NoneSettings | CosineSettings | OneCycleSettings


def schedule(
    settings: ScheduleSettings, optimizer: Optimizer, epochs: int, steps_per_epoch: int
) -> LRScheduler:
    """The schedule of a run of ``epochs * steps_per_epoch`` batches, stepped after each batch.

    The optimizer's ``lr`` is the first rate of ``step`` and ``cosine`` and the peak of
    ``onecycle``.

    Raises SettingError for a ``onecycle`` whose warm-up is shorter than two steps.
    """
    steps = epochs * steps_per_epoch
    match settings:
        case StepSettings():
            return StepLR(optimizer, settings.epochs * steps_per_epoch, settings.gamma)
        case NoneSettings():
            return ConstantLR(optimizer, factor=1.0, total_iters=0)
        case CosineSettings():
            lowest = settings.final * optimizer.param_groups[0]["lr"]
            return CosineAnnealingLR(optimizer, steps, lowest)
        case OneCycleSettings():
            if settings.warmup * steps < 2:
                allowed = f"at least {2 / steps:.3g} here: two of the run's {steps} steps"
                raise SettingError("scheduler.warmup", settings.warmup, allowed)
            peak = optimizer.param_groups[0]["lr"]
            return OneCycleLR(
                optimizer, peak, total_steps=steps, pct_start=settings.warmup,
                cycle_momentum=False,  # not every optimizer has a momentum to cycle
            )  # fmt: skip
