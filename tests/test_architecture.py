"""The architecture: packages import only what is above them in src/mnistcnn/README.md."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from mnistcnn import train
from mnistcnn.config.load import to_settings
from mnistcnn.config.schema import EvaluateSettings, TrainSettings

from .conftest import CONF, ROOT

SOURCE = ROOT / "src" / "mnistcnn"
MAX_FUNCTION_LINES = 60  # a screen
COMMANDS = "commands"  # the modules of the top level
BENCHMARK = "benchmark"  # may import everything, and nothing imports it


def packages_in_order() -> list[str]:
    """Return the first column of the README's table of packages."""
    table = (SOURCE / "README.md").read_text().partition("## Packages")[2].partition("\n## ")[0]
    return re.findall(r"^\| `?(\w+)/?`? \|", table, re.MULTILINE)[1:]  # without the header


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    """Return the name of a module: ``training.trainer`` for ``training/trainer.py``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def package_of(module: str) -> str:
    return module.partition(".")[0] if "." in module else COMMANDS


NAMES = {name_of(path) for path in MODULES}


def imported_modules(path: Path) -> set[str]:
    """Return the modules of mnistcnn that a file imports anywhere, as ``training.trainer``."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnistcnn."):
            module = node.module.removeprefix("mnistcnn.")
            if module in NAMES:
                modules.add(module)
            else:  # from mnistcnn.package import module
                modules |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found = (alias.name for alias in node.names if alias.name.startswith("mnistcnn."))
            modules |= {name.removeprefix("mnistcnn.") for name in found}
    assert modules <= NAMES, f"{path}: {modules - NAMES}"
    return modules


def test_the_table_lists_all_packages():
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert {*packages_in_order(), BENCHMARK} == folders | {COMMANDS}
    assert len(packages_in_order()) == 12


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    order = packages_in_order()
    package = package_of(name_of(path))
    allowed = order if package == BENCHMARK else order[: order.index(package) + 1]
    if package == COMMANDS:
        allowed = order[:-1]
    for module in imported_modules(path):
        imported = package_of(module)
        same_package = imported == package
        assert same_package or imported in allowed, f"{name_of(path)} imports {module}"


def test_modules_do_not_import_each_other_in_cycles():
    graph = {name_of(path): imported_modules(path) for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_top_level_is_thin():
    modules = [path for path in MODULES if path.parent == SOURCE]
    assert {path.stem for path in modules} == {
        "train",
        "evaluate",
        "compare",
        "browse",
        "reproduce",
    }
    for path in modules:
        (main,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef))
        assert main.end_lineno - main.lineno + 1 <= 15


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_function_fits_on_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize(
    ("package", "users"),
    [
        (
            "matplotlib",
            {
                "evaluation.canvas",
                "evaluation.figures",
                "evaluation.matplotlib_import",
                "evaluation.mosaic",
                "evaluation.scatter",
            },
        ),
        ("sklearn", {"evaluation.embedding", "evaluation.metrics"}),
        (
            "hydra",
            {
                "cli.hydra_command",
                "cli.hydra_arguments",
                "cli.composition",
                "cli.planning",
                "cli.sweep_jobs",
                "cli.messages",
                BENCHMARK,
            },
        ),
        ("lightning", {BENCHMARK}),
        ("jax", {BENCHMARK}),
        ("tensorboard", {"training.tensorboard_logger"}),
    ],
)
def test_large_packages_are_imported_by_few_modules(package, users):
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            if any(name.partition(".")[0] == package for name in names):
                name = name_of(path)
                found.add(BENCHMARK if package_of(name) == BENCHMARK else name)
    assert found == users


def test_the_top_level_of_the_repository():
    expected = {
        "pyproject.toml",
        "README.md",
        "conf",
        "src",
        "scripts",
        "tests",
        "outputs",
        "LICENSE",
    }
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    ignored_by_git = {"build", "dist", "data"}
    assert names - ignored_by_git == expected


# Configuration files -----------------------------------------------------------------------------

GROUPS = ["model", "aug", "optimizer", "scheduler", "data", "logger", "experiment"]
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent.name in GROUPS
]


def test_every_group_has_options():
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


def test_the_help_describes_every_group_and_lists_every_option(command):
    code, out, _ = command(train.main, "--help")
    assert code == 0
    lines = out.splitlines()
    for group in GROUPS:
        options = sorted(option for name, option in OPTIONS if name == group)
        assert f"{group}: {', '.join(options)}" in lines
        assert any(re.match(rf"  {group} +\w", line) for line in lines)  # its description
    assert not any(line.startswith("hydra/") for line in lines)


def test_schemas_and_implementations_have_the_same_names():
    from mnistcnn.config import schema
    from mnistcnn.models.registry import BUILDERS
    from mnistcnn.training import logger, optim

    assert BUILDERS.keys() == schema.GROUP_SCHEMAS["model"].keys()
    assert optim.OPTIMIZERS.keys() == schema.GROUP_SCHEMAS["optimizer"].keys()
    assert tuple(optim.LOSSES) == schema.LOSS_NAMES
    assert ("none", *logger.TRACKERS) == schema.LOGGERS
