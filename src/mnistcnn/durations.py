"""Commands as a person waits for them, in fresh processes: start, report, and how time grows."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mnistcnn import baselines, measuring, stopwatch
from mnistcnn.bench import LIGHTNING, OURS, Bench, Section, cell, ours, ratios
from mnistcnn.measuring import spread
from mnistcnn.stopwatch import TimedRun, epochs_seconds, training_seconds

IMPORT_TORCH = 'python -c "import torch"'
EPOCHS = "seconds of the epochs"  # scoring included


def start(bench: Bench) -> Section:
    section = Section(["", "seconds", f"as a multiple of `{IMPORT_TORCH}`"])
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
    others = [side for side in seconds if side != IMPORT_TORCH]
    multiples = {side: ratios(seconds[side], seconds[IMPORT_TORCH]) for side in others}
    section.rows.append([f"`{IMPORT_TORCH}`", cell(spread(seconds[IMPORT_TORCH])), ""])
    for side in others:
        section.rows.append([side, cell(spread(seconds[side])), cell(multiples[side])])
    if not baselines.has_lightning():
        section.rows.append([LIGHTNING, "not installed", ""])
    section.values = {
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "to import torch": multiples,
        "discarded": {side: values[0] for side, values in measured.items()},
    }
    return section


# report ------------------------------------------------------------------------------------------


def report(bench: Bench) -> Section:
    section = Section(["phase", "seconds"])
    done = stopwatch.run([*bench.overrides, *bench.sizes.run], bench.directory() / "run")
    phases = dict(done.metrics["seconds"])
    total = phases.pop("total")
    epochs = epochs_seconds(done.history)
    # checkpoints are part of the fit
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
    section = Section(["against", "at", "measured", ""])
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
    section.rows += [[against, at, measured, cell(values)] for at, values in spreads.items()]
    section.values.setdefault(against, {})[measured] = spreads


def _add_exponent(
    section: Section, against: str, measured: str, x: Sequence[float], y: dict[str, list[float]]
) -> None:
    """The exponent of the power law through the points of each round; and through the medians."""
    by_round = [measuring.power_law(x, of_round).exponent
                for of_round in zip(*y.values(), strict=True)]  # fmt: skip
    exponents = spread(by_round)
    name = f"exponent of {measured}"
    section.rows.append([against, "all", name, cell(exponents)])
    section.values[against][name] = {
        "of each round": exponents,
        "of the medians": measuring.power_law(x, [np.median(values) for values in y.values()]),
    }


def _by_samples(section: Section, bench: Bench) -> None:
    sizes, against = bench.sizes, f"training images, epochs={bench.sizes.fraction_epochs}"
    points = {
        f"data.fraction={fraction:g}": [
            f"data.fraction={fraction}", f"epochs={sizes.fraction_epochs}"
        ]
        for fraction in sizes.fractions
    }  # fmt: skip
    runs = _runs(bench, points)
    samples = [of[0].metrics["data"]["train"] for of in runs.values()]
    quantities = {
        EPOCHS: lambda run: epochs_seconds(run.history),
        "seconds of that in training": lambda run: training_seconds(
            run.history, run.metrics["data"]["train"]
        ),
    }
    if sizes.fraction_epochs > 1:
        quantities["seconds of all epochs but the first"] = lambda run: epochs_seconds(
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
    seconds = {at: [epochs_seconds(run.history) for run in of] for at, of in runs.items()}
    _add(section, against, EPOCHS, seconds)
    _add_exponent(section, against, EPOCHS, bench.sizes.epochs, seconds)
    peaks = {at: [run.metrics["peak_memory_bytes"] for run in of] for at, of in runs.items()}
    if all(peak is not None for of in peaks.values() for peak in of):
        in_mb = {at: [peak / 1e6 for peak in of] for at, of in peaks.items()}
        _add(section, against, "peak memory, MB", in_mb)
        most = list(in_mb.values())
        ratio = ratios(most[-1], most[0])
        section.rows.append([against, "last to first", "ratio of peak memory", cell(ratio)])
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
    ratio = ratios(*(seconds[name] for name in names), 1 / count)
    section.rows.append([against, names[0], f"to {count} times one run", cell(ratio)])
    section.values[against]["sweep to as many runs"] = ratio
