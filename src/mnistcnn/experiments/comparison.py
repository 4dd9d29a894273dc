"""Compare runs or groups of runs on the same test set; write a table, a verdict and pictures."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnistcnn.experiments import statistics
from mnistcnn.experiments.comparison_page import write_comparison_page
from mnistcnn.experiments.curves import draw_curves, split_by_history
from mnistcnn.experiments.disagreements import DisagreementImages
from mnistcnn.experiments.documents import draw_pictures, plain_text, write_or_warn
from mnistcnn.experiments.groups import Group, group_key, without_repetitions
from mnistcnn.experiments.pairing import Collection, NamedPair, Pairing, pair_groups, short_names
from mnistcnn.experiments.predictions import (
    correct_images,
    load_predictions,
    require_same_test_set,
)
from mnistcnn.experiments.summary import group_table, table_caption
from mnistcnn.experiments.sweep_file import group_positions, jobs_not_started, sort_as_typed
from mnistcnn.experiments.verdicts import Pair, Verdicts, verdicts
from mnistcnn.runs import directory
from mnistcnn.runs.directory import COMPARISON_HTML, VALIDATION_CURVES
from mnistcnn.runs.store import Run, find_runs
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.errors import UsageError

COMPARISON = "comparison.md"
DISAGREEMENTS = "disagreements.png"
MAX_JOBS = 12  # jobs that are listed


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, and the directory for its files.

    ``text`` is Markdown without the pictures.
    """

    pairing: Pairing
    pairs: list[Pair]
    verdicts: Verdicts
    left_out: list[str]
    text: str
    out: Path
    data_dir: str | None

    def write(self) -> None:
        """Write ``comparison.md``, then the page and the pictures, and add these to the text.

        Raises WriteError if ``comparison.md`` cannot be written. A picture that cannot be drawn is
        a warning, and so is the page.
        """
        write_text(self.out / COMPARISON, self.text + "\n")
        curves, missing = split_by_history(self.pairing.groups)
        images = DisagreementImages(self.pairs, self.data_dir)
        functions: dict[str, Callable[[Path], None]] = {DISAGREEMENTS: images.draw}
        if curves:
            functions = {VALIDATION_CURVES: lambda path: draw_curves(path, curves)} | functions
        pictures = draw_pictures(self.out, functions)
        write_or_warn(
            self.out / COMPARISON_HTML,
            lambda path: write_comparison_page(
                path, self.pairing, self.pairs, self.verdicts, self.left_out, images
            ),
        )
        write_text(self.out / COMPARISON, "\n\n".join([self.text, *missing, *pictures]) + "\n")


def run_comparison(
    paths: Sequence[Path], out: Path, baseline: str | None, data_dir: str | None
) -> None:
    """Compare runs as :func:`compare_paths`, print the result, then write its files.

    On a full disk, the result is printed before the error is raised.
    """
    comparison = compare_paths(paths, out, baseline, data_dir)
    with contextlib.suppress(BrokenPipeError):
        print(f"{plain_text(comparison.text)}\n\nResults: {out}", flush=True)
    comparison.write()


def compare_paths(
    paths: Sequence[Path], out: Path, baseline: str | None, data_dir: str | None
) -> Comparison:
    """Compare all complete runs below ``paths``, and create the directory ``out``.

    ``baseline`` selects the group with which the others are compared, see :func:`pair_groups`.
    ``data_dir`` replaces the runs' ``data.dir``. Raises UsageError if the runs cannot be compared.
    """
    collections, left_out = find_collections(paths)
    if baseline is None and len(collections) > 1 and not collections[0].runs:
        line = (
            f"{paths[0]} has no complete run: give the directory of the baseline first, or select "
            "the baseline by --baseline"
        )
        raise UsageError("\n".join([line, *left_out]))
    try:
        pairing, pairs = compare_groups(collections, baseline)
    except UsageError as error:
        raise UsageError("\n".join([str(error), *left_out])) from error
    if existing := [name for name in (COMPARISON, directory.SWEEP) if (out / name).exists()]:
        raise UsageError(f"--out={out} already holds {existing[0]}: choose another directory")
    out = directory.create_run_dir(out, "--out")
    groups, result = list(pairing.groups.values()), verdicts(pairs)
    blocks = [
        group_table(groups, pairing.directories),
        table_caption(groups),
        *result.markdown(),
        pairing.baseline_note,
        *pairing.notes,
    ]
    if left_out:
        blocks.append("\n".join(["Left out:", "", *left_out]))
    text = "\n\n".join(blocks)
    return Comparison(pairing, pairs, result, left_out, text, out, data_dir)


