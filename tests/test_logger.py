"""Logging a run to TensorBoard: what its own reader finds, after resuming and after errors."""

import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from mnistcnn import train
from mnistcnn.config.load import read_settings
from mnistcnn.runs.directory import (
    CONFIG,
    EVENT_FILES,
    HISTORY,
    LAST,
    LOG,
    METRICS,
    TSNE,
    remove_run_files,
)
from mnistcnn.runs.history import TIMING_KEYS, read_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import SPLITS
from mnistcnn.system import signals
from mnistcnn.training import logger, tensorboard_logger
from mnistcnn.training.train_run import train_run
from mnistcnn.training.trainer import Trainer

from .conftest import TINY, settings

TWO_EPOCHS = [*TINY, "epochs=2"]
LOGGED = [*TWO_EPOCHS, "logger=tensorboard"]
PICTURES = {"curves", "confusion_matrix", "misclassified", "tsne", "neighbours", "augmented"}


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory) -> Path:
    """Return the directory of a run of two epochs with event files."""
    run_dir = tmp_path_factory.mktemp("logged") / "run"
    train_run(settings(*LOGGED), run_dir)
    return run_dir


@pytest.fixture
def run(logged_run, tmp_path) -> Path:
    """Return a copy of a run with event files that a test may change."""
    return Path(shutil.copytree(logged_run, tmp_path / "run"))


def read_metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / METRICS).read_text())


def event_files(run_dir: Path) -> list[str]:
    return sorted(file.name for file in run_dir.glob(EVENT_FILES))


