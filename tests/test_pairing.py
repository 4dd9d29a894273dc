"""Which runs are compared, which one is the baseline, and how both are named, by cases."""

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mnistcnn import compare
from mnistcnn.experiments import comparison
from mnistcnn.experiments.pairing import short_names
from mnistcnn.experiments.statistics import McNemar
from mnistcnn.experiments.sweep_file import record_sweep
from mnistcnn.system.errors import UsageError

from .synthetic_runs import make_run, make_runs, settings

AUGS = ("aug=none", "aug=full")
FOUR = tuple(f"{aug} epochs={epochs}" for aug in AUGS for epochs in (3, 10))


@dataclass
class Case:
    """Runs by directory, and the comparisons that are expected of the directories.

    ``runs`` has, for each directory, the number of wrong images by overrides, in the order in which
    the runs are started. ``typed`` are overrides in the order of a sweep's command. ``expected``
    has the name of B, the name of A and the difference of their errors in percent. Directories in
    names are in braces.
    """

    runs: dict[str, dict[str, int]]
    expected: list[tuple[str, str, int]]
    baseline: str
    arguments: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    later_seeds: tuple[int, ...] = (0, 1)


OF_FIRST = "the first directory; `--baseline` selects another."
SAME_SETTINGS = f"Baseline: the group with the same settings in {{before}}, {OF_FIRST}"

CASES = {
    "two runs": Case(
        {"b": {"aug=full": 5}, "a": {"aug=none": 20}},
        [("aug=full", "aug=none", -15)],
        "Baseline: aug=none, of the first directory, {a}; `--baseline` selects another.",
        arguments=("a", "b"),
        seeds=(0,),
        later_seeds=(0,),
    ),
    "two groups in one sweep": Case(
        {"sweep": {"aug=full": 5, "aug=none": 20}},
        [("aug=full", "aug=none", -15)],
        "Baseline: aug=none, which was typed first; `--baseline` selects another.",
        typed=AUGS,
    ),
    "two groups in one directory without sweep.json": Case(
        {"sweep": {"aug=full": 5, "aug=none": 20}},
        [("aug=none", "aug=full", 15)],
        "Baseline: aug=full, which was started first; `--baseline` selects another.",
    ),
    "two directories with different settings": Case(
        {"after": {"aug=full": 5}, "before": {"aug=none": 20}},
        [("aug=full", "aug=none", -15)],
        "Baseline: aug=none, of the first directory, {before}; `--baseline` selects another.",
        arguments=("before", "after"),
    ),
    "two sweeps with different settings": Case(
        {"after": {"aug=prose": 7}, "before": {"aug=full": 5, "aug=none": 20}},
        [("aug=full", "aug=none", -15), ("aug=prose", "aug=none", -13)],
        "Baseline: aug=none, of the first directory, {before}, which was typed first there; "
        "`--baseline` selects another.",
        arguments=("before", "after"),
        typed=AUGS,
    ),
    "two directories with other seeds of the same settings": Case(
        {"after": {"aug=none": 20, "aug=full": 5}, "before": {"aug=none": 20, "aug=full": 5}},
        [("aug=full", "aug=none", -15)],
        "Baseline: aug=none, of the first directory, {before}, which was started first there; "
        "`--baseline` selects another.",
        arguments=("before", "after"),
        later_seeds=(2, 3),
    ),
    "before and after, one group": Case(
        {"after": {"aug=none": 5}, "before": {"aug=none": 20}},
        [("{after}", "{before}", -15)],
        f"Baseline: {{before}}, {OF_FIRST}",
        arguments=("before", "after"),
    ),
    "before and after, two groups": Case(
        {"after": {"aug=full": 4, "aug=none": 5}, "before": {"aug=none": 20, "aug=full": 9}},
        [
            ("{after}: aug=none", "{before}: aug=none", -15),
            ("{after}: aug=full", "{before}: aug=full", -5),
        ],
        SAME_SETTINGS,
        arguments=("before", "after"),
    ),
    "before and after, four groups": Case(
        {
            "after": {overrides: 20 + number for number, overrides in enumerate(FOUR)},
            "before": {overrides: 20 - number for number, overrides in enumerate(FOUR)},
        },
        [
            ("{after}: aug=none epochs=3", "{before}: aug=none epochs=3", 0),
            ("{after}: aug=none epochs=10", "{before}: aug=none epochs=10", 2),
            ("{after}: aug=full epochs=3", "{before}: aug=full epochs=3", 4),
            ("{after}: aug=full epochs=10", "{before}: aug=full epochs=10", 6),
        ],
        SAME_SETTINGS,
        arguments=("before", "after"),
    ),
    "three directories": Case(
        {
            "last": {"aug=none": 21, "aug=full": 8},
            "after": {"aug=none": 5, "aug=full": 4},
            "before": {"aug=none": 20, "aug=full": 9},
        },
        [
            ("{after}: aug=none", "{before}: aug=none", -15),
            ("{after}: aug=full", "{before}: aug=full", -5),
            ("{last}: aug=none", "{before}: aug=none", 1),
            ("{last}: aug=full", "{before}: aug=full", -1),
        ],
        SAME_SETTINGS,
        arguments=("before", "after", "last"),
    ),
    "a new group beside the old one": Case(
        {"after": {"aug=none": 18, "aug=full": 9}, "before": {"aug=none": 20}},
        [
            ("{after}: aug=none", "{before}: aug=none", -2),
            ("{after}: aug=full", "{before}: aug=none", -11),
        ],
        f"Baseline: {{before}}, {OF_FIRST}",
        arguments=("before", "after"),
    ),
}


