"""Runs that were made by hand, and what is said of them together."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mnistcnn import plots, rundir, sweep
from mnistcnn.config import fingerprint, to_yaml
from mnistcnn.errors import PlainError, UsageError

from .conftest import settings

PNG = b"\x89PNG"
settings = cache(settings)


def make(
    path: Path,
    *overrides: str,
    accuracy: float = 0.9,
    status: str = "finished",
    seconds: float = 10.0,
    **more: object,
) -> sweep.Run:
    """A directory as a run of two epochs leaves it, as far as a summary looks.

    ``accuracy`` is that of the test; validation's is 0.01 and training's 0.02 higher. What is not
    complete has no scores.
    """
    path.mkdir(parents=True)
    chosen = settings(*overrides)
    (path / rundir.CONFIG).write_text(to_yaml(chosen))
    metrics = {
        "status": status,
        "config_sha256": fingerprint(chosen),
        "data": {"train": round(50_000 * chosen.data.fraction)},
        "seconds": {"total": seconds},
    }
    if status in ("finished", "early_stopped"):
        metrics["epochs"] = 2
        (path / rundir.PREDICTIONS).write_bytes(b"of no interest here")
        for part, higher in (("train", 0.02), ("validation", 0.01), ("test", 0.0)):
            right = round(accuracy + higher, 4)
            metrics[part] = {"accuracy": right, "error": round(1 - right, 4)}
        for epoch, lower in ((1, 0.2), (2, 0.0)):
            row = {"epoch": epoch, "val_accuracy": round(accuracy + 0.01 - lower, 4)}
            rundir.append_history(path, row)
    (path / rundir.METRICS).write_text(json.dumps(metrics | more))
    run = sweep.read(path)
    assert run is not None
    return run


def several(path: Path, *typed: str) -> list[sweep.Run]:
    return [make(path / str(i), *overrides.split()) for i, overrides in enumerate(typed)]


def summary_csv(path: Path) -> list[list[str]]:
    with open(path / sweep.SUMMARY_CSV, newline="") as file:
        return list(csv.reader(file))


# What varies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        # all that is in a group changes with its option
        (["aug=none", "aug=full"], ["aug.name"]),
        (["model=convnet", "model=custom"], ["optimizer.name", "model.name"]),
        # but for what changes while the option stays
        (["aug=none", "aug=full", "aug=full aug.rotation=30"], ["aug.name", "aug.rotation"]),
        (
            ["optimizer=adam", "optimizer=sgd", "optimizer=sgd optimizer.lr=0.5"],
            ["optimizer.name", "optimizer.lr"],
        ),
        # without a change of the option there is nothing special about a group
        (["model=custom model.width=0.5", "model=custom"], ["model.width"]),
        # in the order of the configuration, not of the typing
        (["seed=1 data.fraction=1 epochs=3", "data.fraction=0.5 seed=2"],
         ["data.fraction", "seed", "epochs"]),
        (["model.channels=[8]", "model.channels=[8,8]"], ["model.channels"]),
        (["early_stopping.patience=null", "early_stopping.patience=2"],
         ["early_stopping.patience"]),
        # where it was computed
        (["device=cpu", "device=auto"], []),
        (["data.dir=here", "data.dir=there"], []),
        (["device=cpu seed=1", "device=auto seed=2"], ["seed"]),
        (["seed=1", "seed=1"], []),
        (["seed=1"], []),
        ([], []),
    ],
)  # fmt: skip
def test_what_varies(tmp_path, typed, keys):
    assert sweep.varying(several(tmp_path, *typed)) == keys


def test_a_run_that_failed_before_it_had_a_configuration_makes_nothing_vary(tmp_path):
    one, other, lost = several(tmp_path, "seed=1", "seed=2", "seed=3")
    (lost.path / rundir.CONFIG).unlink()
    (lost.path / rundir.METRICS).write_text('{"status": "failed"}')
    lost = sweep.read(lost.path)
    assert lost.settings == {}
    assert sweep.varying([lost, one, other]) == ["seed"]


def test_labels_are_what_a_person_would_type():
    values = {
        "aug.name": "full", "data.fraction": 0.5, "optimizer.lr": 1e-4, "seed": 3,
        "early_stopping.patience": None, "model.channels": [32, 64], "epochs": 1.0,
    }  # fmt: skip
    assert sweep.label(values, values) == (
        "aug=full data.fraction=0.5 optimizer.lr=0.0001 seed=3 "
        "early_stopping.patience=null model.channels=[32,64] epochs=1"
    )
    assert sweep.label(values, ["seed"]) == "seed=3"
    assert sweep.label(values, ["model.width"]) == "model.width=null"  # of another model
    assert sweep.label(values, []) == ""


# What belongs together ---------------------------------------------------------------------------


def test_groups_gather_seeds_and_count_what_is_there_twice_once(tmp_path):
    runs = several(
        tmp_path, "seed=10 aug=full", "seed=2 aug=full", "seed=0", "seed=2 aug=full",
        "seed=3 aug=full device=cpu data.dir=elsewhere",
    )  # fmt: skip
    full, none = sweep.groups(runs)
    assert full.seeds == [2, 3, 10] and none.seeds == [0]
    assert full.runs[0] is runs[1]  # the first of the two
    assert full.settings["aug.name"] == "full" and none.settings["aug.name"] == "none"


def test_groups_hold_what_is_complete(tmp_path):
    make(tmp_path / "a", "seed=1", accuracy=0.75, status="early_stopped")
    make(tmp_path / "b", "seed=2", status="failed")
    make(tmp_path / "c", "seed=3", status="interrupted")
    make(tmp_path / "d", "seed=4", accuracy=0.5)
    (group,) = sweep.groups(sweep.find(tmp_path))
    assert group.seeds == [1, 4]
    assert group.values("test", "accuracy").tolist() == [0.75, 0.5]
    assert group.mean("validation", "error").mean == pytest.approx(0.365)


def test_runs_come_in_order_of_values_not_of_names(tmp_path):
    typed = [
        "seed=10", "seed=2", "seed=0 aug=full", "seed=0 early_stopping.patience=3",
        "seed=0 early_stopping.patience=10", "seed=0 early_stopping.patience=null",
    ]  # fmt: skip
    runs = several(tmp_path, *typed)

    def order(*keys: str) -> list[int]:
        return [int(run.path.name) for run in sweep.in_order(runs, keys)]

    assert order("early_stopping.patience", "seed") == [2, 5, 1, 0, 3, 4]
    assert order("aug.name", "seed", "early_stopping.patience") == [2, 5, 3, 4, 1, 0]
    assert order() == [0, 1, 2, 3, 4, 5]


def test_text_comes_after_numbers_and_null_before_both():
    class Run:
        def __init__(self, value):
            self.settings = {"key": value}

    runs = [Run(value) for value in ("b", 2.5, None, "10", 10, [1, 2], 2)]
    in_order = [run.settings["key"] for run in sweep.in_order(runs, ["key"])]
    assert in_order == [None, 2, 2.5, 10, "10", [1, 2], "b"]


# Reading -----------------------------------------------------------------------------------------


def test_one_run_is_found_by_its_own_directory(tmp_path):
    run = make(tmp_path / "run", "seed=7")
    (found,) = sweep.find(tmp_path / "run")
    assert found.path == run.path and found.seed == 7 and found.complete
    assert [row["epoch"] for row in found.history] == [1, 2]
    assert found.measure("test", "accuracy") == 0.9
    assert found.measure("test", "loss") is None and found.measure("other", "loss") is None


def test_runs_are_found_in_any_depth_in_order_of_names(tmp_path):
    for name in ("b/2026-11-24/run", "c", "a/seed-1", "a/seed-0", "b/extra"):
        make(tmp_path / name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / rundir.CONFIG).write_text("of: something else")
    found = [run.path.relative_to(tmp_path).as_posix() for run in sweep.find(tmp_path)]
    assert found == ["a/seed-0", "a/seed-1", "b/2026-11-24/run", "b/extra", "c"]


def test_there_is_nothing_in_an_empty_directory(tmp_path):
    assert sweep.find(tmp_path) == []
    assert sweep.read(tmp_path) is None
    assert sweep.with_fingerprint(tmp_path, "0" * 64) is None


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_directory_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"/{name} is not a directory"):
        sweep.find(tmp_path / name)


def test_a_fingerprint_finds_the_complete_run_before_others(tmp_path):
    make(tmp_path / "a", "seed=1", status="failed")
    make(tmp_path / "b", "seed=1", "device=cpu")
    make(tmp_path / "c", "seed=1", status="interrupted")
    make(tmp_path / "d", "seed=2", status="failed")
    found = {
        seed: sweep.with_fingerprint(tmp_path, fingerprint(settings(f"seed={seed}")))
        for seed in (1, 2, 3)
    }
    assert (found[1].path.name, found[2].path.name, found[3]) == ("b", "d", None)


@pytest.mark.parametrize("content", [b'{"status": "fini', b"", b"[]", b"\xff"])
def test_metrics_that_cannot_be_read_are_a_failed_run(tmp_path, content):
    make(tmp_path / "a", "seed=1")
    run = make(tmp_path / "b", "seed=2")
    (run.path / rundir.METRICS).write_bytes(content)
    run = sweep.read(run.path)
    assert run.status == "failed" and run.reason.startswith("metrics.json cannot be read: ")
    (line,) = [x for x in sweep.summarise(tmp_path).splitlines() if x.startswith("- ")]
    assert line.startswith("- seed=2: failed, metrics.json cannot be read: ")
    assert [row[1] for row in summary_csv(tmp_path)] == ["status", "finished", "failed"]


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "text", "\0", "learning_rate: 3"])
def test_a_configuration_that_cannot_be_read_is_named_in_a_line(tmp_path, content):
    make(tmp_path / "a", "seed=1")
    make(tmp_path / "b", "seed=2")
    (tmp_path / "b" / rundir.CONFIG).write_text(content)
    with pytest.raises(PlainError, match="b/config.yaml cannot be read: ") as error:
        sweep.summarise(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert not str(error.value).endswith(": ")


@pytest.mark.parametrize("name", [rundir.CONFIG, rundir.PREDICTIONS])
def test_a_run_that_lost_a_file_is_not_complete_and_costs_no_other(tmp_path, name):
    run = make(tmp_path / "a")
    make(tmp_path / "b", "seed=1")
    (run.path / name).unlink()
    text = sweep.summarise(tmp_path)
    assert "1 of 2 runs not complete" in text and f"finished, but without {name}" in text
    assert [group.seeds for group in sweep.groups(sweep.find(tmp_path))] == [[1]]


# The summary -------------------------------------------------------------------------------------


def test_summary_csv_has_a_row_per_run(tmp_path):
    make(tmp_path / "x" / "b", "seed=1", "aug=full", accuracy=0.8, seconds=12.5)
    make(tmp_path / "a", "seed=10", accuracy=0.75, status="early_stopped")
    make(tmp_path / "c", "seed=2", status="failed", error="NonFiniteLoss: the loss\n  became nan")
    sweep.summarise(tmp_path)
    header, *rows = summary_csv(tmp_path)
    assert header == [
        "aug", "seed", "status", "reason", "train_accuracy", "train_error", "validation_accuracy",
        "validation_error", "test_accuracy", "test_error", "epochs", "seconds", "directory",
    ]  # fmt: skip
    assert rows == [
        ["full", "1", "finished", "", "0.82", "0.18", "0.81", "0.19", "0.8", "0.2", "2", "12.5",
         "x/b"],
        ["none", "2", "failed", "NonFiniteLoss: the loss became nan", *[""] * 7, "10.0", "c"],
        ["none", "10", "early_stopped", "", "0.77", "0.23", "0.76", "0.24", "0.75", "0.25", "2",
         "10.0", "a"],
    ]  # fmt: skip


def table(text: str) -> list[list[str]]:
    """The cells of the lines of a Markdown table, but for the rule below the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


