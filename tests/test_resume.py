"""Resuming a run: which settings may change, and which files are refused."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from mnistcnn import evaluate, train
from mnistcnn.config.load import FORMAT, to_yaml
from mnistcnn.runs import history
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    CURVES,
    HISTORY,
    LAST,
    LOG,
    METRICS,
    PREDICTIONS,
    RESULT_FILES,
    TSNE,
)
from mnistcnn.runs.history import read_history
from mnistcnn.runs.store import SPLITS, find_runs
from mnistcnn.system import atomic_files, devices
from mnistcnn.system.atomic_files import write_json
from mnistcnn.system.errors import UsageError, WriteError
from mnistcnn.system.locks import LOCK_FILE
from mnistcnn.training import train_run as train_run_module
from mnistcnn.training.train_run import train_run
from mnistcnn.training.trainer import Trainer

from .conftest import FOUR_EPOCHS, TINY, same_weights, settings


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """Return a copy of a finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def read_files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def read_metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / METRICS).read_text())


@pytest.fixture
def interrupted(run) -> Path:
    """Return a run that was killed between its last epoch and the computation of its scores."""
    values = read_metrics(run)
    for split in SPLITS:
        del values[split]
    write_json(run / METRICS, values | {"status": "interrupted"})
    for name in RESULT_FILES:
        (run / name).unlink()
    return run


def patch_scores(monkeypatch, *val_accuracies: float) -> None:
    """Replace the scores of each epoch: these validation accuracies, the last one repeated."""
    remaining = list(val_accuracies)

    def score(trainer: Trainer) -> dict[str, float]:
        val_accuracy = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        losses = {"train_loss": 1.0, "val_loss": 1.0}
        return losses | {"train_accuracy": 0.5, "val_accuracy": val_accuracy}

    monkeypatch.setattr(Trainer, "_score", score)


def fill_disk(monkeypatch) -> None:
    """Make all writes fail, except those of checkpoints."""

    def fail(*_):
        raise WriteError("disk full")

    monkeypatch.setattr(atomic_files, "write_bytes", fail)
    monkeypatch.setattr(history, "write_bytes", fail)


# Settings that may change ------------------------------------------------------------------------


def test_resuming_a_complete_run_changes_nothing(run, command):
    before = read_files(run)
    for overrides in ([], ["device=cpu"], ["checkpoint.minutes=1"], FOUR_EPOCHS, ["epochs=4"]):
        code, out, err = command(train.main, f"resume={run}", *overrides)
        accuracy = 100 * read_metrics(run)["test"]["accuracy"]
        assert (code, err) == (0, "")
        assert out == f"{run} is already complete: 4 epochs, test accuracy {accuracy:.2f}%\n"
    assert read_files(run) == before
    assert {path.name for path in run.parent.iterdir()} == {"run"}  # Hydra created no directory


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "seed is 0 and cannot be changed to 1"),
        ("aug=none", "aug.name is full and cannot be changed to none"),
        ("aug.rotation=3", "aug.rotation is 15.0 and cannot be changed to 3"),
        ("model=custom", "model.name is convnet and cannot be changed to custom"),
        ("optimizer.lr=0.5", "optimizer.lr is 1.0 and cannot be changed to 0.5"),
        ("batch_size=64", "batch_size is 128 and cannot be changed to 64"),
        ("data=mnist", "data.name is mnist5k and cannot be changed to mnist"),
        ("steps=400", "steps is None and cannot be changed to 400"),
        ("select=last", "select is best and cannot be changed to last"),
    ],
)
def test_a_setting_that_decides_results_cannot_change(run, command, override, message):
    before = read_files(run)
    code, out, err = command(train.main, f"resume={run}", override)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith(f"mnistcnn: {run}: ") and message in err
    for key in ("device", "data.dir", "epochs"):
        assert key in err.partition("a different run (only ")[2]
    assert read_files(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["epochs=2"],
            "epochs=2 is not allowed: it must be more than 4, the number of completed epochs",
        ),
        (["epochs=abc"], "epochs: "),
        (["epoch=7"], "did you mean epochs?"),
        (["device=cuda:77"], "device=cuda:77"),
        (["hydra.run.dir=elsewhere"], "omit hydra.run.dir"),
        (["-m", "seed=0,1"], "without -m"),
        (["resume="], "give the directory of a run"),
        (["resume=7"], """quote it, as in resume="'7'\""""),
        (["resume=true"], "is not a name: quote it"),
        (["resume='do\\${seed}l'"], "the name of a directory cannot contain ${"),
    ],
)
def test_invalid_arguments_are_refused(run, command, arguments, message):
    before = read_files(run)
    resume = [] if arguments[0].startswith("resume") else [f"resume={run}"]
    code, _, err = command(train.main, *arguments, *resume)
    assert code == 2 and message in err and len(err.splitlines()) <= 2
    assert read_files(run) == before
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_adding_epochs_gives_the_same_bytes_as_training_them_at_once(run, command, tmp_path):
    code, out, err = command(train.main, f"resume={run}", "epochs=6")
    assert (code, err) == (0, "") and "resuming after epoch 4 of 6" in out
    at_once = tmp_path / "at-once"
    train_run(settings(*FOUR_EPOCHS, "epochs=6"), at_once)
    for name in (BEST, LAST, PREDICTIONS, CONFIG, CURVES):
        assert (run / name).read_bytes() == (at_once / name).read_bytes()
    resumed, uninterrupted = read_metrics(run), read_metrics(at_once)
    assert resumed["config_sha256"] == uninterrupted["config_sha256"] and resumed["epochs"] == 6
    seconds_of_epochs = sum(row["seconds"] for row in history.read_history(run))
    assert resumed["seconds"]["total"] > seconds_of_epochs


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["scheduler=cosine"], "scheduler=cosine depends on the number of epochs"),
        (["scheduler=onecycle"], "scheduler=onecycle depends on the number of epochs"),
        (["steps=12"], "steps depends on the number of epochs"),
    ],
)
def test_epochs_cannot_change_if_the_schedule_depends_on_them(command, tmp_path, overrides, reason):
    train_run(settings(*TINY, "epochs=2", *overrides), tmp_path / "run")
    code, _, err = command(train.main, f"resume={tmp_path}/run", "epochs=4")
    assert code == 2 and f"epochs is 2 and cannot be changed to 4: {reason}" in err


