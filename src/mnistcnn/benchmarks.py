"""How fast it is, beside what else there is: each section measures, and becomes a table."""

import itertools
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnistcnn import (
    augment,
    baselines,
    data,
    device,
    engine,
    fit,
    measuring,
    optim,
    rundir,
    stopwatch,
    sweep,
)
from mnistcnn.config import TrainSettings, to_settings
from mnistcnn.data import Digits
from mnistcnn.errors import PlainError, UsageError
from mnistcnn.measuring import OnBatch, Spread, spread
from mnistcnn.seeding import Stream, torch_generator
from mnistcnn.stopwatch import TimedRun

log = logging.getLogger(__name__)

JSON = "benchmark.json"
MARKDOWN = "benchmark.md"

OURS = "mnistcnn"
REPORTS = "the report's way"
LIGHTNING = "Lightning"
IMPORT_TORCH = 'python -c "import torch"'
MATRICES = "matrix product"

Work = Callable[[OnBatch], None]  # without an end of its own


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``--rounds`` may change the first."""

    rounds: int
    seconds: float  # at least, of each timing within this process
    warm_up: int  # batches that are not counted
    matrix_seconds: float  # at least, of each size
    matrix_sides: tuple[int, ...]  # none: those that suit the device
    networks: tuple[str, ...]  # overrides; what does not fit a network is left out
    run: tuple[str, ...]  # overrides of the runs of `report` and `start`
    short_run: tuple[str, ...]  # of those of `scaling`
    fractions: tuple[float, ...]
    fraction_epochs: int  # of each of these runs
    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    sweep: int  # runs
    sweep_epochs: int


SMALL_PICTURES = ("tsne.samples=100", "tsne.perplexity=10")
FULL = Sizes(
    rounds=5, seconds=5.0, warm_up=10, matrix_seconds=0.5, matrix_sides=(), networks=(), run=(),
    short_run=SMALL_PICTURES, fractions=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), fraction_epochs=4,
    epochs=(1, 2, 4, 8), batch_sizes=(32, 64, 128, 256, 512), sweep=3, sweep_epochs=3,
)  # fmt: skip
QUICK = Sizes(
    rounds=1, seconds=0.1, warm_up=1, matrix_seconds=0.01, matrix_sides=(256,),
    networks=("batch_size=4", "model.width=0.1"), run=("epochs=1", "data.fraction=0.1",
    *SMALL_PICTURES), short_run=("data.fraction=0.1", *SMALL_PICTURES), fractions=(0.05, 0.1),
    fraction_epochs=1, epochs=(1, 2), batch_sizes=(32, 128), sweep=2, sweep_epochs=1,
)  # fmt: skip


@dataclass
class Section:
    """One table. ``values`` is what ``benchmark.json`` has of it, with every single round."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        table = sweep.markdown(self.header, self.rows)
        return "\n\n".join([f"## {self.title}", table, *self.notes])


