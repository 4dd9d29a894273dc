"""Going on with a run: what may change, and what is not believed."""

import json
import shutil
from pathlib import Path

import pytest

from mnistcnn import (
    checkpoint,
    command_line,
    evaluate,
    fit,
    multirun,
    rundir,
    sweep,
    train,
    training,
)
from mnistcnn.errors import UsageError, WriteError

from .conftest import TINY, same_weights, settings

FOUR = ["data=mnist5k", "epochs=4", "aug=full", "tsne.samples=200"]  # of finished_run


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy of a finished run that may be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def metrics(run: Path) -> dict:
    return json.loads((run / rundir.METRICS).read_text())


@pytest.fixture
def interrupted(run) -> Path:
    """What a run leaves that was killed between the last epoch and the first number."""
    values = metrics(run)
    for part in ("train", "validation", "test"):
        del values[part]
    rundir.write_json(run / rundir.METRICS, values | {"status": "interrupted"})
    rundir.clear_results(run)
    return run


# What may change ---------------------------------------------------------------------------------


def test_a_finished_run_says_that_it_is_finished(run, command):
    before = contents(run)
    for same in ([], ["device=cpu"], ["checkpoint.minutes=1"], FOUR, ["epochs=4"]):
        code, out, err = command(train.main, f"resume={run}", *same)
        accuracy = 100 * metrics(run)["test"]["accuracy"]
        assert (code, err) == (0, "")
        assert out == f"{run} is finished: 4 epochs, test accuracy {accuracy:.2f}%\n"
    assert contents(run) == before
    assert {path.name for path in run.parent.iterdir()} == {"run"}  # no directory of Hydra's


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seed=1", "seed is 0 and cannot become 1"),
        ("aug=none", "aug.name is full and cannot become none"),
        ("aug.rotation=3", "aug.rotation is 15.0 and cannot become 3"),
        ("model=custom", "model.name is convnet and cannot become custom"),
        ("optimizer.lr=0.5", "optimizer.lr is 1.0 and cannot become 0.5"),
        ("batch_size=64", "batch_size is 128 and cannot become 64"),
        ("data=mnist", "data.name is mnist5k and cannot become mnist"),
        ("tsne.samples=2000", "tsne.samples is 200 and cannot become 2000"),  # named, if by default
        ("steps=400", "steps is None and cannot become 400"),
        ("select=last", "select is best and cannot become last"),
        ("experiment=smoke", "cannot become"),
    ],
)
def test_what_would_make_another_run_is_refused_by_name(run, command, typed, said):
    before = contents(run)
    code, out, err = command(train.main, f"resume={run}", typed)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith(f"mnistcnn: {run}: ") and said in err
    for key in ("device", "data.dir", "epochs"):
        assert key in err.partition("another run (")[2]
    assert contents(run) == before


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["epochs=2"], "epochs=2 is not possible: it must be more than 4, which are done"),
        (["epochs=abc"], "epochs: "),
        (["epoch=7"], "did you mean epochs?"),
        (["device=cuda:77"], "device=cuda:77"),
        (["hydra.run.dir=elsewhere"], "leave hydra.run.dir out"),
        (["-m", "seed=0,1"], "without -m"),
        (["resume="], "name the directory of a run"),
        (["resume=7"], """quote it, as in resume="'7'\""""),
        (["resume=true"], "is no name: quote it"),
        (["resume='do\\${seed}l'"], "and one without ${"),
    ],
)
def test_what_cannot_be(run, command, typed, said):
    before = contents(run)
    named = [] if typed[0].startswith("resume") else [f"resume={run}"]
    code, _, err = command(train.main, *typed, *named)
    assert code == 2 and said in err and len(err.splitlines()) <= 2
    assert contents(run) == before
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_more_epochs_are_the_same_as_so_many_at_once(run, command, tmp_path):
    code, out, err = command(train.main, f"resume={run}", "epochs=6")
    assert (code, err) == (0, "") and "going on after epoch 4 of 6" in out
    at_once = tmp_path / "at-once"
    training.run(settings(*FOUR, "epochs=6"), at_once)
    for name in (rundir.BEST, rundir.LAST, rundir.PREDICTIONS, rundir.CONFIG, rundir.CURVES):
        assert (run / name).read_bytes() == (at_once / name).read_bytes()
    one, other = metrics(run), metrics(at_once)
    assert one["config_sha256"] == other["config_sha256"] and one["epochs"] == 6
    assert one["seconds"]["total"] > metrics_seconds_of_epochs(run)