def test_summary_md_has_mean_deviation_and_interval_over_seeds(tmp_path):
    for seed, accuracy in ((0, 0.90), (1, 0.92), (2, 0.94)):
        make(tmp_path / f"none-{seed}", f"seed={seed}", accuracy=accuracy, seconds=10 + seed)
    for seed, accuracy in ((5, 0.90), (3, 0.88)):
        make(tmp_path / f"full-{seed}", f"seed={seed}", "aug=full", accuracy=accuracy)
    make(tmp_path / "prose", "aug=prose", accuracy=0.975)
    text = sweep.summarise(tmp_path)
    header, *rows = table(text)
    assert header == [
        "aug", "n", "training", "validation", "test", "test error", "epochs", "seconds",
    ]  # fmt: skip
    # Errors 0.10, 0.08 and 0.06: standard deviation 0.02, t(0.975, 2) = 4.3027, and
    # 4.3027 * 0.02 / sqrt(3) = 0.0497. Errors 0.10 and 0.12: 0.01 * sqrt(2), t(0.975, 1) = 12.706,
    # and 12.706 * 0.01 * sqrt(2) / sqrt(2) = 0.1271.
    assert rows == [
        ["full", "2", "91.00 ± 1.41", "90.00 ± 1.41", "89.00 ± 1.41",
         "11.00 ± 1.41 (-1.71 to 23.71)", "2", "10.0"],
        ["none", "3", "94.00 ± 2.00", "93.00 ± 2.00", "92.00 ± 2.00",
         "8.00 ± 2.00 (3.03 to 12.97)", "2", "11.0"],
        ["prose", "1", "99.50", "98.50", "97.50", "2.50", "2", "10.0"],
    ]  # fmt: skip
    written = (tmp_path / sweep.SUMMARY_MD).read_text()
    assert written == f"{text}\n\n![validation_curves.png](validation_curves.png)\n"
    assert (tmp_path / sweep.CURVES).read_bytes().startswith(PNG)