def test_early_stopping_applies_before_any_further_epoch_is_trained(monkeypatch, tmp_path):
    patch_scores(monkeypatch, 0.5)
    overrides = [*TINY, "early_stopping.patience=1"]
    first = train_run(settings(*overrides, "epochs=2"), tmp_path / "run")
    assert first["status"] == "finished"
    resumed = train_run(settings(*overrides, "epochs=9"), tmp_path / "run", resume=True)
    assert (resumed["status"], resumed["epochs"]) == ("early_stopped", 2)


# checkpoint.keep_last ----------------------------------------------------------------------------


def test_epochs_cannot_be_added_without_the_last_checkpoint(command, tmp_path):
    run_dir = tmp_path / "run"
    train_run(settings(*TINY, "epochs=2", "checkpoint.keep_last=false"), run_dir)
    before = read_files(run_dir)
    assert LAST not in before
    code, out, err = command(train.main, f"resume={run_dir}")
    assert (code, err) == (0, "") and f"{run_dir} is already complete: 2 epochs" in out
    for overrides in (["epochs=3"], ["epochs=1"], ["epochs=3", "checkpoint.keep_last=true"]):
        code, out, err = command(train.main, f"resume={run_dir}", *overrides)
        assert (code, out) == (2, "")
        assert err == (
            f"mnistcnn: {run_dir}: the number of epochs cannot be changed: last.pt is missing "
            "(checkpoint.keep_last=false removes it)\n"
        )
    assert read_files(run_dir) == before


def test_the_last_checkpoint_of_a_complete_run_can_be_removed_later(run, command):
    before = read_files(run)
    code, out, err = command(train.main, f"resume={run}", "checkpoint.keep_last=false")
    assert (code, err) == (0, "") and "is already complete" in out and "removed last.pt" in out
    assert read_files(run) == {name: before[name] for name in before if name != LAST}


def test_the_only_checkpoint_of_a_run_is_not_removed(run, command):
    (run / BEST).unlink()
    assert command(train.main, f"resume={run}", "checkpoint.keep_last=false")[0] == 0
    assert (run / LAST).exists()


def test_the_last_checkpoint_is_kept_if_the_best_is_corrupt(run, command):
    (run / BEST).write_bytes(b"corrupt")
    code, _, err = command(train.main, f"resume={run}", "checkpoint.keep_last=false")
    assert code == 2 and err.startswith(f"mnistcnn: {run / BEST}")
    assert (run / LAST).exists() and read_metrics(run)["status"] == "finished"


def test_the_last_checkpoint_is_removed_after_a_crash_before_its_removal(command, tmp_path):
    run_dir = tmp_path / "run"
    train_run(settings(*TINY, "checkpoint.keep_last=false"), run_dir)
    before = read_files(run_dir)
    (run_dir / LAST).write_bytes(b"not read by this test")
    code, out, err = command(train.main, f"resume={run_dir}")
    assert (code, err) == (0, "") and "is already complete" in out
    assert read_files(run_dir) == before