def make_case(case: Case, root: Path) -> None:
    for directory, groups in case.runs.items():
        is_first = not case.arguments or directory == case.arguments[0]
        for overrides, wrong in groups.items():
            for seed in case.seeds if is_first else case.later_seeds:
                path = root / directory / f"{overrides.replace(' ', '_')}-{seed}"
                make_run(path, *overrides.split(), f"seed={seed}", accuracy=1 - wrong / 100)
        if case.typed and is_first:
            jobs = [settings(each, f"seed={seed}") for each in case.typed for seed in case.seeds]
            record_sweep(root / directory, ["python"], ["aug", "seed"], jobs)


def as_made(source: Path, target: Path) -> dict[str, str]:
    source.rename(target)
    return {}


def copy_without_times(source: Path, target: Path) -> dict[str, str]:
    """Copy as ``cp -r``: directories in a random order, with new times."""
    paths = sorted(source.iterdir())
    random.Random(0).shuffle(paths)
    for path in paths:
        shutil.copytree(path, target / path.name, copy_function=shutil.copy)
    return {}


def copy_with_times(source: Path, target: Path) -> dict[str, str]:
    shutil.copytree(source, target)
    return {}


def rename(source: Path, target: Path) -> dict[str, str]:
    """Move and rename all directories so that their names have the opposite order."""
    names = {}
    for index, path in enumerate(sorted(source.iterdir(), reverse=True)):
        names[path.name] = f"{index}-renamed"
        for number, run_dir in enumerate(sorted(path.glob("*/"), reverse=True)):
            (target / names[path.name]).mkdir(parents=True, exist_ok=True)
            run_dir.rename(target / names[path.name] / f"run-{number}")
        for file in path.glob("*.json"):
            file.rename(target / names[path.name] / file.name)
    return names


def set_random_times(root: Path) -> None:
    generator = random.Random(0)
    for path in sorted(root.rglob("*")):
        time = generator.randrange(10**9, 2 * 10**9)
        os.utime(path, (time, time))


@pytest.mark.parametrize("move", [as_made, copy_without_times, copy_with_times, rename])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_compared_groups_and_their_names(tmp_path, case, move):
    make_case(case, tmp_path / "made")
    names = {each: each for each in case.runs} | move(tmp_path / "made", tmp_path / "moved")
    set_random_times(tmp_path / "moved")
    paths = [tmp_path / "moved" / names[each] for each in case.arguments or case.runs]
    result = comparison.compare_paths(paths, tmp_path / "out", None, None)

    differences = [
        pair.result.difference if isinstance(pair.result, McNemar) else pair.result.mean
        for pair in result.pairs
    ]
    found = [
        (pair.names[1], pair.names[0], round(100 * difference, 9))
        for pair, difference in zip(result.pairs, differences, strict=True)
    ]
    assert found == [
        (b.format_map(names), a.format_map(names), change) for b, a, change in case.expected
    ]
    assert case.baseline.format_map(names) in result.text.splitlines()
    if len(found) == 1:
        change = f"{case.expected[0][2]:+.3f}"
        b, a = found[0][:2]
        assert f"**{b}** against **{a}**: test error {change} points" in result.text