@dataclass
class Bench:
    """What the sections share. Numbers of sections are measured with these sizes, on these digits.

    ``folder`` is thrown away in the end.
    """

    sizes: Sizes
    overrides: list[str]  # of every configuration: data and device
    digits: Digits
    folder: Path

    @property
    def device(self) -> torch.device:
        return self.digits.train.labels.device

    @property
    def precision(self) -> torch.dtype:
        return device.resolve_precision("auto", self.device)

    @cached_property
    def raw_files(self) -> Path:
        """Where torchvision finds the digits, all that are no test images among one another."""
        root = self.folder / "torchvision"
        parts = self.digits.train, self.digits.validation
        train = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts])
        test = self.digits.test
        baselines.write_raw_files(root, train, (test.pixels, test.labels))
        return root

    def settings(self, *overrides: str) -> TrainSettings:
        return settings(*self.overrides, *overrides)

    def directory(self) -> Path:
        """A new one, empty."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def alternate(self, sides: dict[str, Callable], rounds: int | None = None) -> dict[str, list]:
        rounds = rounds or self.sizes.rounds

        def tell(number: int, side: str, value: Any) -> None:
            shown = f"{value:.4g}" if isinstance(value, float) else "done"
            log.info("  round %d of %d, %s: %s", number, rounds, side, shown)

        return measuring.alternate(sides, rounds, tell)

    def rate(self, work: Work, warm_up: int | None = None) -> float:
        warm_up = self.sizes.warm_up if warm_up is None else warm_up
        return measuring.rate(work, self.device, self.sizes.seconds, warm_up)

    def foreign_rate(self, work: Work) -> float:
        """The rate of what is not ours: with torch's settings as they come, not with ours."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=True
        ):
            return self.rate(work)

    def matrix_rate(self) -> float:
        """FLOP/s, in the type that training computes in here."""
        sizes = self.sizes
        return measuring.matrix_product_rate(
            self.device, self.precision, sizes.matrix_seconds, sizes.matrix_sides
        )


def settings(*overrides: str) -> TrainSettings:
    """What ``python -m mnistcnn.train OVERRIDES`` would train with."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        return to_settings(TrainSettings, compose("train", list(overrides)))


def run(
    out: Path, dataset: str, on: str, only: Sequence[str], quick: bool, rounds: int | None
) -> None:
    """Measure all sections, or ``only`` some, and write both files into ``out`` after each."""
    if unknown := [name for name in only if name not in SECTIONS]:
        there_are = ", ".join(SECTIONS)
        raise UsageError(f"--only: there is no {', '.join(unknown)}; there are {there_are}")
    overrides = [f"data={dataset}", f"device={on}"]
    here = device.resolve(on)
    device.prepare(here)
    sizes = QUICK if quick else FULL
    measured: dict[str, Any] = {
        "quick": quick, "rounds": rounds or sizes.rounds, "data": dataset, "machine": machine(here),
        "sections": {},
    }  # fmt: skip
    out = rundir.create(out, "--out")
    blocks = [f"# Measured\n\n{_head(measured)}"]
    log.info("%s\n", blocks[0])
    with tempfile.TemporaryDirectory(prefix="mnistcnn-benchmark-") as folder:
        bench = _bench(sizes, rounds, overrides, here, Path(folder))
        for name in [name for name in SECTIONS if not only or name in only]:
            section = _measured(name, bench)
            measured["sections"][name] = _json(section)
            blocks.append(section.markdown())
            log.info("\n%s\n", blocks[-1])
            rundir.write_json(out / JSON, measured)
            rundir.write_text(out / MARKDOWN, "\n\n".join(blocks) + "\n")
    log.info("all of it is in %s", out)


def _bench(
    sizes: Sizes, rounds: int | None, overrides: list[str], here: torch.device, folder: Path
) -> Bench | str:
    """What the sections share; where there are no digits, why not."""
    sizes = replace(sizes, rounds=rounds or sizes.rounds)
    try:
        of = settings(*overrides)
        return Bench(sizes, overrides, data.load(of.data, of.seed).to(here), folder)
    except PlainError as error:
        return str(error)


def _measured(name: str, bench: Bench | str) -> Section:
    """A section; where what it needs is not here, a table that says so."""
    title, measure = SECTIONS[name]
    if isinstance(bench, str):
        return _not_measured(title, bench)
    log.info("%s: %s", name, title)
    try:
        return measure(bench)
    except (PlainError, ImportError, torch.OutOfMemoryError) as error:
        return _not_measured(title, str(error))


def _not_measured(title: str, reason: str) -> Section:
    first = " ".join(reason.split())  # a table's row is a line
    return Section(title, [""], [[f"not measured: {first}"]], values={"not measured": reason})


def machine(here: torch.device) -> dict[str, Any]:
    """Where and when, with which versions."""
    versions = rundir.versions()
    try:
        versions["lightning"] = version("lightning")
    except PackageNotFoundError:
        pass
    return {
        "processor": measuring.processor(),
        "cores": measuring.cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(here) if here.type == "cuda" else None,
        "device": str(here),
        "versions": versions,
        "git_commit": rundir.git_commit(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _head(measured: dict[str, Any]) -> str:
    here = measured["machine"]
    head = (
        f"{here['date'][:10]}, `data={measured['data']}`, {here['processor']}, {here['cores']} "
        f"cores, {here['threads']} threads, {here['gpu'] or 'no GPU'}, torch "
        f"{here['versions']['torch']}. Medians of {measured['rounds']} rounds in alternation, and "
        "in brackets the least and the most; ratios are taken within each round."
    )
    if measured["quick"]:
        head += " **A smoke test (`--quick`): its numbers say that all works, and no more.**"
    return head


# How numbers are written -------------------------------------------------------------------------


def _number(value: float) -> str:
    """With three digits, or with all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(values: Spread, unit: float = 1.0) -> str:
    low, middle, high = (_number(v / unit) for v in (values.low, values.median, values.high))
    return f"{middle} ({low} to {high})"


