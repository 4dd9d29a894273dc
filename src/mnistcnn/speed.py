"""Images per second, within this process: training, large networks, augmentation."""

import logging
from functools import partial

import torch

from mnistcnn import augment, baselines, data, fit, measuring, optim, rundir, stopwatch
from mnistcnn.bench import LIGHTNING, OURS, Bench, Section, Work, cell, number, ours, ratios
from mnistcnn.config import TrainSettings
from mnistcnn.measuring import OnBatch, spread
from mnistcnn.seeding import Stream, torch_generator

REPORTS = "the report's way"
MATRICES = "matrix product"


def training(bench: Bench) -> Section:
    section = Section(["aug", "", "images/s", f"{OURS} is faster by a factor of", "counts"])
    for aug in ("none", "full"):
        sides = {OURS: partial(bench.rate, ours(bench, bench.settings(f"aug={aug}")))}
        for name, work in _others(bench, augmented=aug == "full").items():
            sides[name] = partial(bench.foreign_rate, work)
        rates = bench.alternate({**sides, MATRICES: bench.matrix_rate})
        _compare(section, aug, rates)
        _floor(section, bench, aug, rates)
        if bench.device.type == "cuda":
            _ten_epochs(section, bench, aug)
    if not baselines.has_lightning():
        section.rows.append(["none", LIGHTNING, "not installed", "", ""])
    return section


def _others(bench: Bench, augmented: bool) -> dict[str, Work]:
    """What ours is compared with, without worker processes and with one for each core."""
    works: dict[str, Work] = {}
    for workers in (0, measuring.cores()):
        images = baselines.training_images(bench.raw_files, augmented)
        batches = baselines.loader(images, workers, bench.device.type == "cuda")
        name = f"{workers} worker{'' if workers == 1 else 's'}"
        works[f"{REPORTS}, {name}"] = partial(baselines.train, batches, bench.device)
        if not augmented and baselines.has_lightning():
            works[f"{LIGHTNING}, {name}"] = partial(
                baselines.train_with_lightning, bench.raw_files, bench.device, workers
            )
    return works


def _compare(section: Section, aug: str, rates: dict[str, list[float]]) -> None:
    """A row for each side. Of those with the same name up to the comma the fastest counts."""
    spreads = {side: spread(values) for side, values in rates.items() if side != MATRICES}
    counts: dict[str, str] = {}
    for side in sorted(spreads, key=lambda side: spreads[side].median):
        counts[side.split(",")[0]] = side
    factors = {side: ratios(rates[OURS], rates[side]) for side in spreads if side != OURS}
    for side, values in sorted(spreads.items(), key=lambda item: item[0] != OURS):
        factor = cell(factors[side]) if side in factors else ""
        it_counts = "yes" if side in factors and side in counts.values() else ""
        section.rows.append([aug, side, cell(values), factor, it_counts])
    section.values[aug] = {
        "images per second": spreads, "ours to theirs": factors,
        "counts": {name: side for name, side in counts.items() if name != OURS},
    }  # fmt: skip


def _floor(section: Section, bench: Bench, aug: str, rates: dict[str, list[float]]) -> None:
    """How near training comes to the time that its arithmetic alone would take."""
    flop = measuring.training_flop_per_sample(
        baselines.network(), baselines.loss_of, torch.zeros(2, 1, 28, 28), torch.zeros(2).long()
    )
    product = spread(rates[MATRICES])
    share = ratios(rates[OURS], rates[MATRICES], flop)
    section.notes.append(
        f"The floor, `aug={aug}`: {flop:,.0f} FLOP per image of the report's network, forward and "
        f"backward (cropping spares {OURS} a seventh of it), at the "
        f"{cell(product, 1e9)} GFLOP/s of the largest {_name(bench.precision)} matrix product; "
        f"{OURS} trains at {cell(share, 0.01)} percent of it."
    )
    section.values[aug] |= {
        "FLOP per image": flop, "matrix product FLOP per second": product, "share of floor": share,
    }  # fmt: skip


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def _ten_epochs(section: Section, bench: Bench, aug: str) -> None:
    """The seconds of a whole fit, after one of a single epoch."""
    _fit_seconds(bench, bench.settings(f"aug={aug}", "epochs=1"))
    of = bench.settings(f"aug={aug}", "epochs=10")
    rounds = [_fit_seconds(bench, of) for _ in range(bench.sizes.rounds)]
    whole, alone = (spread(values) for values in zip(*rounds, strict=True))
    section.notes.append(
        f"Ten epochs after warm-up, `aug={aug}`: {cell(whole)} s with scoring, "
        f"{cell(alone)} s of that in training."
    )
    section.values[aug] |= {"ten epochs' seconds": whole, "of that in training": alone}


