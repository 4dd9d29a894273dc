"""Random sequences of commands and faults: after each step every directory tells the truth.

Each sequence works on one run: it is trained, killed, resumed with and without changes, evaluated
and compared. ``--sequences`` sets the number of sequences.
"""

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.cli.app import run_cli
from mnistcnn.config.load import read_settings
from mnistcnn.config.schema import EvaluateSettings, TrainSettings
from mnistcnn.evaluation import embedding, figures, scatter
from mnistcnn.evaluation.evaluate_run import evaluate_run
from mnistcnn.experiments.comparison import compare_paths
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    CURVES,
    LAST,
    METRICS,
    PREDICTIONS,
    RUN_PAGE,
    expected_pictures,
)
from mnistcnn.runs.history import read_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import COMPLETE_STATUSES, read_run
from mnistcnn.training import trainer
from mnistcnn.training.resume import resumed_settings
from mnistcnn.training.train_run import train_run

from .browser_pages import page_data
from .conftest import evaluate_settings, settings
from .fault_injection import (
    MOMENTS,
    fill_disk,
    inject_fault,
    kill,
    run_in_process,
    start_process,
    without_measurements,
    write_data_instead_of_pictures,
)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits"),
    pytest.mark.usefixtures("own_fork_server"),
]

STEPS = 6
# 80 images in 5 batches per epoch
SMALL = [
    "data=mnist5k",
    "data.fraction=0.02",
    "batch_size=16",
    "model=fcnet",
    "model.hidden=4",
    "epochs=2",
    "tsne.samples=20",
    "tsne.perplexity=5",
]
MAX_EPOCHS = 4
WRITES = 25  # more than a run has

# what a fault does before the command runs, given a generator
Fault = Callable[[random.Random], None]


def no_fault(_: random.Random) -> None:
    pass


def die_while_writing(generator: random.Random) -> None:
    inject_fault(generator.choice(MOMENTS), generator.randrange(1, WRITES), kill)


def run_out_of_disk_space(generator: random.Random) -> None:
    inject_fault("start", generator.randrange(1, WRITES), fill_disk)


def fail_in_training(generator: random.Random) -> None:
    call_at_step(generator.randrange(1, 12), lambda: 1 / 0)


def stop_in_training(generator: random.Random) -> None:
    call_at_step(generator.randrange(1, 12), lambda: os.kill(os.getpid(), signal.SIGTERM))


def fail_to_draw(generator: random.Random) -> None:
    def fail(*_: object) -> None:
        raise OSError("no font")

    module, write = generator.choice(
        [(scatter, "tsne"), (figures, "curves"), (figures, "confusion_matrix")]
    )
    setattr(module, write, fail)


def call_at_step(number: int, action: Callable[[], object]) -> None:
    """Call ``action`` before the optimizer step ``number`` of this process."""
    training_step, steps = trainer.training_step, iter(range(1, 1000))

    def step(*arguments: object) -> None:
        if next(steps) == number:
            action()
        training_step(*arguments)

    trainer.training_step = step


FAULTS: list[Fault] = [
    die_while_writing,
    run_out_of_disk_space,
    fail_in_training,
    stop_in_training,
    fail_to_draw,
]


def train_new(run_dir: Path, settings: TrainSettings) -> None:
    train_run(settings, run_dir)


def resume(run_dir: Path, changes: dict[str, object]) -> None:
    train_run(resumed_settings(run_dir, changes), run_dir, resume=True)


def evaluate(run_dir: Path, settings: EvaluateSettings) -> None:
    evaluate_run(settings, run_dir)


def compare(out: Path, paths: list[Path]) -> None:
    compare_paths(paths, out, None, None).write()


