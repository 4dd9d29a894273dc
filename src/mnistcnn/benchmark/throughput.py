"""Sections measured in this process: images per second of training and augmentation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.backends import cudnn
from torchvision.transforms import Compose

from mnistcnn.benchmark import baselines
from mnistcnn.benchmark.context import Context, Section
from mnistcnn.benchmark.timing import (
    Spread,
    alternate,
    format_number,
    ratios,
    spread,
    training_flop_per_sample,
)
from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.augment import augment_batch, sample_parameters
from mnistcnn.data.batches import batch_slices, to_float
from mnistcnn.system.random_streams import Stream, torch_generator
from mnistcnn.training.optim import LOSSES
from mnistcnn.training.trainer import build_model

MNISTCNN = "mnistcnn"
PLAIN = "plain PyTorch baseline"
LIGHTNING = "Lightning"


def training(context: Context) -> Section:
    """Measure the training of the default network, next to that of the baselines."""
    section = Section(["aug", "", "images/s", f"rate of {MNISTCNN} / this rate"])
    images, labels = torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    flop = training_flop_per_sample(baselines.build_network(), baselines.loss_fn, images, labels)
    for aug in ("none", "full"):
        measurements: dict[str, Callable[[], float]] = {
            MNISTCNN: partial(context.rate, context.train(f"aug={aug}")),
            **_baselines(context, augmented=aug == "full"),
            "compute bound": lambda: context.matrix_rate() / flop,
        }
        rates = alternate(measurements, context.rounds)
        for name, values in rates.items():
            factor = "" if name == MNISTCNN else ratios(rates[MNISTCNN], values)
            section.rows.append([aug, name, spread(values), factor])
    if not baselines.has_lightning():
        section.rows.append(["none", LIGHTNING, "not installed", ""])
    section.notes.append(
        f"Compute bound: the rate of the fastest matrix product, divided by {flop:,.0f} FLOP per "
        f"image ({MNISTCNN} crops the images, which saves a seventh)."
    )
    return section


def _baselines(context: Context, augmented: bool) -> dict[str, Callable[[], float]]:
    """Return the measurement of each baseline, without worker processes and with one per thread."""

    @cudnn.flags(enabled=True)  # torch's defaults instead of the settings of mnistcnn
    def measure_plain(workers: int) -> float:
        images = baselines.training_images(context.raw_files, augmented)
        loader = baselines.build_loader(images, workers, context.device)
        return context.rate(baselines.train(loader, context.device))

    @cudnn.flags(enabled=True)
    def measure_lightning(workers: int) -> float:
        meter = context.meter()

        def on_train_batch_end(
            trainer: Any, module: Any, outputs: Any, batch: list[Tensor], index: int
        ) -> None:
            trainer.should_stop = meter.add(len(batch[1]))

        baselines.train_with_lightning(
            context.raw_files, context.device, workers, on_train_batch_end=on_train_batch_end
        )
        return meter.rate

    measurements: dict[str, Callable[[], float]] = {}
    for workers in (0, torch.get_num_threads()):
        label = f"{workers} worker{'' if workers == 1 else 's'}"
        measurements[f"{PLAIN}, {label}"] = partial(measure_plain, workers)
        if baselines.has_lightning() and not augmented:
            measurements[f"{LIGHTNING}, {label}"] = partial(measure_lightning, workers)
    return measurements


def networks(context: Context) -> Section:
    """Measure the training of the large networks, as a percentage of the matrix product's rate."""
    section = Section(
        ["model", "MFLOP per image", "images/s", "GFLOP/s", "matrix product, GFLOP/s", "percent"],
        notes=["The percentage is that of the matrix product in the same round."],
    )
    for name in ("custom", "vgg16", "resnet50"):
        try:
            section.rows.append(_network_row(context, name))
        except torch.OutOfMemoryError:
            section.rows.append([name, "not measured: out of memory", *[""] * 4])
    return section


def _network_row(context: Context, name: str) -> list[str | Spread]:
    overrides = [f"model={name}", *(["batch_size=4"] if context.quick else [])]
    settings = context.settings(*overrides)
    few = context.splits.train[:2]
    flop = training_flop_per_sample(
        build_model(settings, context.splits),
        LOSSES[settings.loss],
        to_float(few.pixels),
        few.labels,
    )
    measurements: dict[str, Callable[[], float]] = {
        name: partial(context.rate, context.train(*overrides), warm_up=1),
        "matrix product": context.matrix_rate,
    }
    rates, product_rates = alternate(measurements, context.rounds).values()
    flops, product_flops = spread(rates, flop / 1e9), spread(product_rates, 1e-9)
    share = ratios(rates, product_rates, 100 * flop)
    return [name, format_number(flop / 1e6), spread(rates), flops, product_flops, share]


def augmentation(context: Context) -> Section:
    """Measure the augmentation of images without training."""
    section = Section(["", "images/s", "`aug=full` is faster by a factor of"])
    overrides = ("aug=full", "aug=prose", "aug=rotate45_flip")
    work = {text: _augment_batches(context, context.settings(text)) for text in overrides}
    work[f"full, {PLAIN}"] = _augment_pil_images(context)
    measurements = {name: partial(context.rate, batches) for name, batches in work.items()}
    rates = alternate(measurements, context.rounds)
    for name, values in rates.items():
        factor = ratios(rates["aug=full"], values) if PLAIN in name else ""
        section.rows.append([name, spread(values), factor])
    section.notes.append(
        f"{MNISTCNN}: from bytes to augmented floats in batches, with the sampling of parameters. "
        "Baseline: from PIL image to PIL image, one at a time, without the conversion to a tensor."
    )
    return section


def _augment_batches(context: Context, settings: TrainSettings) -> Iterator[int]:
    """Augment the training images in their original order, without end."""
    images = context.splits.train
    generator = torch_generator(settings.seed, Stream.AUGMENT)
    while True:
        parameters = sample_parameters(settings.aug, len(images), generator).to(context.device)
        for part in batch_slices(len(images), settings.batch_size):
            pixels = images.pixels[part]
            augment_batch(to_float(pixels), parameters[part], settings.aug)
            yield len(pixels)


def _augment_pil_images(context: Context) -> Iterator[int]:
    transform = Compose(baselines.augmentation())
    pixels = context.splits.train.pixels[: baselines.BATCH_SIZE].cpu().numpy()
    images = [Image.fromarray(image) for image in pixels]
    while True:
        for image in images:
            transform(image)
        yield len(images)