def _json(section: Section) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        return asdict(value) if isinstance(value, Spread | measuring.PowerLaw) else value

    return {
        "title": section.title, "header": section.header, "rows": section.rows,
        "notes": section.notes, "values": plain(section.values),
    }  # fmt: skip


def _ratios(one: Sequence[float], other: Sequence[float], factor: float = 1.0) -> Spread:
    """Of each round by itself."""
    return spread([factor * a / b for a, b in zip(one, other, strict=True)])


# training ----------------------------------------------------------------------------------------


def training(bench: Bench) -> Section:
    section = Section(
        SECTIONS["training"][0],
        ["aug", "", "images/s", f"{OURS} is faster by a factor of", "counts"],
    )
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


def ours(bench: Bench, of: TrainSettings) -> Work:
    """Training as :mod:`fit` does it, but for scores and checkpoints; each call goes on."""
    network = fit.fresh_network(of, bench.digits)
    train = bench.digits.train
    optimizer = optim.optimizer(of.optimizer, network.parameters())
    schedule = optim.schedule(
        of.scheduler, optimizer, of.epochs, fit.steps_per_epoch(of, len(train))
    )
    epochs = itertools.count(1)

    def work(on_batch: OnBatch) -> None:
        for epoch in epochs:
            engine.train_epoch(
                network, fit.training_batches(train, of, epoch), optim.LOSSES[of.loss], optimizer,
                schedule, bench.precision, engine.Running(epoch), on_batch,
            )  # fmt: skip

    return work


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
    ratios = {side: _ratios(rates[OURS], rates[side]) for side in spreads if side != OURS}
    for side, values in sorted(spreads.items(), key=lambda item: item[0] != OURS):
        ratio = _cell(ratios[side]) if side in ratios else ""
        is_it = "yes" if side in ratios and side in counts.values() else ""
        section.rows.append([aug, side, _cell(values), ratio, is_it])
    section.values[aug] = {
        "images per second": spreads, "ours to theirs": ratios,
        "counts": {name: side for name, side in counts.items() if name != OURS},
    }  # fmt: skip


def _floor(section: Section, bench: Bench, aug: str, rates: dict[str, list[float]]) -> None:
    """How near training comes to the time that its arithmetic alone would take."""
    flop = measuring.training_flop_per_sample(
        baselines.network(), baselines.loss_of, torch.zeros(2, 1, 28, 28), torch.zeros(2).long()
    )
    product = spread(rates[MATRICES])
    share = _ratios(rates[OURS], rates[MATRICES], flop)
    section.notes.append(
        f"The floor, `aug={aug}`: {flop:,.0f} FLOP per image, forward and backward, at the "
        f"{_cell(product, 1e9)} GFLOP/s of the largest {_name(bench.precision)} matrix product; "
        f"{OURS} trains at {_cell(share, 0.01)} percent of it."
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
        f"Ten epochs after warm-up, `aug={aug}`: {_cell(whole)} s with scoring, of which "
        f"{_cell(alone)} s are training."
    )
    section.values[aug] |= {"ten epochs' seconds": whole, "of which training": alone}


