"""Settings: the defaults of each model, precedence, YAML, and the values that are refused."""

from pathlib import Path

import pytest
from omegaconf.errors import OmegaConfBaseException

from mnistcnn.config.load import FORMAT, read_settings, to_yaml
from mnistcnn.system.errors import SettingError, UsageError

from .conftest import settings

RECIPES = {
    "convnet": ("adadelta", 1.0),
    "custom": ("adam", 0.001),
    "vgg16": ("adam", 0.001),
    "resnet50": ("adamax", 0.001),
    "fcnet": ("adadelta", 1.0),
}


@pytest.mark.parametrize("model", RECIPES)
def test_each_model_sets_the_optimizer_of_the_report(model):
    composed = settings(f"model={model}")
    assert (composed.optimizer.name, composed.optimizer.lr) == RECIPES[model]
    assert (composed.epochs, composed.batch_size) == (10, 128)
    assert (composed.scheduler.name, composed.scheduler.gamma) == ("step", 0.7)


def test_overrides_take_precedence_over_the_recipe_of_the_model():
    assert settings("model=custom", "optimizer=sgd").optimizer.name == "sgd"
    assert settings("optimizer=sgd", "model=custom").optimizer.name == "sgd"
    assert settings("model=custom", "optimizer.lr=0.5").optimizer.lr == 0.5


def test_one_parameter_experiments_of_the_report_are_single_overrides():
    assert settings("model.batch_norm=after_relu").model.batch_norm == "after_relu"
    assert settings("model.channels=[32,64,32]").model.channels == [32, 64, 32]
    assert settings("model.padding=2").model.padding == 2
    assert settings("model.stride=2").model.stride == 2
    assert settings("batch_size=32").batch_size == 32
    assert settings("early_stopping.patience=1").early_stopping.patience == 1


def test_yaml_contains_every_setting():
    composed = settings("model=custom", "aug=prose", "data=mnist5k", "early_stopping.patience=3")
    assert read_settings(to_yaml(composed), Path("config.yaml")) == composed


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        (f"format: {FORMAT - 1}\n", f"was written by another version .+reads format {FORMAT}.$"),
        (f"format: {FORMAT + 1}\n", f"was written by another version .+reads format {FORMAT}.$"),
        ("", "has no format number: "),
    ],
)
def test_yaml_of_another_format_is_refused(first_line, reason):
    text = to_yaml(settings("data=mnist5k"))
    assert text.startswith(f"format: {FORMAT}\n")
    with pytest.raises(UsageError, match=f"^config.yaml {reason}"):
        read_settings(text.replace(f"format: {FORMAT}\n", first_line), Path("config.yaml"))


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
        ("checkpoint.minutes=-1", "checkpoint.minutes"),
        ("precision=float8", "precision"),
        ("device=tpu", "device"),
        ("early_stopping.patience=0", "early_stopping.patience"),
        ("tsne.samples=1", "tsne.samples"),
        ("tsne.of=labels", "tsne.of"),
        ("neighbours.k=0", "neighbours.k"),
        ("neighbours.targets=1000", "neighbours.targets"),
    ],
)
def test_values_out_of_range_are_refused_with_their_key(override, key):
    with pytest.raises(SettingError) as refusal:
        settings(override)
    assert refusal.value.key == key


@pytest.mark.parametrize(
    "override",
    [
        "epochs=abc",
        "epochs=1.5",
        "data.fraction=half",
        "+typo=1",
        "++model.typo=1",
        "model.channels=8",
        "seed=null",
        "checkpoint.keep_last=maybe",
        "checkpoint.keep_last=null",
        "checkpoint.keep_last=[false]",
    ],
)
def test_wrong_types_and_unknown_keys_are_refused(override):
    with pytest.raises(OmegaConfBaseException):
        settings(override)


def test_the_selected_checkpoint_must_be_kept():
    message = "select=last is not allowed: it must be best, because checkpoint.keep_last=false"
    with pytest.raises(SettingError, match=message):
        settings("select=last", "checkpoint.keep_last=false")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=custom", "model.channels=[8,8,8,8,8]"],
        ["model=resnet50", "model.layers=[1,1]"],
        ["optimizer=adam", "optimizer.betas=[0.9]"],
        ["model=custom", "model.width=0"],
    ],
)
def test_rules_of_single_groups_are_checked(overrides):
    with pytest.raises(SettingError):
        settings(*overrides)
