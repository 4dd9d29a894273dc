"""Settings that differ from the defaults, and the command that repeats a run."""

import shlex
from dataclasses import replace

import pytest

from mnistcnn import train
from mnistcnn.config.defaults import changed_settings, repeat_command

from .conftest import CONF, settings

GROUPS = ["model", "aug", "optimizer", "scheduler", "data"]
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in (CONF / group).glob("*.yaml")]


def repeated(command: str):
    """Return the settings of a command as pasted into a shell."""
    program, *overrides = shlex.split(command)[2:]
    assert program == "mnistcnn.train"
    return settings(*overrides)


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_is_the_only_difference_from_the_defaults(option):
    chosen = settings(option)
    group, _, name = option.partition("=")
    default = {f"{group}.name"} if option in repeat_command(chosen) else set()
    assert changed_settings(chosen).keys() == default
    assert repeated(repeat_command(chosen)) == chosen
    assert default or name == getattr(settings(), group).name


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "experiment").glob("*.yaml")))
def test_the_command_of_an_experiments_run_repeats_it(name):
    chosen = settings(f"experiment={name}")
    assert repeated(repeat_command(chosen)) == chosen
    assert "experiment=" not in repeat_command(chosen)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=custom", "optimizer=sgd", "optimizer.lr=1e-5", "model.channels=[1,2]"],
        ["aug=full", "aug.rotation=3", "aug.scale=[0.5,1.5]", "early_stopping.patience=3"],
        ["model=resnet50", "pictures=false", "tsne.samples=0", "steps=20", "seed=7"],
        ["data=mnist5k", "data.fraction=0.5", "device=cpu", "checkpoint.keep_last=false"],
        ["model.batch_norm=after_relu", "loss=nll_of_logits"],
    ],
)
def test_the_command_has_every_changed_setting(overrides):
    chosen = settings(*overrides)
    command = repeat_command(chosen)
    assert repeated(command) == chosen
    for each in overrides:
        assert each.partition("=")[0] in command


def test_changed_settings_have_their_value_and_their_default():
    chosen = settings("model=custom", "model.width=0.25", "optimizer.lr=0.01", "epochs=3")
    assert changed_settings(chosen) == {
        "model.name": ("custom", "convnet"),
        "model.width": (0.25, 1.0),
        "optimizer.lr": (0.01, 0.001),
        "epochs": (3, 10),
    }


def test_the_directory_of_the_data_is_in_neither(tmp_path):
    chosen = settings(f"data.dir='{tmp_path}'", "data.mirrors=[https://example.org]")
    assert changed_settings(chosen) == {}
    assert repeat_command(chosen) == "python -m mnistcnn.train"


@pytest.mark.parametrize("name", ["its own", "a'b", "<script>", "null", "../none", "x" * 300])
def test_an_option_without_a_file_is_described_by_its_values(name):
    full = settings("aug=full")
    chosen = replace(full, aug=replace(full.aug, name=name))
    assert changed_settings(chosen)["aug.name"] == (name, "none")
    assert repeated(repeat_command(chosen)) == chosen


@pytest.mark.parametrize(
    "overrides", [["aug={rotation:5.0,name:'x y'}"], ["aug=full", "epochs=3", "model.channels=[4]"]]
)
def test_the_command_is_accepted(command, overrides):
    def configuration(arguments: list[str]) -> str:
        code, out, err = command(train.main, *arguments, "--cfg", "job")
        assert (code, err) == (0, "")
        return out

    pasted = shlex.split(repeat_command(settings(*overrides)))[3:]
    assert configuration(pasted) == configuration(overrides)