def _fit_seconds(bench: Bench, of: TrainSettings) -> tuple[float, float]:
    """Of all epochs together: with scoring, and training alone."""
    logging.disable(logging.INFO)  # the lines of each epoch
    try:
        with rundir.record(bench.directory(), rundir.LOG) as record:
            network = fit.fresh_network(of, bench.digits)
            history = fit.fit(network, bench.digits, of, record).history
    finally:
        logging.disable(logging.NOTSET)
    return _epochs_seconds(history), _training_seconds(history, len(bench.digits.train))


def _epochs_seconds(history: list[dict]) -> float:
    return float(np.sum([row["seconds"] for row in history]))


def _training_seconds(history: list[dict], samples: int) -> float:
    """Of epochs over ``samples`` images each, without scoring."""
    return float(np.sum([samples / row["samples_per_second"] for row in history]))


# networks ----------------------------------------------------------------------------------------


def networks(bench: Bench) -> Section:
    section = Section(
        SECTIONS["networks"][0],
        ["model", "MFLOP per image", "images/s", "GFLOP/s", "matrix product, GFLOP/s",
         "share in percent"],
    )  # fmt: skip
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
    share = _ratios(rates[OURS], rates[MATRICES], flop)
    section.rows.append([
        name, _number(flop / 1e6), _cell(images), _cell(achieved, 1e9), _cell(product, 1e9),
        _cell(share, 0.01),
    ])  # fmt: skip
    section.values[name] = {
        "overrides": overrides, "batch size": of.batch_size, "FLOP per image": flop,
        "images per second": images, "FLOP per second": achieved,
        "matrix product FLOP per second": product, "share": share,
    }  # fmt: skip


# augmentation ------------------------------------------------------------------------------------


def augmentation(bench: Bench) -> Section:
    section = Section(
        SECTIONS["augmentation"][0], ["", "images/s", "`full` is faster by a factor of"]
    )
    presets = ("full", "prose", "rotate45_flip")
    sides = {
        f"aug={preset}": partial(bench.rate, _augmenting(bench, bench.settings(f"aug={preset}")))
        for preset in presets
    }
    theirs = f"full, {REPORTS}"
    sides[theirs] = partial(bench.rate, _augmenting_one_by_one(bench))
    rates = bench.alternate(sides)
    ratio = _ratios(rates["aug=full"], rates[theirs])
    for side, values in rates.items():
        section.rows.append([side, _cell(spread(values)), _cell(ratio) if side == theirs else ""])
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


# start -------------------------------------------------------------------------------------------


def start(bench: Bench) -> Section:
    section = Section(SECTIONS["start"][0], ["", "seconds", f"as a multiple of `{IMPORT_TORCH}`"])
    sides = {
        IMPORT_TORCH: lambda: stopwatch.seconds_of(["-c", "import torch"]),
        OURS: lambda: stopwatch.seconds_to_first_batch(
            [*bench.overrides, *bench.sizes.run], bench.directory() / "run"
        ),
    }
    if baselines.has_lightning():
        call = (
            "from mnistcnn import baselines; baselines.print_time_of_lightnings_first_batch"
            f"({str(bench.raw_files)!r}, {str(bench.device)!r})"
        )
        sides[LIGHTNING] = lambda: stopwatch.seconds_to_printed_time(["-c", call])
    # the first round finds what the others find in the system's cache
    measured = bench.alternate(sides, bench.sizes.rounds + 1)
    seconds = {side: values[1:] for side, values in measured.items()}
    ratios = {side: _ratios(seconds[side], seconds[IMPORT_TORCH]) for side in seconds}
    for side, values in seconds.items():
        ratio = "" if side == IMPORT_TORCH else _cell(ratios[side])
        section.rows.append([f"`{side}`" if side == IMPORT_TORCH else side,
                             _cell(spread(values)), ratio])  # fmt: skip
    if not baselines.has_lightning():
        section.rows.append([LIGHTNING, "not installed", ""])
    section.values = {
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "to import torch": {side: ratios[side] for side in ratios if side != IMPORT_TORCH},
        "discarded": {side: values[0] for side, values in measured.items()},
    }
    return section