def compared(tmp_path: Path, *paths: str, baseline: str | None = None) -> comparison.Comparison:
    out = tmp_path / "out"
    return comparison.compare_paths([tmp_path / each for each in paths], out, baseline, None)


def names(result: comparison.Comparison) -> list[tuple[str, str]]:
    return [(pair.names[1], pair.names[0]) for pair in result.pairs]


def test_the_arguments_decide_the_direction(tmp_path):
    make_case(CASES["before and after, two groups"], tmp_path)
    result = compared(tmp_path, "after", "before")
    assert names(result) == [
        ("before: aug=full", "after: aug=full"),
        ("before: aug=none", "after: aug=none"),
    ]
    assert {pair.result.mean > 0 for pair in result.pairs} == {True}


def test_the_table_has_a_row_for_each_group_of_each_directory(tmp_path):
    make_case(CASES["before and after, two groups"], tmp_path)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")][:3]
        for line in compared(tmp_path, "before", "after").text.splitlines()[:6]
    ]
    assert rows[:1] + rows[2:] == [
        ["directory", "aug", "n"],
        ["before", "none", "2"],
        ["before", "full", "2"],
        ["after", "none", "2"],
        ["after", "full", "2"],
    ]


def test_every_curve_of_every_directory_is_drawn(tmp_path, monkeypatch):
    drawn = []
    make_case(CASES["before and after, two groups"], tmp_path)
    monkeypatch.setattr(
        "mnistcnn.evaluation.figures.overlaid_curves", lambda _, errors, *__: drawn.extend(errors)
    )
    compared(tmp_path, "before", "after").write()
    assert drawn == ["before: aug=none", "before: aug=full", "after: aug=none", "after: aug=full"]


def test_groups_without_a_counterpart_are_named(tmp_path):
    make_case(
        Case({"a": {"aug=none": 9, "aug=full": 8}, "b": {"aug=full": 7, "aug=prose": 6}}, [], ""),
        tmp_path,
    )
    result = compared(tmp_path, "a", "b")
    assert names(result) == [("b: aug=full", "a: aug=full")]
    assert "Only in one directory and not compared: a: aug=none, b: aug=prose" in result.text


def test_directories_without_a_common_group_with_the_first_are_refused(tmp_path):
    make_case(
        Case(
            {
                "a": {"aug=none": 9, "aug=full": 8},
                "b": {"aug=prose": 7},
                "c": {"aug=prose": 6},
            },
            [],
            "",
        ),
        tmp_path,
    )
    with pytest.raises(UsageError, match="no other directory has runs with the settings of a run"):
        compared(tmp_path, "a", "b", "c")


def test_single_runs_with_different_seeds_are_named_with_their_seeds(tmp_path):
    make_runs(tmp_path / "a", "seed=0")
    make_runs(tmp_path / "b", "seed=0", "aug=full seed=3", "aug=prose seed=0")
    assert names(compared(tmp_path, "a", "b")) == [
        ("b: aug=none", "a: aug=none"),
        ("b: aug=full seed=3", "a: aug=none seed=0"),
        ("b: aug=prose", "a: aug=none"),
    ]
    make_runs(tmp_path / "c", "seed=3")
    shutil.rmtree(tmp_path / "b" / "1"), shutil.rmtree(tmp_path / "b" / "2")
    assert names(compared(tmp_path, "a", "b", "c")) == [("b", "a"), ("c: seed=3", "a: seed=0")]


# Why a group is the baseline ---------------------------------------------------------------------


def record_commands(path: Path, *commands: str) -> None:
    """Record a command per text; a text has the overrides of its jobs, separated by commas."""
    path.mkdir(parents=True, exist_ok=True)
    for command in commands:
        jobs = [each.split() for each in command.split(",")]
        keys = [override.partition("=")[0] for override in jobs[0]]
        record_sweep(path, ["python", command], keys, [settings(*job) for job in jobs])