def test_what_is_not_complete_is_listed_with_its_reason_in_a_line(tmp_path):
    make(tmp_path / "a", "seed=0")
    make(tmp_path / "b", "seed=1", "aug=full", status="failed", error="OSError: no\nspace  left")
    make(tmp_path / "c", "seed=2", status="interrupted")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / rundir.METRICS).write_text('{"status": "failed", "error": "no such file"}')
    lines = sweep.summarise(tmp_path).splitlines()
    assert "3 of 4 runs not complete:" in lines
    assert lines[-3:] == [
        "- d: failed, no such file",
        "- aug=full seed=1: failed, OSError: no space left",
        "- aug=none seed=2: interrupted",
    ]


def test_a_summary_of_failures_alone_has_no_table_and_no_picture(tmp_path):
    for fraction in ("0.5", "1"):
        make(tmp_path / fraction, f"data.fraction={fraction}", status="failed", error="E: no")
    assert sweep.summarise(tmp_path) == (
        "2 of 2 runs not complete:\n\n"
        "- data.fraction=0.5: failed, E: no\n- data.fraction=1: failed, E: no"
    )
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        sweep.SUMMARY_CSV, sweep.SUMMARY_MD,
    }  # fmt: skip


def test_a_summary_of_one_run_stands_beside_its_files(tmp_path):
    make(tmp_path / "run")
    header, row = table(sweep.summarise(tmp_path / "run"))
    assert header[0] == "n" and row[:2] == ["1", "92.00"]
    assert summary_csv(tmp_path / "run")[1][-1] == "."


