"""A wheel, installed where there is no repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from .conftest import CONF, ROOT, TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the repository."""
    copy = tmp_path_factory.mktemp("source") / "mnistcnn"
    left_out = shutil.ignore_patterns(".*", "outputs", "*.egg-info", "build", "dist", "data")
    shutil.copytree(ROOT, copy, ignore=left_out)
    # data/ is ignored at the top only: conf/data belongs to the package
    shutil.copytree(CONF / "data", copy / "conf" / "data", dirs_exist_ok=True)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, copy],
        check=True, timeout=600,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_configuration_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("mnistcnn/conf/")}
    files = [path for path in CONF.rglob("*") if path.suffix in (".yaml", ".py")]
    assert len(files) > 25
    assert inside == {f"mnistcnn/conf/{path.relative_to(CONF).as_posix()}" for path in files}


def test_a_wheel_trains_away_from_the_repository(wheel, tmp_path):
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
         "--target", paths["purelib"], wheel],
        check=True, timeout=600,
    )  # fmt: skip
    # The dependencies are this environment's. A path added by a .pth file does not bring the
    # .pth files in it along, hence not the editable installation of the repository.
    with open(os.path.join(paths["purelib"], "dependencies.pth"), "w") as file:
        file.write(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = os.path.join(paths["scripts"], "python")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=elsewhere, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import mnistcnn; print(mnistcnn.__file__)").startswith(str(home))
    run("-m", "mnistcnn.train", *TINY, "hydra.run.dir=run")
    written = json.loads((elsewhere / "run" / "metrics.json").read_text())
    assert written["status"] == "finished"
    assert written["git_commit"] is None
    run("-m", "mnistcnn.evaluate", "ckpt=run", "tsne.samples=20")