def baseline(tmp_path: Path, *paths: str) -> str:
    note = compared(tmp_path, *paths).pairing.baseline_note
    return note.removeprefix("Baseline: ").removesuffix("; `--baseline` selects another.")


def test_a_group_of_the_sweep_that_was_started_first(tmp_path):
    make_run(tmp_path / "b" / "1", "optimizer.lr=0.1", status="failed")
    make_run(tmp_path / "a" / "1", "aug=none")
    make_run(tmp_path / "b" / "2", "optimizer.lr=0.5", "aug=full")
    record_commands(tmp_path / "b", "optimizer.lr=0.1,optimizer.lr=0.5")
    expected = "aug=full optimizer.lr=0.5, of the sweep that was started first"
    assert baseline(tmp_path, ".") == expected
    # without a sweep, the failed run has no part in it
    (tmp_path / "b" / "sweep.json").unlink()
    assert baseline(tmp_path, ".") == "aug=none optimizer.lr=1, which was started first"


def test_a_failed_run_of_the_same_group_was_started_first(tmp_path):
    make_run(tmp_path / "1", "aug=full", "seed=0", status="failed")
    make_run(tmp_path / "2", "aug=none", "seed=0")
    make_run(tmp_path / "3", "aug=full", "seed=1")
    make_run(tmp_path / "4", "aug=none", "seed=1")
    assert baseline(tmp_path, ".") == "aug=full, which was started first"


def test_a_value_that_was_not_typed_is_the_default(tmp_path):
    for lr in ("0.1", "0.2", "1"):
        for seed in (0, 1):
            make_run(tmp_path / f"{lr}-{seed}", f"optimizer.lr={lr}", f"seed={seed}")
    second = "optimizer.lr=0.1 seed=0,optimizer.lr=0.2 seed=0"
    record_commands(tmp_path, "seed=0,seed=1", second)
    assert baseline(tmp_path, ".") == "optimizer.lr=1, the default"
    for seed in (0, 1):
        shutil.rmtree(tmp_path / f"1-{seed}")
    assert baseline(tmp_path, ".") == "optimizer.lr=0.1, which was typed first"


def test_of_two_runs_with_equal_settings_the_lower_seed_is_the_baseline(tmp_path):
    make_runs(tmp_path / "sweep", "seed=3", "seed=2")
    assert baseline(tmp_path, "sweep") == "seed=2, the lower seed"


def test_without_a_recorded_start_the_names_decide(tmp_path):
    for name in ("b", "a"):
        make_run(tmp_path / name, f"aug={'none' if name == 'a' else 'full'}", started_at=None)
    assert baseline(tmp_path, ".") == "aug=none, the first in the order of the directories' names"


def test_a_first_directory_without_a_complete_run_is_refused(tmp_path, command):
    for name, aug in (("f", "prose"), ("g", "full"), ("h", "none")):
        make_run(
            tmp_path / name / "1", f"aug={aug}", status="failed" if name == "f" else "finished"
        )
    code, out, err = command(compare.main, "f", "g", "h", "--out", "out")
    assert (code, out) == (2, "")
    assert err == (
        "mnistcnn: f has no complete run: give the directory of the baseline first, or select the "
        f"baseline by --baseline\n- {Path('f') / '1'}: failed\n"
    )
    assert not (tmp_path / "out").exists()
    result = compared(tmp_path, "g", "f", "h")
    assert names(result) == [("aug=none", "aug=full")]
    assert f"- {tmp_path / 'f' / '1'}: failed" in result.text.splitlines()
    assert names(compared(tmp_path, "f", "g", "h", baseline="aug=none")) == [
        ("aug=full", "aug=none")
    ]


# The option --baseline ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "runs",
    [("seed=0", "seed=0"), ("model=custom", "model=convnet"), ("aug=none epochs=3", "aug=full")],
    ids=str,
)
def test_every_group_that_an_error_names_is_accepted(tmp_path, runs):
    make_runs(tmp_path / "sweep", *runs)
    with pytest.raises(UsageError, match="matches none of the 2 groups: choose one of ") as error:
        compared(tmp_path, "sweep", baseline="aug=other")
    choices = str(error.value).partition("choose one of ")[2].split(", ")
    assert len(choices) == 2
    for choice in choices:
        result = compared(tmp_path, "sweep", baseline=choice.strip("'"))
        assert next(iter(result.pairing.groups)) == choice.strip("'")


