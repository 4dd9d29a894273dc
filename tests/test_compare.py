"""Does a change help? What is said of runs, and what is not said."""

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from mnistcnn import compare, comparison, data, rundir, sweep, training
from mnistcnn.config import to_yaml
from mnistcnn.errors import UsageError

from .conftest import TINY, settings

LABELS = np.arange(100) % 10


def make_run(path, wrong, *overrides: str, labels=LABELS, name="mnist5k", status="finished"):
    """A run's directory as far as a comparison looks; it takes the images ``wrong`` for others."""
    path.mkdir(parents=True)
    chosen = settings("data=mnist5k", *overrides)
    (path / rundir.CONFIG).write_text(to_yaml(chosen))
    digits = labels.copy()
    digits[list(wrong)] = (digits[list(wrong)] + 1) % 10
    probabilities = np.full((len(labels), 10), 0.01, dtype=np.float32)
    probabilities[np.arange(len(labels)), digits] = 0.91
    content = io.BytesIO()
    np.savez(content, labels=labels, predictions=digits, probabilities=probabilities)
    (path / rundir.PREDICTIONS).write_bytes(content.getvalue())
    error = len(set(wrong)) / len(labels)
    score = {"accuracy": 1 - error, "error": error, "loss": error}
    metrics = {"status": status, "data": {"name": name, "train": 50}, "seconds": {"total": 1.0}}
    metrics |= dict.fromkeys(("train", "validation", "test"), score)
    (path / rundir.METRICS).write_text(json.dumps(metrics))
    rundir.append_history(path, {"epoch": 1, "val_accuracy": 1 - error})
    return path


def answer(tmp_path, *paths, baseline=None) -> str:
    return comparison.run(paths, tmp_path / "out", baseline, None)


def test_two_runs_are_compared_by_mcnemars_test(tmp_path):
    one = make_run(tmp_path / "one", range(0, 12))  # 12 wrong
    two = make_run(tmp_path / "two", [0, 1, 50], "aug=full")  # two of them wrong here too
    text = answer(tmp_path, one, two)
    assert "**aug=full** against **aug=none**: test error -9.000 points" in text
    # 10 images are right in the second alone, 1 in the first alone
    assert "1 images right in aug=none alone, 10 in aug=full alone, of 100" in text
    assert f"p = {binomtest(1, 11).pvalue:.3g} " in text
    assert "These two networks do differ." in text and "other seeds" in text
    assert (tmp_path / "out" / comparison.COMPARISON).read_text() == text + "\n"


def test_two_runs_of_one_recipe_are_compared_too(tmp_path):
    one = make_run(tmp_path / "one", range(6), "seed=1")
    two = make_run(tmp_path / "two", range(7), "seed=2")
    text = answer(tmp_path, one, two)
    assert "**seed=2** against **seed=1**" in text and "No difference is shown" in text


def test_the_same_run_twice_goes_by_its_directories(tmp_path):
    one, two = make_run(tmp_path / "one", range(6)), make_run(tmp_path / "two", range(6))
    text = answer(tmp_path, one, two)
    assert f"**{two}** against **{one}**: test error +0.000 points" in text
    assert "p = 1 " in text and "No difference is shown" in text


def sweep_of(tmp_path, wrong: dict[str, Callable[[int], int]], seeds):
    """Runs with ``wrong(seed)`` wrong images, by override."""
    for override, count in wrong.items():
        for seed in seeds:
            make_run(tmp_path / "sweep" / f"{override}-{seed}", range(count(seed)), override,
                     f"seed={seed}")  # fmt: skip
    return tmp_path / "sweep"


