"""Compare runs or groups of runs on the same test set; write a table, a verdict and pictures."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mnistcnn.config.load import read_settings
from mnistcnn.config.schema import MnistSettings
from mnistcnn.data import dataset
from mnistcnn.data.images import Images
from mnistcnn.evaluation import figures, mosaic
from mnistcnn.experiments import statistics
from mnistcnn.experiments.groups import Group, group_runs, label, matches, varying_keys
from mnistcnn.experiments.summary import MAX_CURVES, VALIDATION_CURVES, errors_by_epoch, group_table
from mnistcnn.experiments.verdicts import Pair, verdicts
from mnistcnn.runs import directory
from mnistcnn.runs.store import Run, find_runs
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import UsageError

COMPARISON = "comparison.md"
DISAGREEMENTS = "disagreements.png"
MAX_DISAGREEMENTS = 12  # images in the picture


def compare_paths(
    paths: Sequence[Path], out: Path, baseline: str | None, data_dir: str | None
) -> str:
    """Compare all complete runs below ``paths``; write ``comparison.md`` and pictures to ``out``.

    ``baseline`` gives the settings of the group with which the others are compared, for example
    ``aug=none``; the default is the group that started first. ``data_dir`` replaces the runs'
    ``data.dir``. Return the text of ``comparison.md``. Raises UsageError if the runs cannot be
    compared.
    """
    collections = [_find_runs(path) for path in paths]
    pairs = compare_groups(
        [[run for run in runs if run.complete] for runs in collections], baseline
    )
    out = directory.create_run_dir(out, "--out")

    first = pairs[0].a
    blocks = [group_table([first, *(pair.b for pair in pairs)]), *verdicts(pairs)]
    if baseline is None and (len(pairs) > 1 or len(first.runs) > 1):
        blocks.append("The baseline is the group that ran first; `--baseline` selects another.")
    incomplete = [str(run.path) for runs in collections for run in runs if not run.complete]
    if incomplete:
        blocks.append("Left out because they are not complete: " + ", ".join(incomplete))
    blocks += _draw_curves(out, pairs)
    blocks.append(_draw_disagreements(out, pairs[0], data_dir))
    text = "\n\n".join(blocks)
    write_text(out / COMPARISON, text + "\n")
    return text


def compare_groups(collections: Sequence[Sequence[Run]], baseline: str | None) -> list[Pair]:
    """Compare the baseline with each other group of complete runs, and return at least one pair.

    Runs that differ only in their seeds form a group, also across collections. But if the same run
    occurs in two collections, for example before and after a change of the code, runs are grouped
    within each collection.

    Raises UsageError if the runs cannot be compared.
    """
    runs = list({run.path.resolve(): run for part in collections for run in part}.values())
    if len(runs) < 2:
        found = f"only one complete run, {runs[0].path}" if runs else "no complete run"
        raise UsageError(f"found {found}: a comparison needs at least two")
    require_same_test_set(runs)
    groups = [Group([run]) for run in runs] if len(runs) == 2 else group_runs(runs)
    if sum(len(group.runs) for group in groups) < len(runs) and len(collections) > 1:
        groups = [group for collection in collections for group in group_runs(collection)]
    first, *others = _baseline_first(groups, baseline)
    return [
        _test_pair(first, other, names)
        for other, names in zip(others, _pair_names(first, others), strict=True)
    ]


def _find_runs(path: Path) -> list[Run]:
    runs = find_runs(path)
    if not runs:
        raise UsageError(f"no run found in {path}")
    return runs


@lru_cache(maxsize=256)
def load_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) int64 and probabilities (N, 10) float32 of the run in ``path``.

    Raises UsageError if they cannot be read.
    """
    try:
        with np.load(path / directory.PREDICTIONS) as arrays:
            return arrays["labels"], arrays["probabilities"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path / directory.PREDICTIONS} cannot be read: {error}") from error


def _correct(run: Run) -> np.ndarray:
    """Return whether each test image is classified correctly: bool (N,)."""
    labels, probabilities = load_predictions(run.path)
    return probabilities.argmax(axis=1) == labels


def require_same_test_set(runs: Sequence[Run]) -> None:
    """Check that all runs have the same dataset name and the same test labels.

    Raises UsageError if they do not.
    """
    first = runs[0]
    for other in runs[1:]:
        names = [run.metrics["data"]["name"] for run in (first, other)]
        labels = [load_predictions(run.path)[0] for run in (first, other)]
        if names[0] != names[1] or not np.array_equal(labels[0], labels[1]):
            first_set, other_set = (
                f"{run.path} was tested on {len(run_labels):,} images of {name}"
                for run, run_labels, name in zip((first, other), labels, names, strict=True)
            )
            raise UsageError(
                "these runs were tested on different images and cannot be compared:\n"
                f"{first_set}, {other_set}"
            )


def _baseline_first(groups: Sequence[Group], baseline: str | None) -> list[Group]:
    """Sort groups by their start time, with the baseline first."""
    if len(groups) < 2:
        raise UsageError("these runs differ only in their seeds: there is nothing to compare")
    groups = sorted(groups, key=lambda group: min(_start_time(run) for run in group.runs))
    if baseline is None:
        return groups
    matching = [group for group in groups if matches(group.settings, baseline.split())]
    if len(matching) != 1:
        raise UsageError(
            f"--baseline={baseline!r} matches {len(matching) or 'none'} of the {len(groups)} "
            "groups: it must match exactly one"
        )
    return matching + [group for group in groups if group is not matching[0]]