def metrics_seconds_of_epochs(run: Path) -> float:
    return sum(row["seconds"] for row in rundir.read_history(run))


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (["scheduler=cosine"], "scheduler=cosine has spread the run over them"),
        (["scheduler=onecycle"], "scheduler=onecycle has spread the run over them"),
        (["steps=12"], "steps has spread the run over them"),
    ],
)
def test_epochs_stay_where_the_schedule_needs_them(command, tmp_path, typed, reason):
    training.run(settings(*TINY, "epochs=2", *typed), tmp_path / "run")
    code, _, err = command(train.main, f"resume={tmp_path}/run", "epochs=4")
    assert code == 2 and f"epochs is 2 and cannot become 4: {reason}" in err


def test_a_run_that_stopped_early_would_have_stopped_however_many_epochs_it_had(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(fit, "_evaluate", lambda *_: {
        "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5,
    })  # fmt: skip
    typed = [*TINY, "early_stopping.patience=1"]
    assert training.run(settings(*typed, "epochs=2"), tmp_path / "run")["status"] == "finished"
    again = training.run(settings(*typed, "epochs=9"), tmp_path / "run", go_on=True)
    assert (again["status"], again["epochs"]) == ("early_stopped", 2)


# What is there -----------------------------------------------------------------------------------


def test_an_interrupted_run_is_told_to_the_end(interrupted, finished_run, command):
    began = (interrupted / rundir.CONFIG).stat().st_mtime_ns
    code, out, _ = command(train.main, f"resume={interrupted}")
    assert code == 0 and "going on after epoch 4 of 4" in out
    assert metrics(interrupted)["test"] == metrics(finished_run)["test"]
    for name in (rundir.LAST, rundir.BEST, rundir.PREDICTIONS, rundir.TSNE, rundir.CURVES):
        assert (interrupted / name).read_bytes() == (finished_run / name).read_bytes()
    assert (interrupted / rundir.CONFIG).stat().st_mtime_ns == began  # compare goes by it


def test_half_a_last_line_of_history_is_cut_off(interrupted, finished_run):
    file = interrupted / rundir.HISTORY
    file.write_text(file.read_text() + '{"epoch": 5, "lr": 0.1, "train_lo')
    training.run(settings(*FOUR), interrupted, go_on=True)
    assert file.read_text() == (finished_run / rundir.HISTORY).read_text()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"val_accuracy": 0.', '"val_accuracy": 0.9', 1))


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (rundir.LAST, cut, "is not a checkpoint of mnistcnn, or has lost its end"),
        (rundir.LAST, flip, "is damaged"),
        (rundir.LAST, Path.unlink, "last.pt is gone"),
        (rundir.LAST, make_a_directory, "is not a file"),
        (rundir.HISTORY, cut, "does not begin with the 4 epochs that last.pt knows"),
        (rundir.HISTORY, edit, "does not begin with the 4 epochs that last.pt knows"),
        (rundir.HISTORY, Path.unlink, "does not begin with the 4 epochs that last.pt knows"),
        (rundir.CONFIG, Path.unlink, "config.yaml: No such file"),
        (rundir.CONFIG, cut, "config.yaml holds no configuration that this version can read"),
    ],
)
def test_damaged_runs_are_refused_and_left_as_they_are(interrupted, command, name, damage, said):
    damage(interrupted / name)
    before = contents(interrupted)
    code, _, err = command(train.main, f"resume={interrupted}")
    assert code == 2 and said in err and str(interrupted) in err
    assert len(err.splitlines()) <= 2 and "Traceback" not in err
    assert contents(interrupted) == before or set(contents(interrupted)) == set(before) | {".lock"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "has lost its end"),
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: shutil.copy(path.with_name(rundir.LAST), path), "is of epoch 2, not of 1"),
    ],
)
def test_the_weights_of_the_best_epoch_are_needed(monkeypatch, tmp_path, damage, said):
    accuracies = iter([0.9, 0.8])
    monkeypatch.setattr(fit, "_evaluate", lambda *_: {
        "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": next(accuracies),
    })  # fmt: skip
    training.run(settings(*TINY, "epochs=2"), tmp_path / "run")
    damage(tmp_path / "run" / rundir.BEST)
    with pytest.raises(rundir.UsageError, match=said):
        training.run(settings(*TINY, "epochs=3"), tmp_path / "run", go_on=True)


