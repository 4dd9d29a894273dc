"""Make batches of images for training and evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.augment import augment_batch, has_effect, sample_parameters
from mnistcnn.data.images import Images
from mnistcnn.system.random_streams import Stream, torch_generator

Batches = Iterator[
    tuple[Tensor, Tensor]
]  # images (N, 1, 28, 28) float32 in [0, 1], labels (N,) int64

# A constant, not a setting: the batch size affects the last digits of every score, which must not
# depend on the command that evaluates the model.
EVALUATION_BATCH_SIZE = 1000


def to_float(pixels: Tensor) -> Tensor:
    """Convert (N, 28, 28) uint8 to (N, 1, 28, 28) float32 in [0, 1]."""
    return pixels.unsqueeze(1).float().div_(255)


def pass_order(seed: int, pass_number: int, count: int) -> Tensor:
    """Return the order of ``count`` images in a pass (from 1): a permutation, int64, CPU."""
    return torch.randperm(count, generator=torch_generator(seed, Stream.ORDER, pass_number))


def batch_slices(count: int, batch_size: int) -> Iterator[slice]:
    """Yield consecutive slices of ``batch_size`` that cover ``count`` samples; the last may differ.

    A single remaining sample joins the preceding batch: batch normalisation cannot train on one.
    """
    start = 0
    while start < count:
        stop = start + batch_size
        if stop >= count - 1 and batch_size > 1:
            stop = count
        yield slice(start, stop)
        start = stop


def evaluation_batches(images: Images) -> Batches:
    """Yield all images in their original order, as model input, with their labels."""
    for part in batch_slices(len(images), EVALUATION_BATCH_SIZE):
        batch = images[part]
        yield to_float(batch.pixels), batch.labels


def steps_per_pass(settings: TrainSettings, count: int) -> int:
    """Return the number of batches in one pass over ``count`` images."""
    return len(list(batch_slices(count, settings.batch_size)))


def steps_per_epoch(settings: TrainSettings, count: int) -> int:
    """Return the optimizer steps per epoch.

    An epoch is one pass over ``count`` images, or ``steps / epochs`` steps if ``steps`` is set.
    """
    if settings.steps is None:
        return steps_per_pass(settings, count)
    return settings.steps // settings.epochs


def training_batches(images: Images, settings: TrainSettings, epoch: int, skip: int = 0) -> Batches:
    """Yield the shuffled, augmented batches of an epoch (from 1), except the first ``skip``.

    The batches depend only on the images, the settings and the epoch. If ``steps`` is set, an
    epoch starts where the previous one ended, and may cover part of a pass over the images or
    several passes.
    """
    device, count, augments = images.labels.device, len(images), has_effect(settings.aug)
    slices = list(batch_slices(count, settings.batch_size))
    epoch_steps = steps_per_epoch(settings, count)
    first_step = (epoch - 1) * epoch_steps + skip  # since the start of training
    for step in range(first_step, epoch * epoch_steps):
        completed_passes, position = divmod(step, len(slices))
        if step == first_step or position == 0:
            pass_number = completed_passes + 1
            order = pass_order(settings.seed, pass_number, count).to(device)
            if augments:
                generator = torch_generator(settings.seed, Stream.AUGMENT, pass_number)
                parameters = sample_parameters(settings.aug, count, generator).to(device)
        part = slices[position]
        batch = images.take(order[part])
        inputs = to_float(batch.pixels)
        if augments:
            inputs = augment_batch(inputs, parameters[part], settings.aug)
        yield inputs, batch.labels
