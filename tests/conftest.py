"""What several tests need: settings, real digits, one finished run, the commands in-process."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests take the cores side by side: threads of several that wait for one another on the same cores
# are slower by far than none. Before torch is imported, which asks once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose, initialize_config_module

from mnistcnn import data, signals, training
from mnistcnn.config import TrainSettings, to_settings

# A shell starts what it puts into the background deaf to interrupts, and so would be all that the
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"

# Small enough that a run takes a second or two.
TINY = ["data=mnist5k", "epochs=1", "data.fraction=0.2", "tsne.samples=60", "tsne.perplexity=10"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=20, help="how many runs test_faults kills at random moments"
    )


def settings(*overrides: str) -> TrainSettings:
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        return to_settings(TrainSettings, compose("train", list(overrides)))


@pytest.fixture(scope="session")
def digits() -> data.Digits:
    return data.load(settings("data=mnist5k").data, seed=0)


@pytest.fixture(scope="session")
def mnist_dir() -> str:
    """The directory with all of MNIST; the test is skipped where there is none."""
    folder = os.environ.get("MNISTCNN_DATA_DIR")
    if not folder:
        pytest.skip("MNISTCNN_DATA_DIR is not set: no test on all of MNIST")
    return str(Path(folder).absolute())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The directory of a default network's run of four epochs on 5,000 digits."""
    out = tmp_path_factory.mktemp("run") / "four-epochs"
    training.run(settings("data=mnist5k", "epochs=4", "aug=full", "tsne.samples=200"), out)
    return out


@pytest.fixture(autouse=True)
def nobody_listens_any_more() -> Iterator[None]:
    """What a test has let listen for signals does not hear those of the next."""
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    hook = sys.unraisablehook
    yield
    signal.set_wakeup_fd(-1)
    sys.unraisablehook = hook
    for number, handler in handlers.items():
        if handler is not None:  # it was set by Python
            signal.signal(number, handler)


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


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