def run_with_fault(
    function: Callable, path: Path, argument: object, fault: Fault, seed: int, log: Path
) -> None:
    """Call ``function(path, argument)`` with a fault in this process, and log its output."""
    write_data_instead_of_pictures()
    embedding.tsne = lambda features, *_: embedding.Embedding(features[:, :2], 0.5, "openTSNE")
    fault(random.Random(seed))
    # not buffered: the process may be killed
    with (
        log.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        print(f"$ {function.__name__} {path} {argument} with {fault.__name__}")
        run_cli(lambda: function(path, argument))


class Sequence:
    """A directory with one run, its evaluations, and what is known about them."""

    def __init__(self, folder: Path, seed: int, references: "References"):
        self.folder, self.references = folder, references
        self.run_dir, self.log = folder / "run", folder / "log"
        self.generator = random.Random(seed)
        self.complete: dict[Path, dict[str, bytes]] = {}  # files of complete directories
        folder.mkdir()

    def run(self, function: Callable, path: Path, argument: object, fault: Fault = no_fault) -> int:
        """Run a function in a subprocess and return its exit code."""
        seed = self.generator.randrange(1 << 30)
        process = start_process(run_with_fault, function, path, argument, fault, seed, self.log)
        process.join()
        assert "Traceback" not in self.log.read_text()
        return process.exitcode

    # The steps -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Do something random with a random fault, or without one, and check its effects."""
        fault = self.generator.choice([no_fault, *FAULTS])
        if (self.run_dir / CONFIG).exists():
            steps = [
                self.resume,
                self.resume,
                self.resume,
                self.evaluate,
                self.compare,
                self.refuse,
            ]
            self.generator.choice(steps)(fault)
        else:
            shutil.rmtree(self.run_dir, ignore_errors=True)
            code = self.run(train_new, self.run_dir, settings(*SMALL), fault)
            assert code == 0 or fault is not no_fault
        self.check()

    def resume(self, fault: Fault) -> None:
        changes: list[tuple[str, object]] = [
            ("device", "cpu"),
            ("tsne.samples", 25),
            ("neighbours.k", 2),
            ("pictures", self.generator.choice([True, False])),
            ("checkpoint.minutes", 0.0),
        ]
        epochs = self.settings().epochs
        if epochs < MAX_EPOCHS:
            changes.append(("epochs", epochs + 1))
        chosen = dict(self.generator.sample(changes, self.generator.choice([0, 0, 1, 2])))
        if "epochs" in chosen:
            self.complete.pop(self.run_dir, None)  # its results will be replaced
        code = self.run(resume, self.run_dir, chosen, fault)
        assert code == 0 or fault is not no_fault

    def evaluate(self, fault: Fault) -> None:
        self.run(evaluate, self.new_path(), evaluate_settings(self.run_dir), fault)

    def compare(self, _: Fault) -> None:
        paths = [self.run_dir, self.references.run(*SMALL, "seed=1")]
        code = self.run(compare, self.new_path(), paths)
        run = read_run(self.run_dir)
        assert code == (0 if run is not None and run.complete else 2)

    def refuse(self, _: Fault) -> None:
        before = read_files(self.run_dir)
        assert self.run(resume, self.run_dir, {"seed": 5}) == 2
        if METRICS in before:
            assert self.run(train_new, self.run_dir, settings(*SMALL)) == 2
        assert read_files(self.run_dir) == before

    def new_path(self) -> Path:
        return self.folder / f"{len(list(self.folder.iterdir()))}"

    def settings(self) -> TrainSettings:
        return read_settings((self.run_dir / CONFIG).read_text(), self.run_dir / CONFIG)

    # What must be true ---------------------------------------------------------------------------

    def check(self) -> None:
        """Check every directory, and that complete ones have kept their files."""
        for folder in sorted(self.folder.iterdir()):
            if (folder / METRICS).exists():
                self.check_directory(folder)

    def check_directory(self, folder: Path) -> None:
        run = read_run(folder)
        assert run.status in (*COMPLETE_STATUSES, "failed", "interrupted")
        if (folder / LAST).exists():
            load_checkpoint(folder / LAST)
        before = self.complete.get(folder)
        if before is not None:
            assert run.complete, "a complete run is no longer complete"
            for name in before:
                assert (folder / name).exists(), f"{name} is lost"
            assert (folder / PREDICTIONS).read_bytes() == before[PREDICTIONS]
            assert run.metrics["test"] == json.loads(before[METRICS])["test"]
        if run.status in COMPLETE_STATUSES:
            self.check_complete(folder)
            self.complete[folder] = read_files(folder)

    def check_complete(self, folder: Path) -> None:
        run = read_run(folder)
        assert run.complete, run.reason
        with np.load(folder / PREDICTIONS) as file:
            accuracy = (file["labels"] == file["predictions"]).mean()
        assert accuracy == run.metrics["test"]["accuracy"]
        # a process that is killed while it draws leaves pictures listed that it has drawn
        settings_of_folder = read_settings((folder / CONFIG).read_text(), folder / CONFIG)
        expected = expected_pictures(settings_of_folder.pictures, settings_of_folder.tsne.samples)
        absent = {name for name in expected if not (folder / name).exists()}
        if folder != self.run_dir:  # curves need the history of the run
            absent.discard(CURVES)
        assert absent <= set(run.missing_pictures) <= set(expected)
        if folder == self.run_dir:
            assert run.metrics["config_sha256"] == config_sha256(self.settings())
            assert run.metrics["epochs"] == self.settings().epochs == len(read_history(folder))
            assert load_checkpoint(folder / BEST).epoch == run.metrics["best_epoch"]

    def finish(self) -> None:
        """Resume the run; its results must be those of an uninterrupted run."""
        if not (self.run_dir / CONFIG).exists():
            return
        assert self.run(resume, self.run_dir, {}) == 0
        self.check()
        run = read_run(self.run_dir)
        assert run.complete and run.missing_pictures == []
        final = self.settings()
        expected = self.references.run(
            *SMALL,
            f"epochs={final.epochs}",
            f"tsne.samples={final.tsne.samples}",
            f"neighbours.k={final.neighbours.k}",
            f"pictures={final.pictures}",
        )
        for name in (PREDICTIONS, *expected_pictures(final.pictures, final.tsne.samples)):
            actual = self.run_dir / name
            if name == RUN_PAGE:  # its text has durations
                assert page_data(actual) == page_data(expected / name)
            else:
                assert actual.read_bytes() == (expected / name).read_bytes(), name
        assert without_measurements(run.metrics) == without_measurements(read_run(expected).metrics)


class References:
    """Uninterrupted runs by their overrides."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *overrides: str) -> Path:
        """Return the directory of an uninterrupted run with these overrides."""
        run_dir = self.folder / "_".join(overrides[len(SMALL) :])
        if not run_dir.exists():
            log = self.folder.parent / "log"
            arguments = (train_new, run_dir, settings(*overrides), no_fault, 0, log)
            run_in_process(run_with_fault, *arguments)
        return run_dir


def read_files(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> References:
    return References(tmp_path_factory.mktemp("references") / "runs")


def pytest_generate_tests(metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("--sequences")))


def test_a_random_sequence(tmp_path, references, number):
    sequence = Sequence(tmp_path / "sequence", number, references)
    try:
        for _ in range(STEPS):
            sequence.step()
        sequence.finish()
    finally:
        print(sequence.log.read_text())  # shown by pytest after a failure
