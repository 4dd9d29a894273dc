"""Does a change help, by how much, is it sure?"""

import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mnistcnn import data, plots, rundir, statistics, sweep
from mnistcnn.config import from_yaml
from mnistcnn.errors import UsageError
from mnistcnn.statistics import LEVEL, McNemar, Paired
from mnistcnn.sweep import Group, Run

log = logging.getLogger(__name__)

COMPARISON = "comparison.md"
DISAGREEMENTS = "disagreements.png"
SHOWN = 12  # images


@dataclass(frozen=True)
class Pair:
    """Two groups on the same test set, and the test that their seeds allow.

    ``result`` is None where they have no seed in common, and so nothing that could be paired.
    """

    a: Group
    b: Group
    names: tuple[str, str]
    result: Paired | McNemar | None
    seeds_needed: int | None = None


def run(paths: Sequence[Path], out: Path, baseline: str | None, data_dir: str | None) -> str:
    """Compare all complete runs below ``paths``; write ``comparison.md`` and pictures to ``out``.

    ``baseline`` describes the group that the others are compared with, as ``aug=none``; by default
    it is the first. Returns what ``comparison.md`` says. Raises UsageError for runs that cannot be
    compared.
    """
    collections = [_runs(path) for path in paths]
    runs = [run for collection in collections for run in collection]
    pairs = compare([[r for r in runs if r.complete] for runs in collections], baseline)
    out = rundir.create(out, "--out")

    first, others = pairs[0].a, [pair.b for pair in pairs]
    blocks = [sweep.table([first, *others]), *verdicts(pairs)]
    if baseline is None and len(others) + len(first.runs) > 2:
        blocks.append("The baseline is what ran first; `--baseline` chooses another.")
    left_out = [str(run.path) for run in runs if not run.complete]
    if left_out:
        blocks.append("Left out, because they are not complete: " + ", ".join(left_out))
    name = pairs[0].names[0] if len(pairs) == 1 else "the baseline"
    curves = {name: sweep.errors_by_epoch(first)}
    curves |= {pair.names[1]: sweep.errors_by_epoch(pair.b) for pair in pairs}
    if all(len(run) for runs in curves.values() for run in runs):
        plots.overlaid_curves(out / sweep.CURVES, dict([*curves.items()][: sweep.MOST_CURVES]))
        blocks.append(f"![{sweep.CURVES}]({sweep.CURVES})")
    blocks.append(_disagreements(out, pairs[0], data_dir))
    text = "\n\n".join(blocks)
    rundir.write_text(out / COMPARISON, text + "\n")
    return text


def compare(collections: Sequence[Sequence[Run]], baseline: str | None) -> list[Pair]:
    """The baseline against each of the other groups of complete runs: at least one pair.

    Runs that differ in their seed alone are a group, from whatever collections they come; but
    where two collections hold the same run, as before and after a change of the code, each has
    groups of its own.

    Raises UsageError for runs that cannot be compared.
    """
    runs = list({run.path.resolve(): run for part in collections for run in part}.values())
    if len(runs) < 2:
        found = "no complete run" if not runs else f"only one complete run, {runs[0].path},"
        raise UsageError(f"{found} found: two or more can be compared")
    same_test_set(runs)
    of = [Group([run]) for run in runs] if len(runs) == 2 else sweep.groups(runs)
    if sum(len(group.runs) for group in of) < len(runs) and len(collections) > 1:
        of = [group for collection in collections for group in sweep.groups(collection)]
    first, *others = _ordered(of, baseline)
    return [
        _pair(first, other, names)
        for other, names in zip(others, _names(first, others), strict=True)
    ]


def _runs(path: Path) -> list[Run]:
    found = sweep.find(path)
    if not found:
        raise UsageError(f"{path} holds no run: {rundir.CONFIG} and {rundir.METRICS} are missing")
    return found


@lru_cache(maxsize=256)
def predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) int64 and probabilities (N, 10) float32 of the run in ``path``.

    Raises UsageError where they cannot be read.
    """
    try:
        with np.load(path / rundir.PREDICTIONS) as arrays:
            return arrays["labels"], arrays["probabilities"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path / rundir.PREDICTIONS} cannot be read: {error}") from error


def _correct(run: Run) -> np.ndarray:
    labels, probabilities = predictions(run.path)
    return probabilities.argmax(axis=1) == labels


def same_test_set(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all were tested on the same images, as far as files can tell."""
    first = runs[0]
    for other in runs[1:]:
        names = [run.metrics["data"]["name"] for run in (first, other)]
        labels = [predictions(run.path)[0] for run in (first, other)]
        if names[0] != names[1] or not np.array_equal(*labels):
            first_set, other_set = (
                f"{run.path} was tested on {len(part):,} images of {name}"
                for run, part, name in zip((first, other), labels, names, strict=True)
            )
            raise UsageError(
                f"these were tested on different images and cannot be compared:\n"
                f"{first_set}, {other_set}"
            )


