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
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnistcnn import compare, evaluate, train
from mnistcnn.config.load import read_settings
from mnistcnn.evaluation import figures
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import BEST, CONFIG, LAST, METRICS, PICTURES, PREDICTIONS, RESULT_FILES
from mnistcnn.runs.history import read_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import COMPLETE_STATUSES, read_run
from mnistcnn.training import trainer

from .fault_injection import (
    MOMENTS,
    fill_disk,
    inject_fault,
    kill,
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

    write = generator.choice(["tsne", "curves", "confusion_matrix"])
    setattr(figures, write, fail)


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


def run_command(main: Callable, arguments: list[str], fault: Fault, seed: int, log: Path) -> None:
    """Run a command with a fault in this process and append its output to ``log``."""
    write_data_instead_of_pictures()
    fault(random.Random(seed))
    sys.argv = ["mnistcnn", *arguments]
    # not buffered: the process may be killed
    with (
        log.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        print(f"$ {arguments} with {fault.__name__}")
        try:
            main()
        except Exception:
            traceback.print_exc()
            raise


class Sequence:
    """A directory with one run, its evaluations, and what is known about them."""

    def __init__(self, folder: Path, seed: int, references: "References"):
        self.folder, self.references = folder, references
        self.run_dir, self.log = folder / "run", folder / "log"
        self.generator = random.Random(seed)
        self.complete: dict[Path, dict[str, bytes]] = {}  # files of complete directories
        folder.mkdir()

    def command(self, main: Callable, *arguments: str, fault: Fault = no_fault) -> int:
        """Run a command in a subprocess and return its exit code."""
        seed = self.generator.randrange(1 << 30)
        process = start_process(run_command, main, list(arguments), fault, seed, self.log)
        process.join()
        assert "Traceback" not in self.log.read_text()
        return process.exitcode

    # The steps -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Run a random command with a random fault, or without one, and check its effects."""
        fault = self.generator.choice([no_fault, *FAULTS])
        if not (self.run_dir / CONFIG).exists():
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self.command(train.main, *SMALL, f"hydra.run.dir={self.run_dir}", fault=fault)
        else:
            self.generator.choice(
                [self.resume, self.resume, self.resume, self.evaluate, self.compare, self.refuse]
            )(fault)
        self.check()

    def resume(self, fault: Fault) -> None:
        changes = ["device=cpu", "tsne.samples=25", "neighbours.k=2", "checkpoint.minutes=0"]
        epochs = read_settings((self.run_dir / CONFIG).read_text(), self.run_dir / CONFIG).epochs
        if epochs < MAX_EPOCHS:
            changes.append(f"epochs={epochs + 1}")
        chosen = self.generator.sample(changes, self.generator.choice([0, 0, 1, 2]))
        if any(each.startswith("epochs") for each in chosen):
            self.complete.pop(self.run_dir, None)  # its results will be replaced
        self.command(train.main, f"resume={self.run_dir}", *chosen, fault=fault)

    def evaluate(self, fault: Fault) -> None:
        target = self.folder / f"evaluation-{len(list(self.folder.iterdir()))}"
        self.command(evaluate.main, f"ckpt={self.run_dir}", f"hydra.run.dir={target}", fault=fault)

    def compare(self, fault: Fault) -> None:
        other = self.references.run(*SMALL, "seed=1")
        out = self.folder / f"comparison-{len(list(self.folder.iterdir()))}"
        code = self.command(
            compare.main, str(self.run_dir), str(other), "--out", str(out), fault=no_fault
        )
        assert code == (0 if read_run(self.run_dir).complete else 2)

    def refuse(self, _: Fault) -> None:
        before = read_files(self.run_dir)
        for arguments in (
            [f"resume={self.run_dir}", "seed=5"],
            [*SMALL, f"hydra.run.dir={self.run_dir}"],
        ):
            if arguments[0].startswith("resume") or (self.run_dir / METRICS).exists():
                assert self.command(train.main, *arguments) == 2
                assert read_files(self.run_dir) == before

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
        settings = read_settings((folder / CONFIG).read_text(), folder / CONFIG)
        with np.load(folder / PREDICTIONS) as file:
            accuracy = (file["labels"] == file["predictions"]).mean()
        assert accuracy == run.metrics["test"]["accuracy"]
        # a process that is killed while it draws leaves pictures listed that it has drawn
        absent = {name for name in PICTURES if not (folder / name).exists()}
        assert absent <= set(run.missing_pictures) <= set(PICTURES)
        if folder == self.run_dir:
            assert run.metrics["config_sha256"] == config_sha256(settings)
            assert run.metrics["epochs"] == settings.epochs == len(read_history(folder))
            assert load_checkpoint(folder / BEST).epoch == run.metrics["best_epoch"]

    def finish(self) -> None:
        """Resume the run; its results must be those of an uninterrupted run."""
        if not (self.run_dir / CONFIG).exists():
            return
        assert self.command(train.main, f"resume={self.run_dir}") == 0
        self.check()
        run = read_run(self.run_dir)
        assert run.complete and run.missing_pictures == []
        settings = read_settings((self.run_dir / CONFIG).read_text(), self.run_dir / CONFIG)
        expected = self.references.run(
            *SMALL,
            f"epochs={settings.epochs}",
            f"tsne.samples={settings.tsne.samples}",
            f"neighbours.k={settings.neighbours.k}",
        )
        for name in RESULT_FILES:
            actual = (self.run_dir / name).read_bytes()
            assert actual == (expected / name).read_bytes(), name
        assert without_measurements(run.metrics) == without_measurements(read_run(expected).metrics)


class References:
    """Uninterrupted runs by their overrides."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *overrides: str) -> Path:
        """Return the directory of an uninterrupted run with these overrides."""
        run_dir = self.folder / "_".join(overrides[len(SMALL) :])
        if not run_dir.exists():
            arguments = [*overrides, f"hydra.run.dir='{run_dir}'"]
            log = self.folder.parent / "references.log"
            process = start_process(run_command, train.main, arguments, no_fault, 0, log)
            process.join()
            assert process.exitcode == 0
        return run_dir


def read_files(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> References:
    return References(tmp_path_factory.mktemp("references") / "runs")


def test_random_sequences(tmp_path, references, request):
    for seed in range(request.config.getoption("--sequences")):
        sequence = Sequence(tmp_path / str(seed), seed, references)
        try:
            for _ in range(STEPS):
                sequence.step()
            sequence.finish()
        except AssertionError as error:
            log = sequence.log.read_text()
            raise AssertionError(f"sequence {seed}: {error}\n{log}") from error
        shutil.rmtree(sequence.folder)