def _start_time(run: Run) -> float:
    # config.yaml is written first, and again only if a resume changes a setting
    return (run.path / directory.CONFIG).stat().st_mtime


def _pair_names(baseline: Group, others: Sequence[Group]) -> list[tuple[str, str]]:
    """Name the baseline and each other group by the settings in which they differ.

    If several of the others would get the same name, the settings in which these differ are added.
    """
    keys = [_differing_keys([baseline, other]) for other in others]
    for used in list(keys):
        labels = [label(other.settings, used) for other in others]
        ambiguous = [
            index
            for index in range(len(others))
            if keys[index] == used and labels.count(labels[index]) > 1
        ]
        extra = _differing_keys([others[index] for index in ambiguous])
        for index in ambiguous:
            keys[index] = used + [key for key in extra if key not in used]
    return [
        (label(baseline.settings, used), label(other.settings, used))
        if used
        else (_common_directory(baseline), _common_directory(other))  # same settings and seeds
        for other, used in zip(others, keys, strict=True)
    ]


def _differing_keys(groups: Sequence[Group]) -> list[str]:
    """Return the varying settings; the seed is included for two single runs only."""
    runs = [run for group in groups for run in group.runs]
    return [key for key in varying_keys(runs) if key != "seed" or len(runs) == 2]


def _common_directory(group: Group) -> str:
    if len(group.runs) == 1:
        return str(group.runs[0].path)
    return os.path.commonpath([run.path for run in group.runs])


def _test_pair(a: Group, b: Group, names: tuple[str, str]) -> Pair:
    """Test two single runs by McNemar's test, and groups over the seeds in common."""
    if len(a.runs) == len(b.runs) == 1:
        paired_a, paired_b = a.runs, b.runs  # also with different seeds
    else:
        shared = set(a.seeds) & set(b.seeds)
        paired_a, paired_b = ([run for run in g.runs if run.seed in shared] for g in (a, b))
    if not paired_a:
        return Pair(a, b, names, None)
    if len(paired_a) == 1:
        result = statistics.mcnemar(_correct(paired_a[0]), _correct(paired_b[0]))
        return Pair(a, b, names, result)
    errors_a, errors_b = (Group(runs).values("test", "error") for runs in (paired_a, paired_b))
    return Pair(
        a,
        b,
        names,
        statistics.paired_difference(errors_a, errors_b),
        statistics.seeds_needed(errors_b - errors_a),
    )


# Pictures ----------------------------------------------------------------------------------------


def _draw_curves(out: Path, pairs: Sequence[Pair]) -> list[str]:
    """Draw validation error against epochs if all runs have a history; return its Markdown."""
    baseline_name = pairs[0].names[0] if len(pairs) == 1 else "the baseline"
    curves = {baseline_name: errors_by_epoch(pairs[0].a)}
    curves |= {pair.names[1]: errors_by_epoch(pair.b) for pair in pairs}
    if not all(len(errors) for runs in curves.values() for errors in runs):
        return []
    figures.overlaid_curves(out / VALIDATION_CURVES, dict([*curves.items()][:MAX_CURVES]))
    return [f"![{VALIDATION_CURVES}]({VALIDATION_CURVES})"]


def _draw_disagreements(out: Path, pair: Pair, data_dir: str | None) -> str:
    """Draw the images on which two groups differ most; return Markdown.

    If the images cannot be loaded, the Markdown gives the reason instead.
    """
    labels, _ = load_predictions(pair.a.runs[0].path)
    try:
        test = _load_test_images(pair.a.runs[0], data_dir)
        if not np.array_equal(test.labels.numpy(), labels):
            raise UsageError("the data is not the data on which the runs were tested")
        pixels = test.pixels.numpy()
    except Exception as error:  # the numbers do not need the images
        reason = str(error).splitlines()[0]
        return f"The images on which the predictions differ most are not shown: {reason}"
    means = [
        np.mean([load_predictions(run.path)[1] for run in group.runs], axis=0)
        for group in (pair.a, pair.b)
    ]
    indices = most_different(labels, means[0], means[1], MAX_DISAGREEMENTS)
    mosaic.disagreements(
        out / DISAGREEMENTS,
        pixels[indices],
        labels[indices],
        [mean[indices] for mean in means],
        indices,
        pair.names,
    )
    return f"![{DISAGREEMENTS}]({DISAGREEMENTS})"


def _load_test_images(run: Run, data_dir: str | None) -> Images:
    config = run.path / directory.CONFIG
    settings = read_settings(config.read_text(), config).data
    if data_dir is not None and isinstance(settings, MnistSettings):
        settings = replace(settings, dir=data_dir)
    return dataset.load_splits(settings, run.seed).test


def most_different(labels: np.ndarray, a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Return indices of at most ``count`` images for which A and B predict different digits.

    ``labels`` are (N,), ``a`` and ``b`` probabilities (N, 10). The indices are sorted by the
    difference between the probabilities of the true digit, largest first.
    """
    rows = np.arange(len(labels))
    gap = np.abs(a[rows, labels] - b[rows, labels])
    differing = np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1))
    return differing[np.argsort(-gap[differing], kind="stable")[:count]]