def test_the_baseline_can_be_another_directory(tmp_path):
    make_case(CASES["before and after, two groups"], tmp_path)
    result = compared(tmp_path, "before", "after", baseline="after")
    assert names(result) == [
        ("before: aug=full", "after: aug=full"),
        ("before: aug=none", "after: aug=none"),
    ]
    assert "Baseline: the group with the same settings in after, selected by" in result.text
    result = compared(tmp_path, "before", "after", baseline=str(tmp_path / "after"))
    assert names(result)[0][0].startswith("before")
    message = "--baseline='aug=none': .* choose one of before, after$"
    with pytest.raises(UsageError, match=message):
        compared(tmp_path, "before", "after", baseline="aug=none")


def test_a_selected_baseline_is_named(tmp_path):
    make_case(CASES["two groups in one sweep"], tmp_path)
    result = compared(tmp_path, "sweep", baseline="aug=full")
    assert names(result) == [("aug=none", "aug=full")]
    assert "Baseline: aug=full, selected by `--baseline`." in result.text
    assert list(result.pairing.groups) == ["aug=full", "aug=none"]


# The same runs twice -----------------------------------------------------------------------------


def test_a_directory_that_is_given_twice_counts_once(tmp_path):
    make_case(CASES["two groups in one sweep"], tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "sweep")
    for second in ("sweep", "sweep/../sweep", "link"):
        result = compared(tmp_path, "sweep", second)
        assert names(result) == [("aug=full", "aug=none")]
        line = f"- {tmp_path / second}: 4 of 4 runs, which were given before"
        assert line in result.text.splitlines()
    with pytest.raises(UsageError, match=r"only one complete run, (.|\n)*given before"):
        compared(tmp_path, "sweep/aug=none-0", "sweep/aug=none-0")


def test_the_directory_of_a_run_selects_its_group_as_the_baseline(tmp_path):
    make_case(CASES["two groups in one sweep"], tmp_path)
    result = compared(tmp_path, "sweep/aug=full-1", "sweep")
    assert names(result) == [("aug=none", "aug=full")]
    assert [len(group.runs) for group in result.pairing.groups.values()] == [2, 2]
    assert "Baseline: aug=full, of the first directory, aug=full-1; " in result.text
    assert "sweep: 1 of 4 runs, which were given before" in result.text


def test_a_copy_is_compared_and_named_as_a_copy(tmp_path):
    make_case(CASES["two groups in one sweep"], tmp_path)
    shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
    result = compared(tmp_path, "sweep", "copy")
    assert [pair.result.mean for pair in result.pairs] == [0, 0]
    line = (
        "The runs of copy: aug=none are copies of those of sweep: aug=none: their metrics are "
        "equal."
    )
    assert line in result.text.splitlines()


def test_repeated_runs_below_one_directory_are_named(tmp_path):
    make_case(CASES["two groups in one sweep"], tmp_path)
    shutil.copytree(tmp_path / "sweep" / "aug=none-0", tmp_path / "sweep" / "x")
    result = compared(tmp_path, "sweep")
    assert [group.seeds for group in result.pairing.groups.values()] == [[0, 1], [0, 1]]
    x, original = tmp_path / "sweep" / "x", tmp_path / "sweep" / "aug=none-0"
    line = f"- {x}: has the same settings and seed as {original}"
    assert line in result.text.splitlines()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["outputs/before", "outputs/after/"], ["before", "after"]),
        (["a/run", "b/run"], ["a/run", "b/run"]),
        (["sweep", "sweep/run"], ["sweep", "run"]),
        (["sweep/../x", "sweep"], ["x", "sweep"]),
    ],
)
def test_directories_are_named_by_their_last_components(monkeypatch, tmp_path, paths, expected):
    monkeypatch.chdir(tmp_path)
    assert short_names([Path(path) for path in paths]) == expected