def test_an_interrupted_run_keeps_its_last_checkpoint(interrupted, finished_run, command):
    code, out, err = command(train.main, f"resume={interrupted}", "checkpoint.keep_last=false")
    assert (code, err) == (0, "") and "resuming after epoch 4 of 4" in out
    assert not (interrupted / LAST).exists()
    assert (interrupted / PREDICTIONS).read_bytes() == (finished_run / PREDICTIONS).read_bytes()
    settings_of_run = (interrupted / CONFIG).read_text()
    assert "keep_last: false" in settings_of_run
    assert load_checkpoint(interrupted / BEST).config == settings_of_run


def test_epochs_can_be_added_to_a_run_that_is_not_complete(interrupted, command):
    overrides = ["checkpoint.keep_last=false", "epochs=5"]
    assert command(train.main, f"resume={interrupted}", *overrides)[0] == 0
    assert read_metrics(interrupted)["epochs"] == 5 and not (interrupted / LAST).exists()


# The files of the run ----------------------------------------------------------------------------


def test_resuming_after_the_last_epoch_writes_the_same_results(interrupted, finished_run, command):
    config_time = (interrupted / CONFIG).stat().st_mtime_ns
    code, out, _ = command(train.main, f"resume={interrupted}")
    assert code == 0 and "resuming after epoch 4 of 4" in out
    assert read_metrics(interrupted)["test"] == read_metrics(finished_run)["test"]
    for name in (LAST, BEST, PREDICTIONS, TSNE, CURVES):
        assert (interrupted / name).read_bytes() == (finished_run / name).read_bytes()
    assert (interrupted / CONFIG).stat().st_mtime_ns == config_time  # compare sorts runs by it