def _ordered(of: Sequence[Group], baseline: str | None) -> list[Group]:
    """The groups in the order in which they began, but the baseline first."""
    if len(of) < 2:
        raise UsageError("these runs differ in their seeds alone: nothing to compare")
    of = sorted(of, key=lambda group: min(_began(run) for run in group.runs))
    if baseline is None:
        return of
    matching = [group for group in of if sweep.matches(group.settings, baseline.split())]
    if len(matching) != 1:
        count = "none" if not matching else f"{len(matching)}"
        raise UsageError(f"--baseline={baseline!r} describes {count} of the {len(of)} groups")
    return matching + [group for group in of if group is not matching[0]]


def _began(run: Run) -> float:
    return (run.path / rundir.CONFIG).stat().st_mtime  # written first, and once


def _names(first: Group, others: Sequence[Group]) -> list[tuple[str, str]]:
    """What tells the baseline and each of the others apart, from each other and from the rest."""

    def keys(of: Sequence[Group]) -> list[str]:
        runs = [run for group in of for run in group.runs]
        return [key for key in sweep.varying(runs) if key != "seed" or len(runs) == 2]

    chosen = [keys([first, other]) for other in others]
    for known in list(chosen):
        alike = [
            index for index, other in enumerate(others)
            if chosen[index] == known
            and sweep.label(other.settings, known)
            in [sweep.label(o.settings, known) for o in others if o is not other]
        ]  # fmt: skip
        for index in alike:
            chosen[index] = known + [k for k in keys([others[i] for i in alike]) if k not in known]
    return [
        (sweep.label(first.settings, used), sweep.label(other.settings, used))
        if used  # else they are the same runs in two places
        else (_place(first), _place(other))
        for other, used in zip(others, chosen, strict=True)
    ]


def _place(group: Group) -> str:
    """The directory that holds all runs of a group."""
    if len(group.runs) == 1:
        return str(group.runs[0].path)
    return os.path.commonpath([run.path for run in group.runs])


def _pair(a: Group, b: Group, names: tuple[str, str]) -> Pair:
    """Two groups, and what can be said of the runs whose seeds they share."""
    if len(a.runs) == len(b.runs) == 1:
        return Pair(a, b, names, statistics.mcnemar(_correct(a.runs[0]), _correct(b.runs[0])))
    shared = set(a.seeds) & set(b.seeds)
    one, other = (Group([run for run in group.runs if run.seed in shared]) for group in (a, b))
    if not shared:
        return Pair(a, b, names, None)
    if len(shared) == 1:
        correct = _correct(one.runs[0]), _correct(other.runs[0])
        return Pair(a, b, names, statistics.mcnemar(*correct))
    errors = one.values("test", "error"), other.values("test", "error")
    result = statistics.paired_difference(*errors)
    return Pair(a, b, names, result, statistics.seeds_needed(errors[1] - errors[0]))


# Words -------------------------------------------------------------------------------------------


def verdicts(pairs: Sequence[Pair]) -> list[str]:
    """Paragraphs of Markdown; of several pairs, a table. p-values there are Holm's."""
    if len(pairs) == 1:
        (pair,) = pairs
        p_value = 1.0 if pair.result is None else pair.result.p_value
        return [f"**{pair.names[1]}** against **{pair.names[0]}**: {_sentences(pair, p_value)}"]
    tested = [pair for pair in pairs if pair.result is not None]
    adjusted = iter(statistics.holm([pair.result.p_value for pair in tested]))
    p_values = [1.0 if pair.result is None else next(adjusted) for pair in pairs]
    header = ["change", "from", "seeds", "test error, points", "95% interval", "p", "verdict"]
    rows = [_row(pair, p_value) for pair, p_value in zip(pairs, p_values, strict=True)]
    return [
        sweep.markdown(header, rows),
        f"p is adjusted for {len(tested)} comparisons (Holm): over several seeds that of the "
        f"sign-flip test, which needs {statistics.fewest_seeds(len(tested))} of them to show "
        "anything in so many; of single runs that of McNemar's exact test, which tells whether "
        "these networks differ, not what other seeds do.",
    ]


