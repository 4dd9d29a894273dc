"""Varying settings, labels and groups of runs."""

import json

import pytest

from mnistcnn.config.load import FORMAT
from mnistcnn.experiments.groups import (
    best_group,
    group_runs,
    label,
    rounded_value,
    varying_keys,
)
from mnistcnn.runs.directory import CONFIG, METRICS
from mnistcnn.runs.store import find_runs, read_run

from .synthetic_runs import make_run, make_runs

# Varying settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        # another option changes all settings of its group, but only its name counts
        (["aug=none", "aug=full"], ["aug.name"]),
        (["model=convnet", "model=custom"], ["optimizer.name", "model.name"]),
        # unless runs with the same option differ
        (["aug=none", "aug=full", "aug=full aug.rotation=30"], ["aug.name", "aug.rotation"]),
        (
            ["optimizer=adam", "optimizer=sgd", "optimizer=sgd optimizer.lr=0.5"],
            ["optimizer.name", "optimizer.lr"],
        ),
        # the option is the same in all runs
        (["model=custom model.width=0.5", "model=custom"], ["model.width"]),
        # the order is that of the configuration, not of the overrides
        (
            ["seed=1 data.fraction=1 epochs=3", "data.fraction=0.5 seed=2"],
            ["data.fraction", "seed", "epochs"],
        ),
        (["model.channels=[8]", "model.channels=[8,8]"], ["model.channels"]),
        (
            ["early_stopping.patience=null", "early_stopping.patience=2"],
            ["early_stopping.patience"],
        ),
        # the device and the directory of the data do not count
        (["device=cpu", "device=auto"], []),
        (["data.dir=first", "data.dir=second"], []),
        (["device=cpu seed=1", "device=auto seed=2"], ["seed"]),
        (["seed=1", "seed=1"], []),
        (["seed=1"], []),
        ([], []),
    ],
)
def test_varying_keys(tmp_path, overrides, keys):
    assert varying_keys(make_runs(tmp_path, *overrides)) == keys


def test_a_run_without_a_configuration_makes_no_key_vary(tmp_path):
    first, second, failed = make_runs(tmp_path, "seed=1", "seed=2", "seed=3")
    (failed.path / CONFIG).unlink()
    (failed.path / METRICS).write_text(json.dumps({"format": FORMAT, "status": "failed"}))
    failed = read_run(failed.path)
    assert failed.settings == {}
    assert varying_keys([failed, first, second]) == ["seed"]


def test_labels_are_command_line_overrides():
    values = {
        "aug.name": "full",
        "data.fraction": 0.5,
        "optimizer.lr": 1e-4,
        "seed": 3,
        "early_stopping.patience": None,
        "model.channels": [32, 64],
        "epochs": 1.0,
    }
    assert label(values, values) == (
        "aug=full data.fraction=0.5 optimizer.lr=0.0001 seed=3 "
        "early_stopping.patience=null model.channels=[32,64] epochs=1"
    )
    assert label(values, ["seed"]) == "seed=3"
    assert label(values, ["model.width"]) == "model.width=null"  # this model has no such setting
    assert label(values, []) == ""


# Groups ------------------------------------------------------------------------------------------


def test_groups_gather_seeds_and_count_equal_runs_once(tmp_path):
    runs = make_runs(
        tmp_path,
        "seed=10 aug=full",
        "seed=2 aug=full",
        "seed=0",
        "seed=2 aug=full",
        "seed=3 aug=full device=cpu data.dir=elsewhere",
    )
    full, none = group_runs(runs)
    assert full.seeds == [2, 3, 10] and none.seeds == [0]
    assert full.runs[0] is runs[1]  # the first of the two
    assert full.settings["aug.name"] == "full" and none.settings["aug.name"] == "none"


def test_groups_have_only_complete_runs(tmp_path):
    make_run(tmp_path / "a", "seed=1", accuracy=0.75, status="early_stopped")
    make_run(tmp_path / "b", "seed=2", status="failed")
    make_run(tmp_path / "c", "seed=3", status="interrupted")
    make_run(tmp_path / "d", "seed=4", accuracy=0.5)
    (group,) = group_runs(find_runs(tmp_path))
    assert group.seeds == [1, 4]
    assert group.values("test", "accuracy").tolist() == [0.75, 0.5]
    assert group.mean("validation", "error").mean == pytest.approx(0.365)


def test_values_are_rounded_only_if_they_were_not_typed():
    values = [0.0967206464254, 0.967206464254, 0.03125, 0.25, 1e-4, 128, 2.0, None, "full"]
    expected = ["0.0967", "0.967", "0.03125", "0.25", "0.0001", "128", "2", "null", "full"]
    assert [rounded_value(value) for value in values] == expected


def test_an_evaluation_does_not_replace_the_run_that_was_trained(tmp_path):
    make_run(tmp_path / "a", "seed=0", checkpoint="best.pt")  # of the same settings and seed
    trained = make_run(tmp_path / "b", "seed=0")
    alone = make_run(tmp_path / "c", "seed=1", checkpoint="best.pt")
    (group,) = group_runs(find_runs(tmp_path))
    assert [run.path for run in group.runs] == [trained.path, alone.path]


def test_the_best_group_has_the_lowest_mean_validation_error(tmp_path):
    make_run(tmp_path / "a", "seed=0", accuracy=0.97)
    make_run(tmp_path / "b", "seed=1", accuracy=0.89)
    make_run(tmp_path / "c", "seed=0", "aug=full", accuracy=0.94)
    assert best_group(group_runs(find_runs(tmp_path))).settings["aug.name"] == "full"
