"""What a person types, and what they are told."""

import contextlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mnistcnn import command_line, console, evaluate, rundir, train, training
from mnistcnn.errors import PlainError, UsageError

from .conftest import TINY

REFUSED = [
    # what was typed, and what the answer must name
    ("epoch=3", ["no setting epoch", "did you mean epochs?"]),
    ("+typo=1", ["no setting typo"]),
    ("++model.typo=1", ["no setting model.typo", "model.channels"]),
    ("optimiser=adam", ["optimiser", "did you mean optimizer?"]),
    ("lr=0.1", ["did you mean optimizer.lr?"]),
    ("aug=ful", ["aug=ful", "did you mean full?", "none, prose, rotate45_flip"]),
    ("model=resnet", ["did you mean resnet50?", "convnet, custom, fcnet, resnet50, vgg16"]),
    ("experiment=smok", ["did you mean smoke?"]),
    ("epochs=abc", ["epochs", "'abc' is not a whole number"]),
    ("epochs=1.5", ["epochs", "not a whole number"]),
    ("epochs=", ["epochs", "not a whole number"]),
    ("data.fraction=half", ["data.fraction", "'half' is not a number"]),
    ("data.fraction=0", ["data.fraction=0", "above 0 and at most 1"]),
    ("data.fraction=-1", ["data.fraction=-1", "above 0 and at most 1"]),
    ("data.fraction=nan", ["data.fraction=nan", "above 0 and at most 1"]),
    ("data.fraction=1.5", ["data.fraction=1.5", "above 0 and at most 1"]),
    ("data.fraction=1,0.5", ["data.fraction=1,0.5", "-m"]),
    ("steps=105", ["steps=105", "a multiple of epochs=10, as 100 or 110"]),
    ("steps=5", ["steps=5", "a multiple of epochs=10, as 10"]),
    ("loss=nll", ["loss=nll", "cross_entropy, nll_of_logits"]),
    ("batch_size=0", ["batch_size=0", "from 1 to"]),
    ("model.channels=[]", ["model.channels=[]", "at least one"]),
    ("model.channels=8", ["model.channels=[...]"]),
    ("model.channels=[8,8,8,8]", ["model.channels", "28-pixel"]),
    ("model.name=custom", ["model=custom"]),
    ("model=null", ["model=null", "convnet, custom, fcnet, resnet50, vgg16"]),
    ("scheduler=False", ["scheduler=False", "cosine, none, onecycle, step"]),
    ("~model", ["~model", "left out"]),
    ("aug.name=full", ["aug=full"]),
    ("epochs=null", ["epochs", "null is not a whole number"]),
    ("+epochs=3", ["epochs=... without +"]),
    ("tsne=false", ["tsne.<key>=..."]),
    ("early_stopping=1", ["early_stopping.<key>=..."]),
    ("optimizer.momentum=0.9", ["belongs to optimizer=rmsprop,sgd"]),
    ("model.width=0.25", ["belongs to model=custom,vgg16,resnet50"]),
    ("data=/some/where", ["data=/some/where", "mnist, mnist5k"]),
    ("model.channels=[[8,8]]", ["model.channels", "each element is a number"]),
    ("model.channels=[8,8", ["a bracket is missing"]),
    ("epochs = 3", ["write it without spaces, epochs=3"]),
    ("hydra.run.dirr=x", ["no setting hydra.run.dirr"]),
    ("device=cuda:77", ["device=cuda:77", "auto"]),
    ("device=gpu", ["device=gpu", "cuda"]),
    ("data=MNIST", ["did you mean mnist?"]),
    ("optimizer.betas=[0.9,0.9]", ["belongs to optimizer=adam,adamax,adamw"]),
    ("hydra.run.dir=a=b", ["quote it", "hydra.run.dir='a=b'"]),
    ("batch_size", ["cannot read batch_size:", "key=value"]),
    ("--epochs=3", ["no flag --epochs", "epochs=..."]),
    ("-e", ["no flag -e"]),
]


@pytest.mark.parametrize(("typed", "named"), REFUSED, ids=[typed for typed, _ in REFUSED])
def test_bad_input_is_refused_in_plain_lines(command, tmp_path, typed, named):
    code, out, err = command(train.main, "data=mnist5k", typed)
    assert code == 2
    assert out == "" and err.startswith("mnistcnn: ")
    assert len(err.splitlines()) <= 2 and "Traceback" not in err
    for part in named:
        assert part in err
    assert list(tmp_path.iterdir()) == []  # no half-made run


def test_a_key_of_another_model_is_answered_with_its_own_keys(command):
    code, _, err = command(train.main, "model=custom", "model.stride=2")
    assert code == 2 and "no setting model.stride" in err and "belongs to model=convnet" in err
    code, _, err = command(train.main, "model=custom", "model.wdth=2")
    assert code == 2 and "did you mean model.width?" in err