def _row(pair: Pair, p_value: float) -> list[str]:
    test = pair.result
    if test is None:
        return [pair.names[1], pair.names[0], "0", "", "", "", "no seed in common"]
    single = isinstance(test, McNemar)
    difference = test.difference if single else test.mean
    verdict = _verdict(difference, test.ci95, p_value, single)
    if verdict == "not shown" and pair.seeds_needed is not None:
        verdict += f": about {max(pair.seeds_needed, test.n + 1)} seeds would"
    return [
        pair.names[1],
        pair.names[0],
        "1" if single else str(test.n),
        _points(difference),
        " to ".join(map(_points, test.ci95)),
        _p(p_value),
        verdict,
    ]


def _verdict(difference: float, interval: tuple[float, float], p_value: float, single: bool) -> str:
    """Nothing is shown where the interval holds zero, nor where the test says nothing."""
    if not statistics.shown(interval, p_value):
        return "not shown"
    if single:
        return "these two differ"
    return "helps" if difference < 0 else "harms"


def _p(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-99 else "below 1e-99"


def _sentences(pair: Pair, p_value: float) -> str:
    match pair.result:
        case None:
            return "no seed in common, so nothing can be paired: run the same seeds."
        case McNemar() as test:
            several = len(pair.a.runs) + len(pair.b.runs) > 2
            over = "over the one seed that both have, " if several else ""
            return over + _of_two_runs(test, *pair.names, p_value)
        case Paired() as test:
            return _of_two_groups(test, p_value, pair.seeds_needed)
    raise AssertionError(pair.result)


def _points(value: float) -> str:
    """A difference in percentage points; no -0."""
    return f"{round(100 * value, 3) + 0.0:+.3f}"


def _size(difference: float, interval: tuple[float, float], p_value: float) -> str:
    low, high = interval
    return (
        f"test error {_points(difference)} points "
        f"(95% interval {_points(low)} to {_points(high)}), p = {_p(p_value)}"
    )


def _of_two_runs(test: McNemar, a: str, b: str, p_value: float) -> str:
    verdict = {
        "not shown": "No difference is shown",
        "these two differ": "These two networks do differ",
    }[_verdict(test.difference, test.ci95, p_value, single=True)]
    return (
        f"{_size(test.difference, test.ci95, p_value)} (McNemar's exact test: {test.only_a} images "
        f"right in {a} alone, {test.only_b} in {b} alone, of {test.n:,}). {verdict}. One run of "
        "each does not tell what the change does with other seeds: at least six of each would."
    )


def _of_two_groups(test: Paired, p_value: float, seeds_needed: int | None) -> str:
    text = (
        f"{_size(test.mean, test.ci95, p_value)} (paired over the {test.n} seeds that both have: "
        "bootstrap, sign-flip test). "
    )
    verdict = _verdict(test.mean, test.ci95, p_value, single=False)
    if verdict != "not shown":
        return text + f"It {verdict}."
    text += "No difference is shown."
    if test.least_p > LEVEL:
        text += f" With {test.n} seeds p cannot be below {test.least_p:.3g}, whatever the runs say."
    if seeds_needed is None:
        return text + " If there is one, it would take more seeds than anyone would run."
    return text + f" One of this size would take about {max(seeds_needed, test.n + 1)} seeds."


# Pictures ----------------------------------------------------------------------------------------


def _disagreements(out: Path, pair: Pair, data_dir: str | None) -> str:
    """Draw the images that two groups see most differently; say so in Markdown."""
    labels, _ = predictions(pair.a.runs[0].path)
    try:
        settings = from_yaml((pair.a.runs[0].path / rundir.CONFIG).read_text()).data
        if data_dir is not None and isinstance(settings, data.MnistSettings):
            settings = replace(settings, dir=data_dir)
        test = data.load(settings, pair.a.seeds[0]).test
        if not np.array_equal(test.labels.numpy(), labels):
            raise UsageError("the data is not what they were tested on")
        pixels = test.pixels.numpy()
    except Exception as error:  # the numbers do not need the images
        reason = str(error).splitlines()[0]
        return f"The images on which they disagree are not shown: {reason}"
    means = [
        np.mean([predictions(run.path)[1] for run in group.runs], axis=0)
        for group in (pair.a, pair.b)
    ]
    chosen = most_different(labels, *means, SHOWN)
    plots.disagreements(
        out / DISAGREEMENTS, pixels[chosen], labels[chosen], [mean[chosen] for mean in means],
        chosen, pair.names,
    )  # fmt: skip
    return f"![{DISAGREEMENTS}]({DISAGREEMENTS})"


def most_different(labels: np.ndarray, a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Indices of the images to which A and B give different digits, at most ``count``.

    ``a`` and ``b`` are probabilities (N, 10). First come those of which the probabilities of the
    true digit ``labels`` (N,) differ most.
    """
    rows = np.arange(len(labels))
    gap = np.abs(a[rows, labels] - b[rows, labels])
    differ = np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1))
    return differ[np.argsort(-gap[differ], kind="stable")[:count]]
