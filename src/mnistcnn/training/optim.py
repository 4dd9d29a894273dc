"""Build torch's losses, optimizers and learning-rate schedulers by name."""

import math
from dataclasses import asdict

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

from mnistcnn.config.schema import (
    CosineSettings,
    NoneSettings,
    OneCycleSettings,
    OptimizerSettings,
    SchedulerSettings,
    StepSettings,
)
from mnistcnn.system.errors import UsageError
from mnistcnn.system.startup import without_dynamo_wrappers

# Functions of logits (N, 10) and labels (N,). nll_loss expects log-probabilities; applied to
# logits, as in the report's code, it has no lower bound.
LOSSES = {"cross_entropy": cross_entropy, "nll_of_logits": nll_loss}

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adadelta": Adadelta,
    "adam": Adam,
    "adamax": Adamax,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}


def build_optimizer(settings: OptimizerSettings, parameters: list[Parameter]) -> Optimizer:
    """Return torch's optimizer with these settings as arguments, in its fastest implementation.

    ``parameters`` are those of a model, from :func:`flatten_parameters`.
    """
    arguments = asdict(settings)
    optimizer_class: type = OPTIMIZERS[arguments.pop("name")]
    if optimizer_class in (Adam, AdamW, SGD):
        arguments["fused"] = True  # one operation for the whole update
    else:
        # on a CPU, and for a single part, foreach is slower
        arguments["foreach"] = len(parameters) > 1 and parameters[0].is_cuda
    return without_dynamo_wrappers(optimizer_class)(parameters, **arguments)


def check_steps(settings: SchedulerSettings, steps: int) -> None:
    """Check that a run of ``steps`` optimizer steps is long enough for its scheduler.

    Raises UsageError if the warm-up of ``onecycle`` is shorter than two steps.
    """
    if isinstance(settings, OneCycleSettings) and settings.warmup * steps < 2:
        raise UsageError(
            f"scheduler.warmup={settings.warmup} needs a run of at least "
            f"{math.ceil(2 / settings.warmup)} steps, and this one has {steps}: choose more "
            "epochs, a smaller batch_size or a larger scheduler.warmup"
        )


def build_scheduler(
    settings: SchedulerSettings, optimizer: Optimizer, epochs: int, steps_per_epoch: int
) -> LRScheduler:
    """Return torch's scheduler for ``epochs * steps_per_epoch`` steps, one after each batch.

    The optimizer's ``lr`` is the first rate of ``step`` and ``cosine`` and the peak of
    ``onecycle``. Raises UsageError as :func:`check_steps` does.
    """
    steps = epochs * steps_per_epoch
    check_steps(settings, steps)
    lr = optimizer.param_groups[0]["lr"]
    match settings:
        case StepSettings():
            return StepLR(optimizer, settings.epochs * steps_per_epoch, settings.gamma)
        case NoneSettings():
            return ConstantLR(optimizer, factor=1.0, total_iters=0)
        case CosineSettings():
            return CosineAnnealingLR(optimizer, steps, settings.final * lr)
        case OneCycleSettings():
            return OneCycleLR(
                optimizer,
                lr,
                total_steps=steps,
                pct_start=settings.warmup,
                cycle_momentum=False,  # not every optimizer has a momentum
            )
