"""Sections about the rate of training: the default network and the large ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.backends import cudnn

from mnistcnn.benchmark import baselines
from mnistcnn.benchmark.baselines import JAX, LIGHTNING, PLAIN
from mnistcnn.benchmark.commands import run_python
from mnistcnn.benchmark.context import MNISTCNN, Context, Section
from mnistcnn.benchmark.timing import (
    Spread,
    alternate,
    format_number,
    ratios,
    spread,
    torch_threads,
    training_flop_per_sample,
)
from mnistcnn.data.batches import to_float
from mnistcnn.training.optim import LOSSES

ONE_THREAD = ", 1 thread"

Measurements = dict[str, Callable[[], float]]


def training(context: Context) -> Section:
    """Measure the training of the default network, next to that of the baselines."""
    section = Section(["aug", "", "images/s", f"rate of {MNISTCNN} / this rate"])
    images, labels = torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    flop = training_flop_per_sample(baselines.build_network(), baselines.loss_fn, images, labels)
    precision = context.model(context.settings()).precision
    for aug in ("none", "full"):
        measurements = _training(context, aug)
        measurements["compute bound"] = lambda: context.matrix_rate(precision) / flop
        rates = alternate(measurements, context.rounds)
        for name, values in rates.items():
            ours = MNISTCNN + ONE_THREAD * name.endswith(ONE_THREAD)
            factor = "" if name == ours else ratios(rates[ours], values)
            section.rows.append([aug, name, spread(values), factor])
        plain = [values for name, values in rates.items() if name.startswith(PLAIN)]
        fastest = [max(values) for values in zip(*plain, strict=True)]
        if one_thread := rates.get(MNISTCNN + ONE_THREAD):
            section.notes.append(
                f"aug={aug}: {MNISTCNN} on one thread is faster than the fastest {PLAIN} by a "
                f"factor of {ratios(one_thread, fastest)}."
            )
    for name in (LIGHTNING, JAX):
        if not baselines.is_installed(name, context.device):
            section.rows.append(["none", name, "not installed", ""])
    section.notes.append(
        f"Rows with one thread are compared with each other. JAX trains an epoch in one call. "
        f"Compute bound: the rate of the fastest matrix product, divided by {flop:,.0f} FLOP per "
        f"image ({MNISTCNN} crops the images, which saves a seventh, and its C kernel saves three "
        "quarters of a convolution's backward pass)."
    )
    return section


def _training(context: Context, aug: str) -> Measurements:
    """Return the measurements of our training and of the baselines."""
    measurements: Measurements = {MNISTCNN: partial(context.rate, context.train(f"aug={aug}"))}
    if "native" in context.kernels:
        work = context.train(f"aug={aug}", "kernels=torch")
        measurements[f"{MNISTCNN}, kernels=torch"] = partial(context.rate, work)
    measurements |= _baselines(context, augmented=aug == "full")
    if context.device.type == "cpu" and torch.get_num_threads() > 1:
        for name in (MNISTCNN, f"{PLAIN}, 0 workers"):
            measurements[name + ONE_THREAD] = torch_threads(1)(measurements[name])
    return measurements


def _baselines(context: Context, augmented: bool) -> Measurements:
    """Return the measurement of each baseline.

    Those of torch are measured without worker processes and with one per thread.
    """

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

    def measure_jax() -> float:
        folder, seconds = context.raw_files / "MNIST" / "raw", context.meter().min_seconds
        arguments = [str(folder), str(seconds), context.device.type]
        return float(run_python("-m", "mnistcnn.benchmark.jax_baseline", *arguments))

    measurements: Measurements = {}
    for workers in (0, torch.get_num_threads()):
        label = f"{workers} worker{'' if workers == 1 else 's'}"
        measurements[f"{PLAIN}, {label}"] = partial(measure_plain, workers)
        if not augmented and baselines.is_installed(LIGHTNING, context.device):
            measurements[f"{LIGHTNING}, {label}"] = partial(measure_lightning, workers)
    if not augmented and baselines.is_installed(JAX, context.device):
        measurements[JAX] = measure_jax
    return measurements


def networks(context: Context) -> Section:
    """Measure the training of the large networks, as a percentage of the matrix product's rate."""
    section = Section(
        [
            "model",
            "precision",
            "MFLOP per image",
            "images/s",
            "GFLOP/s",
            "matrix product, GFLOP/s",
            "percent",
        ],
        notes=["The percentage is that of the matrix product in the same round."],
    )
    for name in ("custom", "vgg16", "resnet50"):
        try:
            section.rows.append(_network_row(context, name))
        except torch.OutOfMemoryError:
            section.rows.append([name, "not measured: out of memory", *[""] * 5])
    return section


def _network_row(context: Context, name: str) -> list[str | Spread]:
    overrides = [f"model={name}", *(["batch_size=4"] if context.quick else [])]
    settings = context.settings(*overrides)
    few = context.splits.train[:2]
    model, images = context.model(settings), to_float(few.pixels)
    flop = training_flop_per_sample(model, LOSSES[settings.loss], images, few.labels)
    measurements: Measurements = {
        name: partial(context.rate, context.train(*overrides), warm_up=1),
        "matrix product": partial(context.matrix_rate, model.precision),
    }
    rates, product_rates = alternate(measurements, context.rounds).values()
    flops, product_flops = spread(rates, flop / 1e9), spread(product_rates, 1e-9)
    share = ratios(rates, product_rates, 100 * flop)
    flop_cell = format_number(flop / 1e6)
    return [name, model.precision_name, flop_cell, spread(rates), flops, product_flops, share]