def _fit_seconds(bench: Bench, of: TrainSettings) -> tuple[float, float]:
    """Of all epochs together: with scoring, and training alone."""
    logging.disable(logging.INFO)  # the lines of each epoch
    try:
        with rundir.record(bench.directory(), rundir.LOG) as record:
            network = fit.fresh_network(of, bench.digits)
            history = fit.fit(network, bench.digits, of, record).history
    finally:
        logging.disable(logging.NOTSET)
    images = len(bench.digits.train)
    return stopwatch.epochs_seconds(history), stopwatch.training_seconds(history, images)


# networks ----------------------------------------------------------------------------------------


def networks(bench: Bench) -> Section:
    section = Section([
        "model", "MFLOP per image", "images/s", "GFLOP/s", "matrix product, GFLOP/s",
        "share in percent",
    ])  # fmt: skip
    for name in ("custom", "vgg16", "resnet50"):
        try:
            _network(section, bench, name)
        except torch.OutOfMemoryError as error:
            section.rows.append([name, f"not measured: {str(error).splitlines()[0]}"] + 4 * [""])
    section.notes.append("A share is that of the matrix product measured in the same round.")
    return section


def _network(section: Section, bench: Bench, name: str) -> None:
    overrides = [
        text for text in bench.sizes.networks
        if not (name == "resnet50" and text.startswith("model.width"))  # it would not be smaller
    ]  # fmt: skip
    of = bench.settings(f"model={name}", *overrides)
    few = bench.digits.train[:2]
    flop = measuring.training_flop_per_sample(
        fit.fresh_network(of, bench.digits), optim.LOSSES[of.loss], data.to_unit(few.pixels),
        few.labels,
    )  # fmt: skip
    work = ours(bench, of)
    rates = bench.alternate(
        {OURS: lambda: bench.rate(work, warm_up=1), MATRICES: bench.matrix_rate}
    )
    images, product = spread(rates[OURS]), spread(rates[MATRICES])
    achieved = spread([flop * rate for rate in rates[OURS]])
    share = ratios(rates[OURS], rates[MATRICES], flop)
    section.rows.append([
        name, number(flop / 1e6), cell(images), cell(achieved, 1e9), cell(product, 1e9),
        cell(share, 0.01),
    ])  # fmt: skip
    section.values[name] = {
        "overrides": overrides, "batch size": of.batch_size, "FLOP per image": flop,
        "images per second": images, "FLOP per second": achieved,
        "matrix product FLOP per second": product, "share": share,
    }  # fmt: skip


# augmentation ------------------------------------------------------------------------------------


def augmentation(bench: Bench) -> Section:
    section = Section(["", "images/s", "`full` is faster by a factor of"])
    presets = ("full", "prose", "rotate45_flip")
    sides = {
        f"aug={preset}": partial(bench.rate, _augmenting(bench, bench.settings(f"aug={preset}")))
        for preset in presets
    }
    theirs = f"full, {REPORTS}"
    sides[theirs] = partial(bench.rate, _augmenting_one_by_one(bench))
    rates = bench.alternate(sides)
    ratio = ratios(rates["aug=full"], rates[theirs])
    for side, values in rates.items():
        section.rows.append([side, cell(spread(values)), cell(ratio) if side == theirs else ""])
    section.notes.append(
        "Ours from bytes to augmented floats in batches, draws included; the report's from PIL "
        "image to PIL image, one by one, without its conversion to a tensor."
    )
    section.values = {
        "images per second": {side: spread(values) for side, values in rates.items()},
        "ours to theirs": ratio,
    }
    return section


def _augmenting(bench: Bench, of: TrainSettings) -> Work:
    """What :func:`fit.training_batches` does to images, but for their order."""
    train = bench.digits.train
    parts = list(data.batch_slices(len(train), of.batch_size))
    generator = torch_generator(of.seed, Stream.AUGMENT)

    def work(on_batch: OnBatch) -> None:
        while True:
            draws = augment.draw(of.aug, len(train), generator).to(bench.device)
            for part in parts:
                pixels = train.pixels[part]
                augment.apply(data.to_unit(pixels), draws[part], of.aug)
                on_batch(len(pixels))

    return work


def _augmenting_one_by_one(bench: Bench) -> Work:
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(baselines.augmentation())
    batch = [
        Image.fromarray(pixels)
        for pixels in bench.digits.train.pixels[: baselines.BATCH_SIZE].cpu().numpy()
    ]

    def work(on_batch: OnBatch) -> None:
        while True:
            for image in batch:
                transform(image)
            on_batch(len(batch))

    return work
