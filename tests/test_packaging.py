"""The wheel: its files, and a run without the repository. The files of the tools."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mnistcnn import __version__
from mnistcnn.kernels.loader import load_library

from .conftest import CONF, ROOT, TINY

SOURCE = ROOT / "src" / "mnistcnn"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build files are left in the repository."""
    copy = tmp_path_factory.mktemp("source") / "mnistcnn"
    ignored = shutil.ignore_patterns(
        ".*", "outputs", "*.egg-info", "build", "dist", "data", "__pycache__", "*.so", "*.pyd"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    # only the top-level data/ is to be ignored
    for folder in ("conf/data", "src/mnistcnn/data"):
        shutil.copytree(ROOT / folder, copy / folder, dirs_exist_ok=True)
    wheel_dir = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", wheel_dir, copy],
        check=True,
        timeout=600,
    )
    (built,) = wheel_dir.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_configuration_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("mnistcnn/")}
    modules = {f"mnistcnn/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")}
    configuration = {
        f"mnistcnn/conf/{path.relative_to(CONF).as_posix()}"
        for path in CONF.rglob("*")
        if path.suffix in (".yaml", ".py")
    }
    assert len(modules) > 50 and len(configuration) > 25
    compiled = {name for name in names if Path(name).suffix in (".so", ".pyd")}
    pages = {
        f"mnistcnn/{path.relative_to(SOURCE).as_posix()}"
        for folder in ("static", "templates")
        for path in (SOURCE / "pages" / folder).iterdir()
    }
    assert len(pages) > 10
    others = {"mnistcnn/py.typed", "mnistcnn/kernels/conv_block.c"}
    assert names - compiled == modules | configuration | pages | others
    built = {path.name for suffix in ("so", "pyd") for path in SOURCE.rglob(f"*.{suffix}")}
    assert {Path(name).name for name in compiled} == built


def test_the_wheel_has_the_version_of_the_package(wheel):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"  # because of the C kernels
    assert wheel.name.startswith(f"mnistcnn-{__version__}-{python}-{python}-")


def test_a_wheel_trains_without_the_repository(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
         "--target", paths["purelib"], wheel],
        check=True,
        timeout=600,
    )  # fmt: skip
    # Use the dependencies of this environment. The .pth files in a directory that is itself added
    # by a .pth file are ignored, so that the editable installation of the repository is not used.
    own_packages = Path(paths["purelib"])
    (own_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    working_dir = tmp_path / "elsewhere"
    working_dir.mkdir()
    python = Path(paths["scripts"], "python")

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [python, *arguments], cwd=working_dir, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    location = run("-c", "import mnistcnn; print(mnistcnn.__file__)")
    assert location.startswith(str(environment))
    run("-m", "mnistcnn.train", *TINY, "hydra.run.dir=run")
    metrics = json.loads((working_dir / "run" / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert metrics["git_commit"] is None
    assert metrics["kernels"] == ("torch" if load_library() is None else "native")
    run("-m", "mnistcnn.evaluate", "ckpt=run", "tsne.samples=20")


def test_pre_commit_runs_the_ruff_that_the_tests_require():
    (revision,) = (
        repository["rev"]
        for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        if repository["repo"].endswith("/ruff-pre-commit")
    )
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = map(Requirement, pyproject["project"]["optional-dependencies"]["test"])
    (ruff,) = (requirement for requirement in extra if requirement.name == "ruff")
    assert revision.removeprefix("v") in ruff.specifier


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", False),
        ("Darwin", "arm64", True),
        ("Windows", "AMD64", True),
    ],
)
def test_open_tsne_is_required_where_it_has_a_wheel(system, machine, expected):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (required,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "openTSNE")
    platform = {"platform_system": system, "platform_machine": machine}
    assert required.marker.evaluate(platform) == expected


def test_the_forms_and_workflows_are_valid_yaml():
    files = sorted((ROOT / ".github").rglob("*.yml"))
    assert len(files) == 4
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict), file