def test_the_error_by_samples_is_drawn_where_the_fraction_varies(tmp_path):
    for seed in (0, 1):
        for fraction in (1, 0.25):
            accuracy = 0.8 + 0.1 * fraction + 0.02 * seed
            make(tmp_path / f"{fraction}-{seed}", f"seed={seed}", f"data.fraction={fraction}",
                 accuracy=accuracy)  # fmt: skip
    make(tmp_path / "full", "aug=full", "data.fraction=0.5", accuracy=0.7)
    sweep.summarise(tmp_path)
    assert (tmp_path / sweep.ERROR_BY_SAMPLES).read_bytes().startswith(PNG)
    assert "![error_by_samples.png](error_by_samples.png)" in (
        (tmp_path / sweep.SUMMARY_MD).read_text()
    )
    drawn = sweep.errors_by_samples(sweep.groups(sweep.find(tmp_path)), ["aug.name"])
    assert drawn.keys() == {"aug=none", "aug=full"}
    half = 12.7062 * 0.01  # of two seeds that differ by 0.02
    assert drawn["aug=none"] == pytest.approx(
        np.array([
            [12_500, 0.145, 0.145 - half, 0.145 + half, 0.165, 0.165 - half, 0.165 + half],
            [50_000, 0.07, 0.07 - half, 0.07 + half, 0.09, 0.09 - half, 0.09 + half],
        ]),
        abs=1e-5,
    )  # fmt: skip
    # one seed has no interval
    assert drawn["aug=full"] == pytest.approx(np.array([[25_000, *[0.28] * 3, *[0.3] * 3]]))


def test_no_error_by_samples_where_the_fraction_does_not_vary(tmp_path):
    several(tmp_path, "seed=0", "seed=1", "aug=full")
    sweep.summarise(tmp_path)
    assert not (tmp_path / sweep.ERROR_BY_SAMPLES).exists()
    assert (tmp_path / sweep.CURVES).exists()


def test_curves_are_the_validation_error_by_label(tmp_path):
    make(tmp_path / "a", "seed=0", accuracy=0.9)
    make(tmp_path / "b", "seed=1", accuracy=0.8)
    of = sweep.groups(sweep.find(tmp_path))
    ((name, errors),) = sweep.curves(of, []).items()
    assert name == "all runs"
    assert np.array(errors) == pytest.approx(np.array([[0.29, 0.09], [0.39, 0.19]]))
    # an evaluation has no epochs
    (tmp_path / "b" / rundir.HISTORY).unlink()
    of = sweep.groups(sweep.find(tmp_path))
    assert sweep.curves(of, []) == {}


def test_no_more_curves_than_a_person_can_tell_apart(tmp_path):
    runs = [make(tmp_path / f"{size:02}", f"batch_size={size}") for size in range(10, 24)]
    drawn = sweep.curves(sweep.groups(runs), ["batch_size"])
    assert list(drawn) == [f"batch_size={size}" for size in range(10, 22)]


def test_a_picture_that_fails_costs_neither_the_tables_nor_the_other_picture(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no font")

    several(tmp_path, "data.fraction=1", "data.fraction=0.5")
    monkeypatch.setattr(plots, "overlaid_curves", fail)
    with pytest.raises(PlainError, match=r"validation_curves.png \(OSError: no font\)"):
        sweep.summarise(tmp_path)
    assert len(summary_csv(tmp_path)) == 3
    assert len(table((tmp_path / sweep.SUMMARY_MD).read_text())) == 3
    assert (tmp_path / sweep.ERROR_BY_SAMPLES).read_bytes().startswith(PNG)
