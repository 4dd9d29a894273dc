"""Shared fixtures: settings, real images, a finished run, commands run in this process."""

import multiprocessing.connection
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Several test processes share the cores: more threads than cores would slow all of them down.
# Set before torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose, initialize_config_module

from mnistcnn.config.load import to_settings
from mnistcnn.config.schema import EvaluateSettings, TrainSettings
from mnistcnn.data.dataset import DatasetSplits, load_splits
from mnistcnn.system import signals, subprocesses
from mnistcnn.training.train_run import train_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A shell makes its background processes ignore SIGINT, and nohup SIGHUP. The processes that the
# tests start and stop would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"

# a run with these overrides takes a second or two
TINY = ["data=mnist5k", "epochs=1", "data.fraction=0.2", "tsne.samples=60", "tsne.perplexity=10"]

# the run of the fixture finished_run
FOUR_EPOCHS = ["data=mnist5k", "epochs=4", "aug=full", "tsne.samples=200"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=20, help="number of runs that test_faults kills at random"
    )
    parser.addoption(
        "--sequences", type=int, default=20, help="number of sequences of test_random_sequences"
    )


def settings(*overrides: str) -> TrainSettings:
    """Return the settings of ``python -m mnistcnn.train`` with these overrides."""
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        return to_settings(TrainSettings, compose("train", list(overrides)))


def evaluate_settings(ckpt: Path, *overrides: str) -> EvaluateSettings:
    """Return the settings of ``python -m mnistcnn.evaluate`` with these overrides."""
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        return to_settings(EvaluateSettings, compose("evaluate", [f"ckpt='{ckpt}'", *overrides]))


@pytest.fixture(scope="session")
def splits() -> DatasetSplits:
    return load_splits(settings("data=mnist5k").data, seed=0)


@pytest.fixture(scope="session")
def mnist_dir() -> str:
    """Return the directory with all of MNIST; skip the test if MNISTCNN_DATA_DIR is not set."""
    folder = os.environ.get("MNISTCNN_DATA_DIR")
    if not folder:
        pytest.skip("MNISTCNN_DATA_DIR is not set: this test needs all of MNIST")
    return str(Path(folder).absolute())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """Return the directory of a run of the default network, four epochs on 5,000 images."""
    run_dir = tmp_path_factory.mktemp("run") / "four-epochs"
    train_run(settings(*FOUR_EPOCHS), run_dir)
    return run_dir


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Return a Chromium without a window; skip the test if playwright or a Chromium is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(names)} is installed: this test needs a browser")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def own_fork_server() -> Iterator[None]:
    """Use a fork server of the module's own: it preloads modules that other tests do not use."""
    multiprocessing.forkserver._forkserver._stop()
    yield
    multiprocessing.forkserver._forkserver._stop()


@pytest.fixture(autouse=True)
def restore_signal_handlers() -> Iterator[None]:
    """Undo what a test has changed about signals, and forget the signals that it received."""
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    hook = sys.unraisablehook
    yield
    signal.set_wakeup_fd(-1)
    sys.unraisablehook = hook
    signals._handler = signals._StopHandler()
    for number, handler in handlers.items():
        if handler is not None:  # it was installed by Python
            signal.signal(number, handler)


class EndedProcess:
    """A process that has ended."""

    def __init__(self, exitcode: int):
        self.exitcode = exitcode
        self.sentinel = object()

    def join(self) -> None: ...


@pytest.fixture
def replace_job_process(monkeypatch) -> Callable:
    """Replace the processes of jobs by calls of a function, which returns the exit code.

    Its arguments are those of ``subprocesses.start_process``.
    """

    def replace(function: Callable[..., int]) -> None:
        monkeypatch.setattr(
            subprocesses, "start_process", lambda *values, **_: EndedProcess(function(*values))
        )
        monkeypatch.setattr(multiprocessing.connection, "wait", lambda sentinels, _: sentinels)

    return replace


@pytest.fixture
def command(monkeypatch, tmp_path, capsys) -> Callable:
    """Run a command's ``main`` in this process, in an empty directory.

    Returns its exit code, its standard output and its standard error.
    """

    def run(main: Callable, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr("sys.argv", ["mnistcnn", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are bit-identical."""
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )
