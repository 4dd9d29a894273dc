"""Settings: recipes, who wins, what is refused."""

import dataclasses

import pytest
from omegaconf.errors import OmegaConfBaseException

from mnistcnn.config import from_yaml, to_yaml
from mnistcnn.errors import SettingError

from .conftest import settings

RECIPES = {
    "convnet": ("adadelta", 1.0),
    "custom": ("adam", 0.001),
    "vgg16": ("adam", 0.001),
    "resnet50": ("adamax", 0.001),
    "fcnet": ("adadelta", 1.0),
}


@pytest.mark.parametrize("model", RECIPES)
def test_each_model_brings_the_reports_recipe(model):
    composed = settings(f"model={model}")
    assert (composed.optimizer.name, composed.optimizer.lr) == RECIPES[model]
    assert (composed.epochs, composed.batch_size) == (10, 128)
    assert (composed.scheduler.name, composed.scheduler.gamma) == ("step", 0.7)


def test_the_command_line_wins_over_the_recipe():
    assert settings("model=custom", "optimizer=sgd").optimizer.name == "sgd"
    assert settings("optimizer=sgd", "model=custom").optimizer.name == "sgd"
    assert settings("model=custom", "optimizer.lr=0.5").optimizer.lr == 0.5


def test_the_reports_one_parameter_experiments_are_one_override_each():
    assert settings("model.batch_norm=after_relu").model.batch_norm == "after_relu"
    assert settings("model.channels=[32,64,32]").model.channels == [32, 64, 32]
    assert settings("model.padding=2").model.padding == 2
    assert settings("model.stride=2").model.stride == 2
    assert settings("batch_size=32").batch_size == 32
    assert settings("early_stopping.patience=1").early_stopping.patience == 1


def test_yaml_holds_every_setting():
    one = settings("model=custom", "aug=prose", "data=mnist5k", "early_stopping.patience=3")
    assert from_yaml(to_yaml(one)) == one


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.fraction=0", "data.fraction"),
        ("data.fraction=-1", "data.fraction"),
        ("data.fraction=nan", "data.fraction"),
        ("data.fraction=inf", "data.fraction"),
        ("data.fraction=1.5", "data.fraction"),
        ("data.validation=0.95", "data.validation"),
        ("batch_size=0", "batch_size"),
        ("epochs=0", "epochs"),
        ("seed=-1", "seed"),
        ("model.channels=[]", "model.channels"),
        ("model.channels=[8,0]", "model.channels"),
        ("model.channels=[8,8,8,8]", "model.channels"),
        ("model.dropout=1", "model.dropout"),
        ("model.batch_norm=yes_please", "model.batch_norm"),
        ("optimizer.lr=0", "optimizer.lr"),
        ("optimizer.lr=inf", "optimizer.lr"),
        ("aug.scale=[1.1,0.9]", "aug.scale"),
        ("aug.scale=[1]", "aug.scale"),
        ("aug.blur_kernel=4", "aug.blur_kernel"),
        ("aug.interpolation=cubic", "aug.interpolation"),
        ("select=newest", "select"),
        ("precision=float8", "precision"),
        ("device=tpu", "device"),
        ("early_stopping.patience=0", "early_stopping.patience"),
        ("tsne.samples=1", "tsne.samples"),
        ("tsne.of=labels", "tsne.of"),
        ("neighbours.k=0", "neighbours.k"),
        ("neighbours.targets=1000", "neighbours.targets"),
    ],
)
def test_values_out_of_range_are_refused_by_name(override, key):
    with pytest.raises(SettingError) as refusal:
        settings(override)
    assert refusal.value.key == key


@pytest.mark.parametrize(
    "override", ["epochs=abc", "epochs=1.5", "data.fraction=half", "+typo=1", "++model.typo=1",
                 "model.channels=8", "seed=null"],
)  # fmt: skip
def test_wrong_types_and_unknown_keys_are_refused(override):
    with pytest.raises(OmegaConfBaseException):
        settings(override)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=custom", "model.channels=[8,8,8,8,8]"],
        ["model=resnet50", "model.layers=[1,1]"],
        ["optimizer=adam", "optimizer.betas=[0.9]"],
        ["model=custom", "model.width=0"],
    ],
)
def test_rules_of_the_groups(overrides):
    with pytest.raises(SettingError):
        settings(*overrides)


def test_a_run_from_before_there_was_a_choice_was_not_compiled():
    composed = settings("data=mnist5k")
    text = "".join(
        line for line in to_yaml(composed).splitlines(True) if not line.startswith("compile:")
    )
    assert text != to_yaml(composed)
    assert from_yaml(text) == dataclasses.replace(composed, compile="none")