def read_events(run_dir: Path) -> EventAccumulator:
    """Return what TensorBoard shows of a directory: all steps of scalars and images."""
    accumulator = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def read_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = read_events(run_dir)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def expected_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a complete run, from its history and its scores, in float32."""
    history, metrics = read_history(run_dir), read_metrics(run_dir)
    expected = {
        f"epoch/{key}": [(row["epoch"], float(np.float32(row[key]))) for row in history]
        for key in history[0]
        if key not in ("epoch", *TIMING_KEYS)
    }
    names = ["accuracy", "error", "loss"]
    scores = [(split, name) for split in SPLITS for name in names] + [("test", "ece")]
    for split, name in scores:
        value = float(np.float32(metrics[split][name]))
        expected[f"final/{split}_{name}"] = [(len(history), value)]
    return expected


def assert_logged(run_dir: Path, epochs: int) -> None:
    """Check the event files of a complete run: every value once, and every picture."""
    assert len(read_history(run_dir)) == epochs
    assert read_scalars(run_dir) == expected_scalars(run_dir)
    events = read_events(run_dir)
    assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in PICTURES}
    for name in PICTURES:
        (event,) = events.Images(f"pictures/{name}")
        pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert event.step == epochs
        assert np.array_equal(pixels, np.asarray(Image.open(run_dir / f"{name}.png")))
    assert read_metrics(run_dir)["logger"] == "tensorboard"


# A run from its start to its end -----------------------------------------------------------------


def test_tensorboard_reads_back_the_history_the_scores_and_the_pictures(logged_run):
    assert_logged(logged_run, epochs=2)
    assert {"epoch/lr", "epoch/val_accuracy", "final/test_ece"} <= read_scalars(logged_run).keys()
    assert len(event_files(logged_run)) == 1


def test_the_logger_changes_neither_the_identity_nor_the_results(logged_run, tmp_path):
    assert config_sha256(settings(*LOGGED)) == config_sha256(settings(*TWO_EPOCHS))
    metrics = train_run(settings(*TWO_EPOCHS), tmp_path / "run")
    logged = read_metrics(logged_run)
    assert {split: metrics[split] for split in SPLITS} == {split: logged[split] for split in SPLITS}
    assert "logger" not in metrics and event_files(tmp_path / "run") == []


def test_values_that_are_not_finite_are_logged(tmp_path):
    log = tensorboard_logger.start(tmp_path, [])
    log.log_epoch(1, {"loss": float("nan")})
    log.log_epoch(2, {"loss": float("inf")})
    log.finish(2, {}, [])
    values = [value for _, value in read_scalars(tmp_path)["epoch/loss"]]
    assert np.array_equal(values, [np.nan, np.inf], equal_nan=True)


def test_tensorflow_is_not_imported_and_nothing_is_printed(tmp_path):
    (tmp_path / "tensorflow.py").write_text("print('imported')")
    code = (
        "from pathlib import Path\n"
        "from mnistcnn.training import tensorboard_logger\n"
        "log = tensorboard_logger.start(Path('run'), [{'loss': 0.5}])\n"
        "log.log_epoch(2, {'loss': 0.25})\n"
        "log.finish(2, {'test_error': 0.1}, [])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert read_scalars(tmp_path / "run") == {
        "epoch/loss": [(1, 0.5), (2, 0.25)],
        "final/test_error": [(2, pytest.approx(0.1))],
    }


# Resumed runs ------------------------------------------------------------------------------------


def train_until_stopped(run_dir: Path, *overrides: str) -> None:
    """Train a run that is stopped by SIGTERM in its second epoch."""
    checks = count(1)  # one for each of the six batches to train on and the two to score

    def raise_if_stopped() -> None:
        if next(checks) > 10:
            raise signals.Stopped(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "raise_if_stopped", raise_if_stopped)
        with pytest.raises(signals.Stopped):
            train_run(settings(*overrides), run_dir)


def test_a_stopped_run_is_logged_up_to_its_last_epoch_and_resumed_without_gaps(tmp_path):
    run_dir = tmp_path / "run"
    train_until_stopped(run_dir, *LOGGED, "epochs=4")
    assert len(read_history(run_dir)) == 1 and "logger" not in read_metrics(run_dir)
    scalars = read_scalars(run_dir)
    assert all(tag.startswith("epoch/") for tag in scalars)
    assert scalars["epoch/lr"] == [(1, 1.0)]
    train_run(settings(*LOGGED, "epochs=4"), run_dir, resume=True)
    assert_logged(run_dir, epochs=4)
    assert len(event_files(run_dir)) == 2


def test_scores_and_pictures_of_a_run_with_added_epochs_are_the_new_ones(run, command):
    assert command(train.main, f"resume={run}", "epochs=3")[::2] == (0, "")
    assert "logger:\n  name: tensorboard\n" in (run / CONFIG).read_text()
    assert_logged(run, epochs=3)


def test_a_run_that_stops_early_again_is_logged_once(tmp_path, monkeypatch):
    scores = {"train_loss": 1.0, "val_loss": 1.0, "train_accuracy": 0.5, "val_accuracy": 0.5}
    monkeypatch.setattr(Trainer, "_score", lambda _: scores)
    for epochs in (2, 9):
        overrides = [*LOGGED, "early_stopping.patience=1", f"epochs={epochs}"]
        train_run(settings(*overrides), tmp_path / "run", resume=epochs == 9)
    assert read_metrics(tmp_path / "run")["status"] == "early_stopped"
    assert_logged(tmp_path / "run", epochs=2)


def test_epochs_of_a_killed_process_that_are_repeated_appear_once(tmp_path):
    """The checkpoint of a large network may be some epochs behind the event file."""
    values = [{"loss": 1 / epoch} for epoch in range(1, 6)]
    killed = tensorboard_logger.start(tmp_path, [])
    for epoch in (1, 2, 3, 4):
        killed.log_epoch(epoch, {"loss": 7.0} if epoch > 2 else values[epoch - 1])
    (file,) = tmp_path.glob(EVENT_FILES)
    with file.open("ab") as events:
        events.write(b"\x20\0\0\0")  # a part of the next record
    log = tensorboard_logger.start(tmp_path, values[:2])
    for epoch in (3, 4, 5):
        log.log_epoch(epoch, values[epoch - 1])
    log.finish(5, {}, [])
    assert read_scalars(tmp_path) == {
        "epoch/loss": [(epoch, float(np.float32(1 / epoch))) for epoch in range(1, 6)]
    }


def test_epochs_trained_without_the_logger_are_added(tmp_path):
    rows = [{"loss": float(epoch)} for epoch in range(1, 6)]
    first = tensorboard_logger.start(tmp_path, [])
    first.log_epoch(1, rows[0])
    first.finish(1, {}, [])
    log = tensorboard_logger.start(tmp_path, rows[:4])
    log.log_epoch(5, rows[4])
    log.finish(5, {}, [])
    assert read_scalars(tmp_path) == {"epoch/loss": [(n, float(n)) for n in range(1, 6)]}


def test_a_run_trained_without_the_logger_is_logged_when_it_is_resumed(tmp_path, command):
    run_dir = tmp_path / "run"
    train_until_stopped(run_dir, *TINY, "epochs=3")
    assert event_files(run_dir) == []
    assert command(train.main, f"resume={run_dir}", "logger=tensorboard")[::2] == (0, "")
    assert read_settings((run_dir / CONFIG).read_text(), run_dir).logger.name == "tensorboard"
    assert_logged(run_dir, epochs=3)


def test_a_complete_run_is_logged_once(run, command):
    for file in run.glob(EVENT_FILES):
        file.unlink()
    text = (run / CONFIG).read_text().replace("name: tensorboard", "name: none")
    (run / CONFIG).write_text(text)
    metrics = read_metrics(run)
    del metrics["logger"]
    (run / METRICS).write_text(json.dumps(metrics))

    assert command(train.main, f"resume={run}")[::2] == (0, "")
    assert event_files(run) == []
    code, out, err = command(train.main, f"resume={run}", "logger=tensorboard")
    assert (code, err) == (0, "") and "logging the complete run: logger=tensorboard" in out
    assert_logged(run, epochs=2)
    assert "name: tensorboard" in (run / CONFIG).read_text()
    files = {file.name: file.read_bytes() for file in run.iterdir()}
    assert command(train.main, f"resume={run}")[::2] == (0, "")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == files


def test_redrawn_pictures_replace_the_logged_ones(run, command):
    before = (run / TSNE).read_bytes()
    assert command(train.main, f"resume={run}", "tsne.samples=50")[::2] == (0, "")
    assert (run / TSNE).read_bytes() != before
    assert_logged(run, epochs=2)


def test_a_complete_run_without_its_history_keeps_its_event_files(run, command):
    (run / HISTORY).unlink()
    files = event_files(run)
    code, out, err = command(train.main, f"resume={run}", "tsne.samples=50")
    assert (code, err) == (0, "")
    assert "logger=tensorboard: nothing is logged, because history.jsonl is missing" in out
    assert event_files(run) == files


def test_the_event_files_of_a_failed_run_are_removed_with_its_other_files(run):
    remove_run_files(run)
    assert {file.name for file in run.iterdir()} - {".lock"} == {LOG}


def test_event_files_of_a_removed_run_do_not_appear_in_a_new_one(tmp_path):
    stale = tensorboard_logger.start(tmp_path / "run", [])
    stale.log_epoch(3, {"lr": 5.0})
    stale.finish(3, {"test_error": 1.0}, [])
    new = tensorboard_logger.start(tmp_path / "run", [])
    new.log_epoch(1, {"lr": 1.0})
    new.finish(1, {"test_error": 0.5}, [])
    assert read_scalars(tmp_path / "run") == {
        "epoch/lr": [(1, 1.0)],
        "final/test_error": [(1, 0.5)],
    }


def test_a_repeated_sweep_logs_its_complete_runs(command, tmp_path):
    sweep = ["-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep", "hydra.launcher.jobs=1"]
    assert command(train.main, *sweep, "pictures=false")[::2] == (0, "")
    code, out, err = command(train.main, *sweep, "logger=tensorboard", "pictures=false")
    assert (code, err) == (0, "") and "2 of them already complete" in out
    runs = sorted(path.parent for path in (tmp_path / "sweep").rglob(METRICS))
    assert len(runs) == 2
    for run_dir in runs:
        assert read_scalars(run_dir) == expected_scalars(run_dir)
        assert read_events(run_dir).Tags()["images"] == []
        assert len(event_files(run_dir)) == 1
    code, out, _ = command(train.main, *sweep, "logger=tensorboard", "pictures=false")
    assert code == 0 and not re.search(r"^run \d", out, re.MULTILINE)


# Errors ------------------------------------------------------------------------------------------


class BrokenTracker:
    """A tracker whose function ``broken`` raises; ``calls`` are the names of the functions called.

    All of them are recorded, so that calls after the error are seen.
    """

    def __init__(self, broken: str):
        self.broken, self.calls = broken, []

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.broken:
            raise RuntimeError("no connection\nsecond line")

    def start(self, run_dir: Path, epochs: list[dict[str, float]]) -> "BrokenTracker":
        self.call("start")
        return self

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self.call("log_epoch")

    def finish(self, epochs: int, scores: dict[str, float], pictures: list[Path]) -> None:
        self.call("finish")


@pytest.mark.parametrize(
    ("broken", "calls"),
    [
        ("start", ["start"]),
        ("log_epoch", ["start", "log_epoch"]),
        ("finish", ["start", "log_epoch", "log_epoch", "finish"]),
    ],
)
def test_a_tracker_that_fails_costs_one_warning(
    logged_run, tmp_path, monkeypatch, caplog, broken, calls
):
    tracker = BrokenTracker(broken)
    monkeypatch.setitem(logger.TRACKERS, "tensorboard", tracker.start)
    metrics = train_run(settings(*LOGGED), tmp_path / "run")
    assert tracker.calls == calls
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    reason = "(RuntimeError: no connection second line)"
    assert warnings == [f"logger=tensorboard failed and is not used any more {reason}"]
    assert metrics["status"] == "finished" and "logger" not in metrics
    logged = read_metrics(logged_run)
    assert {split: metrics[split] for split in SPLITS} == {split: logged[split] for split in SPLITS}
    assert "RuntimeError: no connection" in (tmp_path / "run" / LOG).read_text()


def test_what_a_tracker_missed_is_logged_by_the_next_resume(tmp_path, monkeypatch, command):
    with monkeypatch.context() as patch:
        patch.setitem(logger.TRACKERS, "tensorboard", BrokenTracker("log_epoch").start)
        train_run(settings(*LOGGED), tmp_path / "run")
    assert event_files(tmp_path / "run") == []
    assert command(train.main, f"resume={tmp_path}/run")[::2] == (0, "")
    assert_logged(tmp_path / "run", epochs=2)


def test_a_full_disk_costs_one_warning_and_no_traceback(command, monkeypatch, tmp_path):
    write = RecordWriter.write
    records = count(1)

    def fail_later(writer: RecordWriter, data: bytes) -> None:
        if next(records) > 5:  # in the first epoch
            raise OSError(28, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", fail_later)
    code, out, err = command(train.main, *LOGGED, "pictures=false", "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert out.count("No space left on device") == out.count("logger=tensorboard failed") == 1
    assert read_metrics(tmp_path / "run")["status"] == "finished"


def test_a_tracker_that_cannot_be_imported_costs_one_warning(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, out, err = command(train.main, *TINY, "logger=tensorboard", "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert out.count("logger=tensorboard failed and is not used any more (ModuleNotFoundError") == 1
    assert (tmp_path / "run" / LAST).exists() and event_files(tmp_path / "run") == []


@pytest.mark.parametrize("arguments", [[], ["-m", "seed=0,1"]])
def test_a_missing_package_is_refused_before_anything_starts(
    command, monkeypatch, tmp_path, arguments
):
    (tmp_path / "tensorboard").mkdir()  # a directory of that name is no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = command(train.main, *arguments, *TINY, "logger=tensorboard")
    assert (code, out) == (2, "")
    assert err == (
        "mnistcnn: logger=tensorboard needs the package tensorboard, which is not installed: "
        'pip install "mnistcnn[tensorboard]"\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_a_run_is_not_resumed_without_the_package_of_its_logger(run, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, out, err = command(train.main, f"resume={run}", "epochs=3")
    assert (code, out) == (2, "") and 'pip install "mnistcnn[tensorboard]"' in err
    assert command(train.main, f"resume={run}", "epochs=3", "logger=none")[::2] == (0, "")
    assert "logger" not in read_metrics(run)
    assert "logger:\n  name: none\n" in (run / CONFIG).read_text()
