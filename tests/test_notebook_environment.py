"""Pictures depend on neither a notebook's environment nor the user's settings of matplotlib."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from matplotlib import style

from mnistcnn.experiments.comparison import compare_paths
from mnistcnn.experiments.summary import summarise
from mnistcnn.runs.directory import VALIDATION_CURVES
from mnistcnn.runs.store import find_runs
from mnistcnn.training.train_run import train_run

from .conftest import ROOT, TINY, settings
from .example_pictures import draw_pictures, read_pictures

JUPYTER = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # only in a notebook's Python
LARGE_TEXT = b"font.size: 24\ntext.usetex: True\n"
NOT_UTF8 = b"# caf\xe9\nfont.size: 24\n"
NOT_PARSABLE = b"font.size = 24\nfont.size: large\n"


def run_python(directory: Path, *arguments: str, **environment: str) -> str:
    """Run a new interpreter in ``directory``, without a terminal; return its standard output."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    return draw_pictures(tmp_path_factory.mktemp("expected"))


# Commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training_pictures(tmp_path_factory) -> dict[str, bytes]:
    """Return the pictures of a tiny run in this process, without a notebook's environment."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    train_run(settings(*TINY), run_dir)
    return read_pictures(run_dir)


def test_train_and_evaluate_draw_the_same_pictures_in_a_notebook(training_pictures, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(NOT_UTF8)
    run_python(tmp_path, "-m", "mnistcnn.train", *TINY, "hydra.run.dir=run", **JUPYTER)
    assert read_pictures(tmp_path / "run") == training_pictures
    arguments = ["ckpt=run/best.pt", *TINY[-2:], "hydra.run.dir=evaluation"]  # t-SNE as in TINY
    run_python(tmp_path, "-m", "mnistcnn.evaluate", *arguments, **JUPYTER)
    assert read_pictures(tmp_path / "evaluation") == training_pictures


def test_sweep_and_compare_draw_the_same_pictures_in_a_notebook(training_pictures, tmp_path):
    sweep = tmp_path / "sweep"
    arguments = ["-m", "mnistcnn.train", "-m", *TINY, "aug=none,full", "hydra.sweep.dir=sweep"]
    run_python(tmp_path, *arguments, **JUPYTER)
    first, _ = sorted(find_runs(sweep), key=lambda run: run.settings["aug.name"] != "none")
    assert read_pictures(first.path) == training_pictures
    pictures = read_pictures(sweep)
    (sweep / VALIDATION_CURVES).unlink()
    summarise(sweep).write()
    assert read_pictures(sweep) == pictures
    run_python(tmp_path, "-m", "mnistcnn.compare", "sweep", "--out=comparison", **JUPYTER)
    compare_paths([sweep], tmp_path / "expected", None, None).write()
    compared = read_pictures(tmp_path / "comparison")
    assert len(compared) == 2 and compared == read_pictures(tmp_path / "expected")


# Programs ----------------------------------------------------------------------------------------

DRAW = """
import os, pathlib, sys
from tests.example_pictures import draw_pictures
draw_pictures(pathlib.Path(sys.argv[1]))
import matplotlib
print(matplotlib.rcParams["font.size"], os.environ.get("MPLBACKEND"), os.getcwd())
"""


@pytest.mark.parametrize(
    ("content", "font_size"), [(LARGE_TEXT, 24.0), (NOT_UTF8, 10.0), (NOT_PARSABLE, 10.0)]
)
@pytest.mark.parametrize("folder", [".", "config/matplotlib"])
def test_a_matplotlibrc_changes_no_picture(folder, content, font_size, expected, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "matplotlibrc").write_bytes(content)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    printed = run_python(tmp_path, "-c", DRAW, "pictures", **home, MPLBACKEND="")
    assert read_pictures(tmp_path / "pictures") == expected
    assert printed.splitlines()[-1] == f"{font_size}  {tmp_path}"  # the program keeps its settings


def test_a_backend_that_is_not_installed_changes_no_picture(expected, tmp_path):
    printed = run_python(tmp_path, "-c", DRAW, "pictures", **JUPYTER)
    assert read_pictures(tmp_path / "pictures") == expected
    assert printed.splitlines()[-1] == f"10.0 {JUPYTER['MPLBACKEND']} {tmp_path}"


def test_a_style_changes_no_picture_and_is_not_changed(expected, tmp_path):
    with matplotlib.rc_context():
        style.use("dark_background")
        changes = {"font.size": 24, "text.usetex": True, "figure.dpi": 30, "lines.marker": "x"}
        matplotlib.rcParams.update(changes)
        before = {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
        assert draw_pictures(tmp_path) == expected
        assert {key: matplotlib.rcParams[key] for key in before} == before