# report ------------------------------------------------------------------------------------------


def report(bench: Bench) -> Section:
    section = Section(SECTIONS["report"][0], ["phase", "seconds"])
    done = stopwatch.run([*bench.overrides, *bench.sizes.run], bench.directory() / "run")
    phases = dict(done.metrics["seconds"])
    total = phases.pop("total")
    epochs = _epochs_seconds(done.history)
    # a checkpoint is part of the fit, and no phase of its own
    of_report = {n: s for n, s in phases.items() if n not in ("data", "fit", "checkpoints")}
    for name, seconds in phases.items():
        inside = " (within `fit`)" if name == "checkpoints" else ""
        section.rows.append([f"`{name}`{inside}", f"{seconds:.3f}"])
    everything = float(np.sum(list(of_report.values())))
    peak = done.metrics["peak_memory_bytes"]
    section.notes.append(
        f"The report takes {everything:.2f} s beside the {epochs:.2f} s of {len(done.history)} "
        f"epochs ({100 * everything / epochs:.0f} percent). Wall time {done.seconds:.2f} s, of "
        f"which the run says {total:.2f} s; peak memory {_megabytes(peak)} MB. One run."
    )
    section.values = {
        "seconds": phases, "total": total, "wall": done.seconds, "epochs": len(done.history),
        "epochs' seconds": epochs, "report's seconds": everything,
        "report to epochs": everything / epochs, "peak memory bytes": peak,
    }  # fmt: skip
    return section


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.0f}"


# scaling -----------------------------------------------------------------------------------------


def scaling(bench: Bench) -> Section:
    section = Section(SECTIONS["scaling"][0], ["against", "at", "measured", ""])
    _by_samples(section, bench)
    _by_epochs(section, bench)
    _by_batch_size(section, bench)
    _by_runs(section, bench)
    return section


def _runs(bench: Bench, points: dict[str, list[str]]) -> dict[str, list[TimedRun]]:
    """Fresh processes for each point, in alternation."""

    def once(overrides: list[str]) -> TimedRun:
        common = [*bench.overrides, *bench.sizes.short_run]
        return stopwatch.run([*common, *overrides], bench.directory() / "run")

    return bench.alternate({at: partial(once, overrides) for at, overrides in points.items()})


def _add(section: Section, against: str, measured: str, points: dict[str, list[float]]) -> None:
    """A row for each point, and its rounds."""
    spreads = {at: spread(values) for at, values in points.items()}
    section.rows += [[against, at, measured, _cell(values)] for at, values in spreads.items()]
    section.values.setdefault(against, {})[measured] = spreads


def _add_exponent(
    section: Section, against: str, measured: str, x: Sequence[float], y: dict[str, list[float]]
) -> None:
    """The exponent of the power law through the points of each round; and through the medians."""
    by_round = [measuring.power_law(x, of_round).exponent
                for of_round in zip(*y.values(), strict=True)]  # fmt: skip
    exponents = spread(by_round)
    name = f"exponent of {measured}"
    section.rows.append([against, "all", name, _cell(exponents)])
    section.values[against][name] = {
        "of each round": exponents,
        "of the medians": measuring.power_law(x, [np.median(values) for values in y.values()]),
    }


