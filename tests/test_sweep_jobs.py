"""The jobs of a sweep: all combinations of values, and pairs."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mnistcnn import train
from mnistcnn.cli.sweep_jobs import read_pairs, sweep_jobs
from mnistcnn.system.errors import SettingError


def jobs(*typed: str, pairs: list[list[str]] = ()) -> list[str]:
    overrides = OverridesParser.create().parse_overrides(list(typed))
    return [" ".join(job) for job in sweep_jobs(overrides, pairs)]


def test_without_pairs_the_jobs_are_those_of_hydra():
    typed = ["model=a,b", "epochs=3", "seed=range(3)", "x='1,2',z", "model.channels=[1,2],[3]"]
    overrides = OverridesParser.create().parse_overrides(typed)
    (expected,) = BasicSweeper.split_arguments(overrides, None)
    assert sweep_jobs(overrides, []) == expected and len(expected) == 24


def test_paired_settings_take_their_values_together():
    typed = ["model=a,b", "seed=0,1", "lr=1,2"]
    assert jobs(*typed, pairs=[["model", "lr"]]) == [
        "model=a seed=0 lr=1",
        "model=a seed=1 lr=1",
        "model=b seed=0 lr=2",
        "model=b seed=1 lr=2",
    ]
    # the order of the names does not matter
    assert jobs(*typed, pairs=[["lr", "model"]]) == jobs(*typed, pairs=[["model", "lr"]])


def test_several_pairs():
    typed = ["a=1,2", "b=3,4", "c=5,6", "d=7,8"]
    assert jobs(*typed, pairs=[["a", "c"], ["b", "d"]]) == [
        "a=1 b=3 c=5 d=7",
        "a=1 b=4 c=5 d=8",
        "a=2 b=3 c=6 d=7",
        "a=2 b=4 c=6 d=8",
    ]


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        (None, []),
        ([], []),
        (["a", "b"], [["a", "b"]]),
        ([["a", "b"], ["c", "d", "e"]], [["a", "b"], ["c", "d", "e"]]),
    ],
)
def test_a_single_pair_needs_no_outer_list(value, pairs):
    assert read_pairs(value) == pairs
    assert read_pairs(OmegaConf.create({"pairs": value}).pairs) == pairs


@pytest.mark.parametrize("value", [3, "a", [1, 2], [["a"], "b"], [["a", 1]], {"a": "b"}])
def test_other_values_of_pairs_are_refused(value):
    with pytest.raises(SettingError, match="a list of settings, such as"):
        read_pairs(value)


def test_different_numbers_of_values_are_refused_before_anything_starts(command, tmp_path):
    code, out, err = command(
        train.main, "-m", "seed=0,1", "epochs=1,2,3", "hydra.sweeper.pairs=[seed,epochs]"
    )
    assert (code, out) == (2, "")
    assert err == (
        "mnistcnn: hydra.sweeper.pairs: these settings need the same number of values: "
        "seed has 2, epochs has 3\n"
    )
    assert list(tmp_path.iterdir()) == []
