"""The rooms of the house: who may import whom, and what lies where."""

import ast
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from mnistcnn.config import EvaluateSettings, TrainSettings, to_settings

from .conftest import CONF, ROOT

SOURCE = ROOT / "src" / "mnistcnn"

# Imports run downward only. On floor 1 the rooms do not know each other.
FLOORS = {
    "errors": 0, "settings": 0, "seeding": 0, "files": 0, "signals": 0, "startup": 0,
    "data": 1, "augment": 1, "models": 1, "optim": 1, "metrics": 1, "embedding": 1, "plots": 1,
    "rundir": 1, "device": 1, "compiled": 1, "statistics": 1, "apart": 1, "console": 1,
    "baselines": 1, "measuring": 1,
    "config": 2, "engine": 2, "checkpoint": 2, "stopwatch": 2,
    "fit": 3, "report": 3, "sweep": 3, "override_errors": 3,
    "resume": 4, "bench": 4,
    "training": 5, "evaluation": 5, "comparison": 5, "multirun": 5,
    "speed": 5, "durations": 5,
    "command_line": 6, "reproduction": 6, "benchmarking": 6,
    "train": 7, "evaluate": 7, "compare": 7, "reproduce": 7, "benchmark": 7,
}  # fmt: skip
ON_ONE_FLOOR = {("settings", "errors"), ("files", "errors")}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "mnistcnn":
            rooms |= {alias.name for alias in node.names if alias.name in FLOORS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnistcnn."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mnistcnn.")}
    return rooms


def test_every_room_has_a_floor():
    assert {path.stem for path in SOURCE.glob("*.py")} - {"__init__"} == FLOORS.keys()


@pytest.mark.parametrize("room", FLOORS)
def test_imports_run_downward(room):
    for other in imported_rooms(SOURCE / f"{room}.py"):
        downward = FLOORS[other] < FLOORS[room]
        assert downward or (room, other) in ON_ONE_FLOOR, f"{room} imports {other}"


@pytest.mark.parametrize("package", ["matplotlib", "sklearn", "hydra", "lightning"])
def test_heavy_or_foreign_packages_stay_in_their_rooms(package):
    allowed = {
        "matplotlib": {"plots"},
        "sklearn": {"embedding", "metrics"},
        "hydra": {"command_line", "override_errors", "bench"},
        "lightning": {"baselines"},
    }
    users = {
        path.stem
        for path in SOURCE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package)
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == package
                                                 for a in node.names))
    }  # fmt: skip
    assert users == allowed[package]


def test_top_level_is_as_agreed():
    agreed = {"pyproject.toml", "README.md", "conf", "src", "scripts", "tests", "outputs"}
    listed = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    leftovers = {"build", "dist", "data"}  # ignored by git
    assert listed - leftovers == agreed


GROUPS = ["model", "aug", "optimizer", "scheduler", "data", "experiment"]
OPTIONS = [
    (path.parent.name, path.stem) for path in sorted(CONF.rglob("*.yaml"))
    if path.parent.name in GROUPS
]  # fmt: skip


def test_all_options_are_found():
    assert len(OPTIONS) == 5 + 4 + 6 + 4 + 2 + 18
    assert {group for group, _ in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_checked_settings(group, option):
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose("train", [f"{group}={option}"])
    settings = to_settings(TrainSettings, composed)
    if group != "experiment":
        assert getattr(settings, group).name == option


def test_evaluate_composes():
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        settings = to_settings(EvaluateSettings, compose("evaluate", ["ckpt=somewhere"]))
    assert settings.ckpt == "somewhere"


def test_the_help_names_every_option():
    text = (CONF / "hydra" / "help" / "train.yaml").read_text()
    for _, option in OPTIONS:
        assert f" {option}" in text
