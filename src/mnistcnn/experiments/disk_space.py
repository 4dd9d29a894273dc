"""Estimate the disk space of a sweep before it starts."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Parameter

from mnistcnn.config.schema import ModelSettings, OptimizerSettings, TrainSettings
from mnistcnn.models.registry import LARGE_NETWORK, create_meta_model
from mnistcnn.training.optim import build_optimizer

log = logging.getLogger(__name__)

# Bytes, measured for the default network.
BEST_OVERHEAD = 3_400  # of best.pt: everything except the weights
LAST_OVERHEAD = 10_000  # of last.pt: everything except the weights and the optimizer's state
OTHER_FILES = 1_000_000  # predictions, pictures and logs: 0.8 MB with all of MNIST

MIN_FRACTION = 0.1  # of the free space that is worth a line


@dataclass(frozen=True)
class CheckpointSizes:
    """Sizes of a run's checkpoints in bytes; ``next_best`` exists while a large one is saved."""

    best: int
    last: int
    next_best: int


def log_disk_space(directory: Path, jobs: Sequence[TrainSettings], concurrent: int) -> None:
    """Log the disk space of ``jobs`` if it is more than MIN_FRACTION of the free space.

    ``directory`` is that of the sweep. The jobs are those that are not complete yet; up to
    ``concurrent`` of them run at the same time. If the space does not suffice, the line is a
    warning.
    """
    free = shutil.disk_usage(directory).free
    size = sweep_size(jobs, concurrent)
    if size <= MIN_FRACTION * free:
        return
    line = f"this sweep takes about {_format_size(size)}"
    if size > free:
        line += f", more than the {_format_size(free)} free in {directory}"
    else:
        line += f" of the {_format_size(free)} free in {directory}"
    smaller = sweep_size(jobs, concurrent, keep_last=False)
    if smaller < size and all(job.select == "best" for job in jobs):
        line += f"; with checkpoint.keep_last=false it takes {_format_size(smaller)}"
    log.log(logging.WARNING if size > free else logging.INFO, "%s", line)


def sweep_size(jobs: Sequence[TrainSettings], concurrent: int, keep_last: bool = True) -> int:
    """Return the largest disk space, in bytes, that ``jobs`` take at any time.

    If ``keep_last`` is false, no job keeps ``last.pt``, whatever its settings.
    """
    sizes: dict[str, CheckpointSizes] = {}  # the jobs of a sweep have few different networks
    total, temporary = 0, []
    for job in jobs:
        key = repr((job.model, job.optimizer))
        if key not in sizes:
            sizes[key] = checkpoint_sizes(job.model, job.optimizer)
        kept = keep_last and job.checkpoint.keep_last
        total += sizes[key].best + OTHER_FILES + kept * sizes[key].last
        # a running job has last.pt in any case, and a second copy while it writes it
        temporary.append((1 if kept else 2) * sizes[key].last + sizes[key].next_best)
    return total + sum(sorted(temporary)[-concurrent:])


def checkpoint_sizes(model: ModelSettings, optimizer: OptimizerSettings) -> CheckpointSizes:
    """Return the sizes of the checkpoints of a network without allocating its weights."""
    network = create_meta_model(model)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    trained = network.trained_parameter_count()
    best, last = weights + BEST_OVERHEAD, weights + LAST_OVERHEAD
    return CheckpointSizes(
        best,
        last + _optimizer_state_size(optimizer) * trained,
        next_best=best if trained >= LARGE_NETWORK else 0,
    )


def _optimizer_state_size(settings: OptimizerSettings) -> int:
    """Return the bytes of optimizer state per parameter of a network.

    It is measured after a step with a tensor of two parameters: the fused optimizers do not work
    on the meta device.
    """
    parameter = Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    optimizer = build_optimizer(settings, [parameter])
    optimizer.step()
    state = optimizer.state[parameter].values()
    return sum(tensor.element_size() for tensor in state if tensor.numel() == 2)


def _format_size(size: float) -> str:
    """Format bytes: ``850 MB`` or ``12.3 GB``."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