def test_hydra_full_error_shows_the_traceback(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mnistcnn", "batch_size=0"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        train.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" in err and "SettingError" in err


def test_hydra_full_error_shows_where_hydra_gave_up(monkeypatch, capsys):
    def broken(*_, **__):
        raise ValueError("of Hydra's own")

    monkeypatch.setattr(command_line.hydra, "main", broken)
    monkeypatch.setattr("sys.argv", ["mnistcnn"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        train.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "in broken" in err and "ValueError: of Hydra's own" in err


@pytest.mark.parametrize(
    "directory", ["{tmp}/file/run", "/proc/nowhere/run"], ids=["below a file", "in /proc"]
)
def test_an_unwritable_output_directory(command, tmp_path, directory):
    (tmp_path / "file").write_text("")
    path = directory.format(tmp=tmp_path)
    code, _, err = command(train.main, *TINY, f"hydra.run.dir={path}")
    assert code == 2 and f"hydra.run.dir={path} cannot be written" in err
    code, _, err = command(train.main, "-m", *TINY, "seed=1,2", f"hydra.sweep.dir={path}")
    assert code == 2 and "hydra.sweep.dir" in err


def test_a_missing_dataset_without_network(command, tmp_path):
    mirror = "http://127.0.0.1:1"  # nobody listens there
    code, _, err = command(
        train.main, f"data.dir={tmp_path}/none", f"data.mirrors=['{mirror}']", "hydra.run.dir=run"
    )
    assert code == 2 and len(err.splitlines()) <= 2
    for part in ("train-images-idx3-ubyte.gz", mirror, "MNISTCNN_DATA_DIR", "data=mnist5k"):
        assert part in err
    written = json.loads((tmp_path / "run" / rundir.METRICS).read_text())
    assert written["status"] == "failed"


def test_a_loss_that_is_not_finite(command, tmp_path):
    code, _, err = command(
        train.main, *TINY, "optimizer=sgd", "optimizer.lr=1e6", "hydra.run.dir=run"
    )
    assert code == 1
    assert err.startswith("mnistcnn: the loss became") and "optimizer.lr" in err
    assert len(err.splitlines()) == 1


def test_a_bug_is_one_line_too(command, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(training.data, "load", broken)
    code, _, err = command(train.main, *TINY, "hydra.run.dir=run")
    assert code == 1 and err.startswith("mnistcnn: ZeroDivisionError: by zero")
    assert "Traceback" in (tmp_path / "run" / rundir.LOG).read_text()


def test_an_interrupt_exits_130(command, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", interrupt)
    code, _, err = command(train.main, *TINY, "hydra.run.dir=run")
    assert code == 130 and "interrupted" in err
    assert json.loads((tmp_path / "run" / rundir.METRICS).read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("ckpt", "named"),
    [
        ([], ["ckpt must be given"]),
        (["ckpt=nowhere"], ["nowhere cannot be read", "No such file"]),
        (["ckpt=."], ["not the directory of a run"]),
        (["ckpt=a=b/best.pt"], ["cannot read ckpt=a=b/best.pt", "ckpt='a=b/best.pt'"]),
        (["ckpt=/etc/passwd"], ["not a checkpoint of mnistcnn"]),
        (["ckp=x"], ["did you mean ckpt?"]),
        (["ckpt=.", "tsne.samples=3"], ["tsne.samples=3", "from 10 to 10000"]),
        (["ckpt=.", "seed=3"], ["no setting seed"]),
    ],
)
def test_evaluate_refuses(command, tmp_path, ckpt, named):
    code, out, err = command(evaluate.main, *ckpt)
    assert code == 2 and len(err.splitlines()) <= 2 and "Traceback" not in err
    for part in named:
        assert part in err
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_run_in_the_default_directory_and_its_evaluation(command, tmp_path):
    code, out, err = command(train.main, *TINY, "aug=full")
    assert code == 0 and "test accuracy" in out
    (run,) = tmp_path.glob("outputs/*/*-convnet-full")
    assert not set(str(run.relative_to(tmp_path))) & set("=, ")
    code, out, err = command(evaluate.main, f"ckpt={run}", "tsne.samples=20")
    assert code == 0
    (evaluation,) = tmp_path.glob("outputs/*/*-evaluate")
    one, other = (json.loads((path / rundir.METRICS).read_text()) for path in (run, evaluation))
    assert one["test"] == other["test"]


def test_a_multirun_goes_on_after_a_failure(tmp_path):
    done = run(
        "mnistcnn.train", "-m", *TINY, "optimizer=sgd", "optimizer.lr=0.1,1e6,0.2", cwd=tmp_path
    )
    assert done.returncode == 1
    failed, advice = done.stderr.splitlines()  # the first is the job's, told by its own process
    assert failed.startswith("mnistcnn: the loss became nan")
    (sweep,) = tmp_path.glob("outputs/*/*-multirun")
    assert advice.startswith("mnistcnn: 1 run is not complete") and str(sweep) in advice
    runs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert [name[:-10] for name in runs] == [
        "optimizer.lr-0.1-", "optimizer.lr-0.2-", "optimizer.lr-1000000.0-",
    ]  # fmt: skip
    assert not set("".join(runs)) & set("=, []")
    statuses = [json.loads((sweep / run / rundir.METRICS).read_text())["status"] for run in runs]
    assert statuses == ["finished", "finished", "failed"]


@pytest.mark.parametrize("bad", ["seed=1,bad", "data.fraction=1,7", "aug=none,ful", "epoch=1,2"])
def test_a_multirun_is_checked_before_its_first_run(command, tmp_path, bad):
    code, out, err = command(train.main, "-m", *TINY, "optimizer.lr=1,2", bad)
    assert code == 2 and len(err.splitlines()) <= 2
    assert bad.partition("=")[0] in err
    assert list(tmp_path.iterdir()) == []


def test_cfg_prints_the_composed_configuration(command, tmp_path):
    code, out, _ = command(train.main, "model=custom", "--cfg", "job")
    assert code == 0 and "channels:" in out and "name: adam" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [train.main, evaluate.main], ids=["train", "evaluate"])
def test_help_is_for_people(command, main):
    code, out, _ = command(main, "--help")
    assert code == 0
    name = main.__module__
    assert out.count(f"python -m {name}") >= 6  # usage and five examples
    assert "Powered by Hydra" not in out


def test_tab_completion(command, monkeypatch):
    code, out, _ = command(train.main, "-sc", "install=bash")
    assert code == 0 and "complete" in out
    monkeypatch.setenv("COMP_LINE", "mnistcnn-train aug=")
    monkeypatch.setenv("COMP_POINT", "19")
    code, out, _ = command(train.main, "-sc", "query=bash")
    assert code == 0
    assert out.split() == ["aug=full", "aug=none", "aug=prose", "aug=rotate45_flip"]


def test_slugs():
    assert rundir.slug("data.fraction=0.5,seed=3") == "data.fraction-0.5_seed-3"
    assert rundir.slug("model.channels=[32,64]") == "model.channels-32-64"
    assert rundir.slug("model.channels=[32,64],aug=full") == "model.channels-32-64_aug-full"
    assert len(rundir.slug("a" * 1000)) == rundir.SLUG_LENGTH
    assert rundir.slug("+x=é/..") == "x-.."


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_as_a_process(tmp_path):
    done = run("mnistcnn.train", *TINY, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where there is no terminal
    refused = run("mnistcnn.train", "epoch=3")
    assert refused.returncode == 2 and "did you mean epochs?" in refused.stderr


def test_the_same_command_twice_leaves_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        where = f"hydra.run.dir={tmp_path}/{name}"
        done = run("mnistcnn.train", *TINY, "aug=full", "epochs=2", where)
        assert done.returncode == 0, done.stderr

    def timeless(name: str) -> list[dict]:
        rows = rundir.read_history(tmp_path / name)
        return [
            {key: row[key] for key in row if key not in ("seconds", "samples_per_second")}
            for row in rows
        ]

    assert timeless("one") == timeless("other") and len(timeless("one")) == 2
    for file in (rundir.BEST, rundir.LAST, rundir.PREDICTIONS, rundir.CONFIG, rundir.TSNE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_nobody_reads_the_output(tmp_path):
    home = tmp_path / "é"  # cannot be printed in ASCII
    home.mkdir()
    script = f"PYTHONIOENCODING=ascii {sys.executable} -m mnistcnn.train $*"
    piped = f"{script} hydra.run.dir=piped | head -1; {script} hydra.run.dir=closed 2>&- >&-"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", piped, "bash", *TINY],
        cwd=home, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("data mnist5k: 680") and len(done.stdout.splitlines()) == 1
    for name in ("piped", "closed"):
        written = json.loads((home / name / rundir.METRICS).read_text())
        assert written["status"] == "finished"


def test_a_bar_where_there_is_a_terminal(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="no pseudo-terminals here")
    termios = pytest.importorskip("termios", reason="no pseudo-terminals here")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    command = [sys.executable, "-m", "mnistcnn.train", *TINY, f"hydra.run.dir={tmp_path}/run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    assert process.returncode == 0
    assert b"batch" in shown and b"/6 [" in shown  # 680 images in batches of 128
    assert b"batch" not in (tmp_path / "run" / rundir.LOG).read_bytes()


def test_console_scripts_are_installed():
    from importlib.metadata import entry_points

    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    assert scripts["mnistcnn-train"] == "mnistcnn.train:main"
    assert scripts["mnistcnn-evaluate"] == "mnistcnn.evaluate:main"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UsageError("not so"), 2, "mnistcnn: not so\n"),
        (PlainError("went wrong"), 1, "mnistcnn: went wrong\n"),
        (KeyboardInterrupt(), 130, "mnistcnn: interrupted\n"),
        (OSError(28, "No space left on device"), 1, "No space left on device\n"),
    ],
    ids=["none", "usage", "plain", "interrupt", "full disk"],
)
def test_how_a_command_without_hydra_ends(command, error, code, said):
    def body() -> int:
        if error is not None:
            raise error
        return 0

    ended, out, err = command(lambda: console.command(body))
    assert (ended, out) == (code, "") and err.endswith(said) and len(err.splitlines()) <= 1