def find_collections(paths: Sequence[Path]) -> tuple[list[Collection], list[str]]:
    """Return the usable runs below each path, and a line about each other run.

    A run that is below several paths belongs to the first of them. Of several runs with the same
    settings and seed below a path, :func:`without_repetitions` keeps one. Raises UsageError if
    there is no run below a path.
    """
    absolute = list(dict.fromkeys(path.absolute() for path in paths))
    names = dict(zip(absolute, short_names(absolute), strict=True))
    collections: list[Collection] = []
    left_out: list[str] = []
    known: set[Path] = set()
    for path in paths:
        runs = sort_as_typed(find_runs(path), path)
        if not runs:
            raise UsageError(f"no run found in {path}")
        new = [run for run in runs if run.path.resolve() not in known]
        if len(new) < len(runs):
            count = len(runs) - len(new)
            left_out.append(f"- {path}: {count} of {len(runs)} runs, which were given before")
        known |= {run.path.resolve() for run in new}
        left_out += [f"- {run.path}: {run.outcome}" for run in new if not run.usable]
        for sweep, jobs in jobs_not_started(runs, path).items():
            if jobs:
                left_out.append(f"- {sweep}: not started yet: {_list_jobs(jobs)}")
        readable = _with_predictions([run for run in new if run.usable], left_out)
        if len(readable) > 2 or len(paths) > 1:
            readable = _without_repetitions(readable, left_out)
        positions = group_positions(runs, path)
        collections.append(Collection(path, names[path.absolute()], readable, positions))
    return collections, left_out


def _list_jobs(jobs: Sequence[str]) -> str:
    text = ", ".join(jobs[:MAX_JOBS])
    return text + (f" and {len(jobs) - MAX_JOBS} more" if len(jobs) > MAX_JOBS else "")


def _with_predictions(runs: Sequence[Run], left_out: list[str]) -> list[Run]:
    """Return the runs whose predictions can be read; append a line about each other run."""
    readable = []
    for run in runs:
        try:
            load_predictions(run.path)
            readable.append(run)
        except UsageError as error:
            left_out.append(f"- {error}")
    return readable


def _without_repetitions(runs: Sequence[Run], left_out: list[str]) -> list[Run]:
    """Return one run for each settings and seed; append a line about each other run."""
    kept = {(group_key(run), run.seed): run for run in without_repetitions(runs)}
    for run in runs:
        same = kept[group_key(run), run.seed]
        if same is not run:
            kind = "an evaluation with" if run.is_evaluation else "has"
            left_out.append(f"- {run.path}: {kind} the same settings and seed as {same.path}")
    return list(kept.values())


def compare_groups(
    collections: Sequence[Collection], baseline: str | None
) -> tuple[Pairing, list[Pair]]:
    """Pair the groups of runs by :func:`pair_groups`, and test each pair; there is at least one.

    Raises UsageError if the runs cannot be compared.
    """
    runs = [run for collection in collections for run in collection.runs]
    if len(runs) < 2:
        found = f"only one complete run, {runs[0].path}" if runs else "no complete run"
        raise UsageError(f"found {found}: a comparison needs at least two")
    require_same_test_set(runs)
    pairing = pair_groups(collections, baseline)
    return pairing, [_test_pair(pair) for pair in pairing.pairs]


def _test_pair(pair: NamedPair) -> Pair:
    """Test two single runs by McNemar's test, and groups over the seeds in common."""
    a, b, names = pair.a, pair.b, pair.names
    if len(a.runs) == len(b.runs) == 1:
        paired_a, paired_b = a.runs, b.runs  # also with different seeds
    else:
        shared = set(a.seeds) & set(b.seeds)
        paired_a, paired_b = ([run for run in g.runs if run.seed in shared] for g in (a, b))
    if not paired_a:
        return Pair(a, b, names, None)
    if len(paired_a) == 1:
        result = statistics.mcnemar(correct_images(paired_a[0]), correct_images(paired_b[0]))
        return Pair(a, b, names, result)
    errors_a, errors_b = (Group(runs).values("test", "error") for runs in (paired_a, paired_b))
    return Pair(
        a,
        b,
        names,
        statistics.paired_difference(errors_a, errors_b),
        statistics.seeds_needed(errors_b - errors_a),
    )