def _by_samples(section: Section, bench: Bench) -> None:
    sizes, against = bench.sizes, "training images"
    points = {
        f"data.fraction={fraction:g}": [
            f"data.fraction={fraction}", f"epochs={sizes.fraction_epochs}"
        ]
        for fraction in sizes.fractions
    }  # fmt: skip
    runs = _runs(bench, points)
    samples = [of[0].metrics["data"]["train"] for of in runs.values()]
    quantities = {
        f"seconds of {sizes.fraction_epochs} epochs": lambda run: _epochs_seconds(run.history),
        "of which training": lambda run: _training_seconds(
            run.history, run.metrics["data"]["train"]
        ),
    }
    if sizes.fraction_epochs > 1:
        quantities["seconds of all epochs but the first"] = lambda run: _epochs_seconds(
            run.history[1:]
        )
    for measured, of in quantities.items():
        values = {f"{n:,}": [of(run) for run in at]
                  for n, at in zip(samples, runs.values(), strict=True)}  # fmt: skip
        _add(section, against, measured, values)
        _add_exponent(section, against, measured, samples, values)


def _by_epochs(section: Section, bench: Bench) -> None:
    against = "epochs"
    runs = _runs(bench, {str(epochs): [f"epochs={epochs}"] for epochs in bench.sizes.epochs})
    seconds = {at: [_epochs_seconds(run.history) for run in of] for at, of in runs.items()}
    _add(section, against, "seconds of the epochs", seconds)
    _add_exponent(section, against, "seconds of the epochs", bench.sizes.epochs, seconds)
    peaks = {at: [run.metrics["peak_memory_bytes"] for run in of] for at, of in runs.items()}
    if all(peak is not None for of in peaks.values() for peak in of):
        in_mb = {at: [peak / 1e6 for peak in of] for at, of in peaks.items()}
        _add(section, against, "peak memory, MB", in_mb)
        most = list(in_mb.values())
        ratio = _ratios(most[-1], most[0])
        section.rows.append([against, "last to first", "ratio of peak memory", _cell(ratio)])
        section.values[against]["ratio of peak memory"] = ratio


def _by_batch_size(section: Section, bench: Bench) -> None:
    works = {
        str(size): ours(bench, bench.settings(f"batch_size={size}"))
        for size in bench.sizes.batch_sizes
    }
    rates = bench.alternate({at: partial(bench.rate, work) for at, work in works.items()})
    _add(section, "batch size", "images/s in training", rates)


def _by_runs(section: Section, bench: Bench) -> None:
    """A sweep against the same number of commands."""
    count, common = bench.sizes.sweep, [*bench.overrides, *bench.sizes.short_run]
    common.append(f"epochs={bench.sizes.sweep_epochs}")

    def many() -> float:
        return stopwatch.seconds_of([
            "-m", "mnistcnn.train", "-m", *common, f"seed=range({count})",
            f"hydra.sweep.dir='{bench.directory()}'",
        ])  # fmt: skip

    def one() -> float:
        return stopwatch.run(common, bench.directory() / "run").seconds

    against = "runs"
    names = f"a sweep of {count}", "one run"
    seconds = bench.alternate(dict(zip(names, (many, one), strict=True)))
    measured = f"wall seconds, with epochs={bench.sizes.sweep_epochs}"
    _add(section, against, measured, seconds)
    ratio = _ratios(*(seconds[name] for name in names), 1 / count)
    section.rows.append([against, names[0], f"to {count} times one run", _cell(ratio)])
    section.values[against]["sweep to as many runs"] = ratio


SECTIONS: dict[str, tuple[str, Callable[[Bench], Section]]] = {
    "training": ("Training the default network", training),
    "networks": ("Training the large networks", networks),
    "augmentation": ("Augmentation alone", augmentation),
    "start": ("From the command to the first batch", start),
    "report": ("A default run, phase by phase", report),
    "scaling": ("How time and memory grow", scaling),
}