def test_six_seeds_can_show_a_difference(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = answer(tmp_path, sweep_of(tmp_path, wrong, range(6)), baseline="aug=none")
    # differences -5, -5, -7, -7, -9, -9: all of one sign, of 2^6 patterns two are as extreme
    assert "**aug=full** against **aug=none**: test error -7.000 points" in text
    assert "p = 0.0312 (paired over the 6 seeds that both have" in text and "It helps." in text
    assert "differ" not in text.split("against")[1].split("![")[0]


def test_the_other_way_round_it_harms(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = answer(tmp_path, sweep_of(tmp_path, wrong, range(6)), baseline="aug=full")
    assert "**aug=none** against **aug=full**: test error +7.000 points" in text
    assert "It harms." in text


def test_few_seeds_show_nothing_and_it_is_said_how_many_would(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = answer(tmp_path, sweep_of(tmp_path, wrong, range(4)), baseline="aug=none")
    assert "No difference is shown. With 4 seeds p cannot be below 0.125" in text
    assert "about 6 seeds" in text and "helps" not in text


def test_an_interval_that_holds_zero_is_never_called_a_difference(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed % 3, "aug=full": lambda seed: 20 + (seed + 1) % 3}
    text = answer(tmp_path, sweep_of(tmp_path, wrong, range(8)), baseline="aug=none")
    assert "No difference is shown." in text
    assert "helps" not in text and "harms" not in text
    assert comparison._verdict(-0.01, (-0.02, 0.0), 0.01, single=False) == "not shown"
    assert comparison._verdict(-0.01, (-0.02, -0.001), 0.06, single=False) == "not shown"
    assert comparison._verdict(-0.01, (-0.02, -0.001), 0.05, single=False) == "helps"
    assert comparison._verdict(0.01, (0.001, 0.02), 0.05, single=True) == "these two differ"


def test_only_shared_seeds_are_paired(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path / f"a{seed}", range(10), f"seed={seed}")
    for seed in (1, 2, 3):
        make_run(tmp_path / f"b{seed}", range(12), f"seed={seed}", "aug=full")
    assert "paired over the 2 seeds" in answer(tmp_path, tmp_path)


def test_without_shared_seeds_nothing_is_paired(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", range(10), f"seed={seed}")
    for seed in (2, 3):
        make_run(tmp_path / f"b{seed}", range(5), f"seed={seed}", "aug=full")
    text = answer(tmp_path, tmp_path)
    assert "no seed in common" in text and "helps" not in text


def test_several_groups_are_compared_with_one_and_p_is_adjusted(tmp_path):
    wrong = {
        "aug=none": lambda seed: 20 + seed,
        "aug=full": lambda seed: 15 + seed % 2,
        "optimizer=adam": lambda seed: 22 + seed,
    }
    text = answer(
        tmp_path, sweep_of(tmp_path, wrong, range(6)), baseline="aug=none optimizer=adadelta"
    )
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert "| -7.000 " in rows["aug=full"] and "0.0625" in rows["aug=full"]  # twice 2 / 2^6
    assert "not shown" in rows["aug=full"] and "not shown" in rows["optimizer=adam"]
    assert "adjusted for 2 comparisons (Holm)" in text


def test_names_tell_groups_apart_that_differ_in_more(tmp_path):
    make_run(tmp_path / "a", range(9))
    make_run(tmp_path / "b", range(8), "optimizer=adam", "optimizer.lr=0.1")
    make_run(tmp_path / "c", range(7), "optimizer=adam")
    names = [pair.names[1] for pair in comparison.compare([sweep.find(tmp_path)], None)]
    assert names == ["optimizer=adam optimizer.lr=0.1", "optimizer=adam optimizer.lr=0.001"]


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"name": "mnist"}, "100 images of mnist5k"),
        ({"labels": LABELS[:50]}, "50 images of mnist5k"),
        ({"labels": LABELS[::-1].copy()}, "different images"),
    ],
    ids=["another dataset", "another number", "another order"],
)
def test_other_test_sets_are_refused(tmp_path, second, named):
    one = make_run(tmp_path / "one", [1, 2])
    two = make_run(tmp_path / "two", [1], "aug=full", **second)
    with pytest.raises(UsageError, match="tested on different images") as error:
        answer(tmp_path, one, two)
    assert named in str(error.value) and not (tmp_path / "out").exists()


def test_runs_that_are_not_complete_are_left_out_and_named(tmp_path):
    make_run(tmp_path / "runs" / "a", [1, 2])
    make_run(tmp_path / "runs" / "b", [1], "aug=full")
    make_run(tmp_path / "runs" / "c", [1], "aug=prose", status="failed")
    text = answer(tmp_path, tmp_path / "runs")
    assert f"not complete: {tmp_path / 'runs' / 'c'}" in text and "aug=prose" not in text


@pytest.mark.parametrize(
    ("runs", "baseline", "named"),
    [
        ([], None, "holds no run"),
        ([()], None, "only one complete run, "),
        ([(), ("seed=1",), ("seed=2",)], None, "differ in their seeds alone"),
        ([(), ("aug=full",)], "aug=ful", "describes none of the 2 groups"),
        ([(), ("aug=full",)], "seed=0", "describes 2 of the 2 groups"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(tmp_path, runs, baseline, named):
    (tmp_path / "runs").mkdir()
    for index, overrides in enumerate(runs):
        make_run(tmp_path / "runs" / str(index), [1], *overrides)
    with pytest.raises(UsageError, match=named):
        answer(tmp_path, tmp_path / "runs", baseline=baseline)


def test_unreadable_predictions_are_named(tmp_path):
    one, two = make_run(tmp_path / "one", [1]), make_run(tmp_path / "two", [2], "aug=full")
    (two / rundir.PREDICTIONS).write_bytes(b"PK cut off")
    with pytest.raises(UsageError, match="two/predictions.npz cannot be read"):
        answer(tmp_path, one, two)


def test_the_images_that_differ_most_come_first():
    labels = np.array([0, 1, 2, 3])
    a, b = np.full((4, 10), 0.05), np.full((4, 10), 0.05)
    a[[0, 1, 2, 3], [0, 1, 2, 4]] = 0.55  # the last one wrong
    b[0, 7], b[1, 1], b[2, 7], b[3, 3] = 0.55, 0.55, 0.9, 0.55  # 0 and 2 wrong
    a[2, 2] = 0.95
    assert comparison.most_different(labels, a, b, 12).tolist() == [2, 0, 3]
    assert comparison.most_different(labels, a, b, 1).tolist() == [2]


def test_the_command_on_two_real_runs(command, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        training.run(settings(*TINY, f"seed={seed}", "aug=full"), tmp_path / name)
    code, out, err = command(compare.main, "a", "b", "--out", "answer")
    assert code == 0 and err == ""
    assert "**seed=1** against **seed=0**" in out and "McNemar's exact test" in out
    written = {path.name for path in (tmp_path / "answer").iterdir()}
    assert written == {"comparison.md", "validation_curves.png", "disagreements.png"}
    code, out, err = command(compare.main, "a", "nowhere")
    assert code == 2 and err == "mnistcnn: nowhere is not a directory\n"


def test_missing_images_take_away_one_picture_only(tmp_path, monkeypatch):
    one, two = make_run(tmp_path / "one", [1]), make_run(tmp_path / "two", [2], "aug=full")

    def nowhere(*_):
        raise UsageError("data.dir: no such place")

    monkeypatch.setattr(data, "load", nowhere)
    text = answer(tmp_path, one, two)
    assert "are not shown: data.dir: no such place" in text
    assert not (tmp_path / "out" / comparison.DISAGREEMENTS).exists()