def test_checkpoints_of_another_run_are_refused(interrupted, tmp_path):
    training.run(settings(*TINY, "seed=5"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / rundir.LAST, interrupted)
    with pytest.raises(rundir.UsageError, match="Is .*last.pt of another run than config.yaml?"):
        training.run(settings(*FOUR), interrupted, go_on=True)


def test_weights_alone_do_not_go_on(interrupted):
    shutil.copy(interrupted / rundir.BEST, interrupted / rundir.LAST)
    with pytest.raises(rundir.UsageError, match="holds weights alone"):
        training.run(settings(*FOUR), interrupted, go_on=True)


def test_an_evaluation_is_no_training(finished_run, command, tmp_path):
    ckpt = [f"ckpt={finished_run}", "tsne.samples=20", "hydra.run.dir=ev"]
    assert command(evaluate.main, *ckpt)[0] == 0
    before = contents(tmp_path / "ev")
    code, _, err = command(train.main, "resume=ev")
    assert code == 2 and "is an evaluation, with which no training can go on" in err
    assert contents(tmp_path / "ev") == before


def test_what_is_not_ours_stays(run):
    (run / ".config.yaml.swp").write_text("an editor's")
    (run / ".best.pt.old").mkdir()
    (run / ".best.pt.x.unfinished").write_text("a killed process's")
    training.run(settings(*FOUR), run, go_on=True)
    hidden = {path.name for path in run.iterdir() if path.name.startswith(".")}
    assert hidden == {".config.yaml.swp", ".best.pt.old", rundir.LOCK}


def test_results_stay_until_there_is_room_for_others(run, monkeypatch):
    def full(*_):
        raise WriteError("no room")

    before = contents(run)
    monkeypatch.setattr(rundir, "write_bytes", full)
    with pytest.raises(WriteError, match="no room"):
        training.run(settings(*FOUR, "epochs=6"), run, go_on=True)
    assert contents(run) == before | {rundir.LOCK: b""}


@pytest.mark.parametrize(
    "path",
    ["/a/b", "/a b", "/a=b,c", "/it's", "/back\\slash", "/back\\'s", "/end\\", "/x~y", "/é", '/"q"',
     "/[a]{b:c}"],
)  # fmt: skip
def test_the_command_to_go_on_is_read_back(path):
    typed = f"resume={command_line._in_overrides(path)}"
    (override,) = command_line.OverridesParser.create().parse_overrides([typed])
    assert override.value() == path


@pytest.mark.parametrize("where", ["nowhere", ".", "/etc/passwd", "loop"])
def test_what_is_no_run(command, tmp_path, where):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, _, err = command(train.main, f"resume={where}")
    assert code == 2 and err.startswith(f"mnistcnn: resume={where} is no run: config.yaml: ")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_sweep_begins_anew_what_cannot_go_on(command, tmp_path):
    typed = ["-m", *TINY, "epochs=2", "seed=3", "hydra.sweep.dir=sweep"]
    assert command(train.main, *typed)[0] == 0
    (run,) = sweep.find(tmp_path / "sweep")
    weights = checkpoint.load(run.path / rundir.LAST).network.state_dict()
    rundir.write_json(run.path / rundir.METRICS, run.metrics | {"status": "interrupted"})
    flip(run.path / rundir.LAST)
    code, out, err = command(train.main, *typed)
    assert (code, err) == (0, "")
    (again,) = sweep.find(tmp_path / "sweep")
    assert again.complete and again.path == run.path
    log = (run.path / rundir.LOG).read_text()
    assert log.count("epoch 1/2") == 2
    anew = checkpoint.load(run.path / rundir.LAST).network.state_dict()
    assert same_weights(anew, weights)


@pytest.mark.parametrize("why", ["full disk", "newer format"])
def test_a_sweep_throws_away_nothing_that_is_whole(command, monkeypatch, tmp_path, why):
    typed = ["-m", *TINY, "epochs=2", "seed=3", "hydra.sweep.dir=sweep"]
    assert command(train.main, *typed)[0] == 0
    (run,) = sweep.find(tmp_path / "sweep")
    rundir.write_json(run.path / rundir.METRICS, run.metrics | {"status": "interrupted"})
    if why == "newer format":
        content = (run.path / rundir.LAST).read_bytes()
        newer = content.replace(b"checkpoint 000002 sha", b"checkpoint 000003 sha")
        (run.path / rundir.LAST).write_bytes(newer)
    before = contents(run.path)

    def full(*_):
        raise WriteError("no room")

    def told(do, explain, task, chosen, out, known, *_, **__):
        with pytest.MonkeyPatch.context() as patched:
            if why == "full disk":
                patched.setattr(rundir, "write_bytes", full)
            with pytest.raises((WriteError, UsageError), match="no room|newer version"):
                multirun._todo(chosen, out, known)
        return 1

    monkeypatch.setattr(multirun.apart, "call", told)
    assert command(train.main, *typed)[0] == 1
    after = contents(run.path)
    for name in (rundir.LAST, rundir.BEST, rundir.HISTORY, rundir.PREDICTIONS):
        assert after[name] == before[name]


def test_evaluate_reads_an_interrupted_run(interrupted, finished_run, command, tmp_path):
    code, _, _ = command(
        evaluate.main, f"ckpt={interrupted}", "hydra.run.dir=ev", "tsne.samples=20"
    )
    assert code == 0
    assert metrics(tmp_path / "ev")["test"] == metrics(finished_run)["test"]