def test_an_incomplete_last_line_of_the_history_is_removed(interrupted, finished_run):
    file = interrupted / HISTORY
    file.write_text(file.read_text() + '{"epoch": 5, "lr": 0.1, "train_lo')
    train_run(settings(*FOUR_EPOCHS), interrupted, resume=True)
    assert file.read_text() == (finished_run / HISTORY).read_text()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"val_accuracy": 0.', '"val_accuracy": 0.9', 1))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (LAST, truncate, "is not a checkpoint of mnistcnn, or is truncated"),
        (LAST, flip_bit, "is corrupt"),
        (LAST, Path.unlink, "last.pt is missing"),
        (LAST, replace_by_directory, "is not a file"),
        (HISTORY, truncate, "its first 4 epochs are not those of last.pt"),
        (HISTORY, edit, "its first 4 epochs are not those of last.pt"),
        (HISTORY, Path.unlink, "its first 4 epochs are not those of last.pt"),
        (CONFIG, Path.unlink, "config.yaml: No such file"),
        (CONFIG, truncate, "config.yaml is not a valid configuration"),
    ],
)
def test_corrupt_runs_are_refused_and_not_changed(interrupted, command, name, damage, message):
    damage(interrupted / name)
    before = read_files(interrupted)
    code, _, err = command(train.main, f"resume={interrupted}")
    assert code == 2 and message in err and str(interrupted) in err
    assert len(err.splitlines()) <= 2 and "Traceback" not in err
    after = read_files(interrupted)
    assert after == before or set(after) == set(before) | {LOCK_FILE}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (CONFIG, f"format: {FORMAT}", "format: 6"),
        (METRICS, f'"format": {FORMAT}', '"format": 6'),
        (LAST, f"checkpoint {FORMAT:06d} sha256", "checkpoint 000006 sha256"),
    ],
)
def test_other_formats_are_refused_by_number(interrupted, command, name, old, new):
    file = interrupted / name
    assert old.encode() in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old.encode(), new.encode()))
    before = read_files(interrupted)
    code, out, err = command(train.main, f"resume={interrupted}")
    assert (code, out) == (2, "")
    assert err == (
        f"mnistcnn: {file} was written by another version of mnistcnn "
        f"(format 6; this version reads format {FORMAT})\n"
    )
    assert read_files(interrupted) in (before, before | {LOCK_FILE: b""})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated"),
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: shutil.copy(path.with_name(LAST), path), "holds epoch 2, not epoch 1"),
    ],
)
def test_the_checkpoint_of_the_best_epoch_is_required(monkeypatch, tmp_path, damage, message):
    patch_scores(monkeypatch, 0.9, 0.8)
    train_run(settings(*TINY, "epochs=2"), tmp_path / "run")
    damage(tmp_path / "run" / BEST)
    with pytest.raises(UsageError, match=message):
        train_run(settings(*TINY, "epochs=3"), tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_run_is_refused(interrupted, tmp_path):
    train_run(settings(*TINY, "seed=5"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / LAST, interrupted)
    message = r"Does .*last\.pt belong to another run than config\.yaml\?"
    with pytest.raises(UsageError, match=message):
        train_run(settings(*FOUR_EPOCHS), interrupted, resume=True)


def test_a_checkpoint_without_training_state_cannot_be_resumed(interrupted):
    shutil.copy(interrupted / BEST, interrupted / LAST)
    with pytest.raises(UsageError, match="has weights only and cannot be resumed"):
        train_run(settings(*FOUR_EPOCHS), interrupted, resume=True)


def test_an_evaluation_cannot_be_resumed(finished_run, command, tmp_path):
    arguments = [f"ckpt={finished_run}", "tsne.samples=20", "hydra.run.dir=evaluation"]
    assert command(evaluate.main, *arguments)[0] == 0
    before = read_files(tmp_path / "evaluation")
    code, _, err = command(train.main, "resume=evaluation")
    assert code == 2 and "is an evaluation, which cannot be resumed" in err
    assert read_files(tmp_path / "evaluation") == before


def test_files_of_other_programs_are_kept(run):
    (run / ".config.yaml.swp").write_text("an editor's")
    (run / ".best.pt.old").mkdir()
    (run / ".best.pt.x.unfinished").write_text("of a killed process")
    train_run(settings(*FOUR_EPOCHS), run, resume=True)
    hidden = {path.name for path in run.iterdir() if path.name.startswith(".")}
    assert hidden == {".config.yaml.swp", ".best.pt.old", LOCK_FILE}


def test_a_full_disk_costs_no_results(run, monkeypatch):
    before = read_files(run)
    fill_disk(monkeypatch)
    with pytest.raises(WriteError, match="disk full"):
        train_run(settings(*FOUR_EPOCHS, "epochs=6"), run, resume=True)
    assert read_files(run) == before | {LOCK_FILE: b""}


# Runs without a checkpoint -----------------------------------------------------------------------


@pytest.mark.parametrize("metrics", [None, {"format": FORMAT, "status": "failed", "error": "data"}])
def test_config_yaml_has_the_settings_of_a_run_that_was_resumed_without_a_checkpoint(
    tmp_path, command, metrics
):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / CONFIG).write_text(to_yaml(settings(*TINY, "epochs=2")))
    if metrics is not None:
        write_json(run_dir / METRICS, metrics)
    assert command(train.main, f"resume={run_dir}", "epochs=1")[0] == 0
    assert "\nepochs: 1\n" in (run_dir / CONFIG).read_text()
    complete = read_files(run_dir)
    assert PREDICTIONS in complete
    code, out, err = command(train.main, f"resume={run_dir}")
    assert (code, err) == (0, "") and "is already complete: 1 epoch" in out
    assert read_files(run_dir) == complete


def test_a_run_without_its_configuration_is_completed(interrupted):
    (interrupted / CONFIG).unlink()
    train_run(settings(*FOUR_EPOCHS), interrupted, resume=True)
    assert read_metrics(interrupted)["status"] == "finished"
    assert (interrupted / CONFIG).read_text() == to_yaml(settings(*FOUR_EPOCHS))


def test_predictions_and_pictures_remain_while_epochs_are_added(run, monkeypatch):
    before = read_files(run)

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_run(settings(*FOUR_EPOCHS, "epochs=5"), run, resume=True)
    stopped = read_files(run)
    assert "\nepochs: 5\n" in stopped[CONFIG].decode()
    assert read_metrics(run)["status"] == "interrupted"
    for name in RESULT_FILES:
        assert stopped[name] == before[name], name
    train_run(settings(*FOUR_EPOCHS, "epochs=5"), run, resume=True)
    assert read_metrics(run)["status"] == "finished" and len(read_history(run)) == 5
    assert (run / CURVES).read_bytes() != before[CURVES]


def test_pictures_of_an_earlier_epoch_do_not_remain(run):
    assert (run / TSNE).exists()
    train_run(settings(*FOUR_EPOCHS, "epochs=5", "pictures=false"), run, resume=True)
    assert list(run.glob("*.png")) == []
    metrics = read_metrics(run)
    assert metrics["epochs"] == 5 and metrics["missing_pictures"] == [] and "tsne" not in metrics


# The command line --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["nowhere", ".", "/etc/passwd", "loop"])
def test_a_path_without_a_run_is_refused(command, tmp_path, path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, _, err = command(train.main, f"resume={path}")
    reason = (
        " is not a run: config.yaml: " if path in (".", "/etc/passwd") else ": there is no such"
    )
    assert code == 2 and err.startswith(f"mnistcnn: resume={path}{reason}")
    assert len(err.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["loop"]


# Sweeps ------------------------------------------------------------------------------------------

SWEEP = ["-m", *TINY, "epochs=2", "seed=3", "hydra.sweep.dir=sweep"]


@pytest.mark.parametrize(("stored", "cores", "threads"), [(3, 4, 3), (8, 4, 4), ("x", 4, 1)])
def test_a_resumed_run_keeps_its_number_of_threads(
    interrupted, monkeypatch, caplog, stored, cores, threads
):
    monkeypatch.setattr(logging.getLogger("mnistcnn"), "propagate", True)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for module in (train_run_module, devices):
        monkeypatch.setattr(module, "available_cores", lambda: cores)
    write_json(interrupted / METRICS, read_metrics(interrupted) | {"threads": stored})
    assert torch.get_num_threads() == 1
    try:
        metrics = train_run(settings(*FOUR_EPOCHS, "pictures=false"), interrupted, resume=True)
        assert metrics["threads"] == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert ("started with 8 threads, and there are 4 cores" in caplog.text) == (stored == 8)


def test_a_repeated_sweep_draws_the_pictures_that_it_had_left_out(command, tmp_path):
    code, out, err = command(train.main, *SWEEP, "pictures=false")
    (run,) = find_runs(tmp_path / "sweep")
    assert (code, err) == (0, "") and "seed" in out
    assert list(run.path.glob("*.png")) == [] and (tmp_path / "sweep" / "summary.md").exists()
    before = read_files(run.path)
    assert command(train.main, *SWEEP, "pictures=false")[0] == 0
    assert read_files(run.path) == before
    code, _, err = command(train.main, *SWEEP)
    assert (code, err) == (0, "") and len(list(run.path.glob("*.png"))) == 6
    assert (run.path / BEST).read_bytes() == before[BEST]


def test_a_sweep_restarts_a_run_with_a_corrupt_checkpoint(command, tmp_path):
    assert command(train.main, *SWEEP)[0] == 0
    (run,) = find_runs(tmp_path / "sweep")
    weights = load_checkpoint(run.path / LAST).model.state_dict()
    write_json(run.path / METRICS, run.metrics | {"status": "interrupted"})
    flip_bit(run.path / LAST)
    code, _, err = command(train.main, *SWEEP)
    assert (code, err) == (0, "")
    (restarted,) = find_runs(tmp_path / "sweep")
    assert restarted.complete and restarted.path == run.path
    log = (run.path / LOG).read_text()
    assert log.count("epoch 1/2") == 2
    assert same_weights(load_checkpoint(run.path / LAST).model.state_dict(), weights)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("full disk", "mnistcnn: disk full\n"),
        ("newer format", f"(format {FORMAT + 1}; this version reads format {FORMAT})\n"),
    ],
)
def test_a_sweep_keeps_intact_files_of_a_run_that_it_cannot_resume(
    command, replace_job_process, tmp_path, cause, message
):
    assert command(train.main, *SWEEP)[0] == 0
    (run,) = find_runs(tmp_path / "sweep")
    write_json(run.path / METRICS, run.metrics | {"status": "interrupted"})
    if cause == "newer format":
        content = (run.path / LAST).read_bytes()
        seal = f"checkpoint {FORMAT:06d} sha".encode()
        newer = content.replace(seal, f"checkpoint {FORMAT + 1:06d} sha".encode())
        assert newer != content
        (run.path / LAST).write_bytes(newer)
    before = read_files(run.path)

    def run_in_this_process(function, *arguments) -> int:
        with pytest.MonkeyPatch.context() as patch:
            if cause == "full disk":
                fill_disk(patch)
            with pytest.raises(SystemExit) as stop:
                function(*arguments)
        return stop.value.code

    replace_job_process(run_in_this_process)
    code, _, err = command(train.main, *SWEEP)
    assert code == 1 and message in err
    after = read_files(run.path)
    for name in (LAST, BEST, HISTORY, PREDICTIONS):
        assert after[name] == before[name]


def test_evaluate_accepts_an_interrupted_run(interrupted, finished_run, command, tmp_path):
    arguments = [f"ckpt={interrupted}", "tsne.samples=20", "hydra.run.dir=evaluation"]
    assert command(evaluate.main, *arguments)[0] == 0
    assert read_metrics(tmp_path / "evaluation")["test"] == read_metrics(finished_run)["test"]
