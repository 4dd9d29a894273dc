"""The commands: arguments, error messages, exit codes, and what they print and write."""

import contextlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mnistcnn import __version__, compare, evaluate, reproduce, train
from mnistcnn.cli import hydra_command
from mnistcnn.cli.app import run_cli
from mnistcnn.models.registry import BUILDERS
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    LAST,
    LOG,
    MAX_SLUG_LENGTH,
    METRICS,
    PREDICTIONS,
    TSNE,
    slugify,
)
from mnistcnn.runs.history import TIMING_KEYS, read_history
from mnistcnn.system.errors import MnistcnnError, UsageError
from mnistcnn.training import train_run
from mnistcnn.training.trainer import Trainer

from .conftest import TINY

# an override, and parts of the error message
MODELS = ", ".join(sorted(BUILDERS))

REFUSED = [
    ("epoch=3", ["no setting epoch", "did you mean epochs?"]),
    ("+typo=1", ["no setting typo"]),
    ("++model.typo=1", ["no setting model.typo", "model.channels"]),
    ("optimiser=adam", ["optimiser", "did you mean optimizer?"]),
    ("lr=0.1", ["did you mean optimizer.lr?"]),
    ("aug=ful", ["aug=ful", "did you mean full?", "none, prose, rotate45_flip"]),
    ("model=resnet", ["did you mean resnet50?", MODELS]),
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
    ("tsne.samples=5", ["tsne.samples=5", "0 (no tsne.png), or a number from 10 to 10000"]),
    ("tsne.samples=10001", ["tsne.samples=10001", "from 10 to 10000"]),
    ("pictures=maybe", ["pictures", "'maybe' is not true or false"]),
    ("steps=105", ["steps=105", "a multiple of epochs=10, for example 100 or 110"]),
    ("steps=5", ["steps=5", "a multiple of epochs=10, for example 10"]),
    ("loss=nll", ["loss=nll", "cross_entropy, nll_of_logits"]),
    ("batch_size=0", ["batch_size=0", "from 1 to"]),
    ("model.channels=[]", ["model.channels=[]", "at least one"]),
    ("model.channels=8", ["model.channels=[...]"]),
    ("model.channels=[8,8,8,8]", ["model.channels", "28-pixel"]),
    ("model.name=custom", ["model=custom"]),
    ("model=null", ["model=null", MODELS]),
    ("scheduler=False", ["scheduler=False", "cosine, none, onecycle, step"]),
    ("~model", ["~model", "cannot be removed"]),
    ("aug.name=full", ["aug=full"]),
    ("epochs=null", ["epochs", "null is not a whole number"]),
    ("+epochs=3", ["epochs=... without +"]),
    ("tsne=false", ["tsne.<key>=..."]),
    ("early_stopping=1", ["early_stopping.<key>=..."]),
    ("optimizer.momentum=0.9", ["is a setting of optimizer=rmsprop,sgd, not"]),
    ("model.width=0.25", ["is a setting of model=custom,vgg16,resnet50, not"]),
    ("data=/some/where", ["data=/some/where", "mnist, mnist5k"]),
    ("model.channels=[[8,8]]", ["model.channels", "each element is a number"]),
    ("model.channels=[8,8", ["a bracket is missing"]),
    ("epochs = 3", ["write it without spaces, epochs=3"]),
    ("hydra.run.dirr=x", ["no setting hydra.run.dirr"]),
    ("device=cuda:77", ["device=cuda:77", "auto"]),
    ("device=gpu", ["device=gpu", "cuda"]),
    ("data=MNIST", ["did you mean mnist?"]),
    ("optimizer.betas=[0.9,0.9]", ["is a setting of optimizer=adam,adamax,adamw, not"]),
    ("hydra.run.dir=a=b", ["quote it", "hydra.run.dir='a=b'"]),
    ("batch_size", ["cannot parse batch_size:", "key=value"]),
    ("--epochs=3", ["no flag --epochs", "epochs=..."]),
    ("-e", ["no flag -e"]),
]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a module of mnistcnn in a new process."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def read_metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / METRICS).read_text())


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("override", "parts"), REFUSED, ids=[override for override, _ in REFUSED])
def test_bad_overrides_are_refused_in_one_or_two_lines(command, tmp_path, override, parts):
    code, out, err = command(train.main, "data=mnist5k", override)
    assert code == 2
    assert out == "" and err.startswith("mnistcnn: ")
    assert len(err.splitlines()) <= 2 and "Traceback" not in err
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []  # no run directory


def test_the_message_about_an_unknown_key_depends_on_the_chosen_model(command):
    code, _, err = command(train.main, "model=custom", "model.stride=2")
    assert code == 2
    assert "model.stride is a setting of model=convnet, not of the chosen model" in err
    code, _, err = command(train.main, "model=custom", "model.wdth=2")
    assert code == 2 and "did you mean model.width?" in err


def test_hydra_full_error_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mnistcnn", "batch_size=0"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        train.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" in err and "SettingError" in err


def test_hydra_full_error_shows_the_traceback_of_an_error_in_hydra(monkeypatch, capsys):
    def broken(*_, **__):
        raise ValueError("an error in Hydra")

    monkeypatch.setattr(hydra_command.hydra, "main", broken)
    monkeypatch.setattr("sys.argv", ["mnistcnn"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        train.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "in broken" in err and "ValueError: an error in Hydra" in err


@pytest.mark.parametrize(
    "directory", ["{tmp}/file/run", "/proc/nowhere/run"], ids=["below a file", "in /proc"]
)
def test_an_unwritable_run_directory_is_refused(command, tmp_path, directory):
    (tmp_path / "file").write_text("")
    path = directory.format(tmp=tmp_path)
    code, _, err = command(train.main, *TINY, f"hydra.run.dir={path}")
    assert code == 2 and f"hydra.run.dir={path} cannot be written" in err
    code, _, err = command(train.main, "-m", *TINY, "seed=1,2", f"hydra.sweep.dir={path}")
    assert code == 2 and "hydra.sweep.dir" in err


def test_a_missing_dataset_without_network(command, tmp_path):
    mirror = "http://127.0.0.1:1"  # refuses connections
    code, _, err = command(
        train.main, f"data.dir={tmp_path}/none", f"data.mirrors=['{mirror}']", "hydra.run.dir=run"
    )
    assert code == 2 and len(err.splitlines()) <= 2
    for part in ("train-images-idx3-ubyte.gz", mirror, "MNISTCNN_DATA_DIR", "data=mnist5k"):
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_a_non_finite_loss_is_reported_in_one_line(command):
    code, _, err = command(
        train.main, *TINY, "optimizer=sgd", "optimizer.lr=1e6", "hydra.run.dir=run"
    )
    assert code == 1
    assert err.startswith("mnistcnn: the loss became") and "optimizer.lr" in err
    assert len(err.splitlines()) == 1


def test_an_unexpected_error_is_reported_in_one_line(command, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(train_run, "load_splits", broken)
    code, _, err = command(train.main, *TINY, "hydra.run.dir=run")
    assert code == 1 and err.startswith("mnistcnn: ZeroDivisionError: by zero")
    assert "Traceback" in (tmp_path / "run" / LOG).read_text()


def test_an_interrupt_exits_with_130(command, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupt)
    code, _, err = command(train.main, *TINY, "hydra.run.dir=run")
    assert code == 130 and "interrupted" in err
    assert read_metrics(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], ["ckpt is required"]),
        (["ckpt=nowhere"], ["nowhere cannot be read", "No such file"]),
        (["ckpt=."], ["not the directory of a run"]),
        (["ckpt=a=b/best.pt"], ["cannot parse ckpt=a=b/best.pt", "ckpt='a=b/best.pt'"]),
        (["ckpt=/etc/passwd"], ["not a checkpoint of mnistcnn"]),
        (["ckp=x"], ["did you mean ckpt?"]),
        (["ckpt=.", "tsne.samples=3"], ["tsne.samples=3", "from 10 to 10000"]),
        (["ckpt=.", "seed=3"], ["no setting seed"]),
        (["ckpt=.", "model=custom"], ["there is no setting model."]),
    ],
)
def test_evaluate_refuses_bad_overrides(command, tmp_path, overrides, parts):
    code, _, err = command(evaluate.main, *overrides)
    assert code == 2 and len(err.splitlines()) <= 2 and "Traceback" not in err
    for part in parts:
        assert part in err
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (UsageError("invalid"), 2, "mnistcnn: invalid\n"),
        (MnistcnnError("failed"), 1, "mnistcnn: failed\n"),
        (KeyboardInterrupt(), 130, "mnistcnn: interrupted\n"),
        (
            OSError(28, "No space left on device"),
            1,
            (
                "mnistcnn: OSError: [Errno 28] No space left on device "
                "(HYDRA_FULL_ERROR=1 shows the traceback)\n"
            ),
        ),
    ],
    ids=["no error", "usage error", "error in a run", "interrupt", "full disk"],
)
def test_run_cli_reports_errors_in_one_line(command, error, code, message):
    def body() -> int:
        if error is not None:
            raise error
        return 0

    assert command(lambda: run_cli(body)) == (code, "", message)


# Runs and sweeps ---------------------------------------------------------------------------------


def test_train_in_the_default_directory_and_evaluate(command, tmp_path):
    code, out, _ = command(train.main, *TINY, "aug=full")
    assert code == 0 and "test accuracy" in out
    (run_dir,) = tmp_path.glob("outputs/*/*-convnet-full")
    assert not set(str(run_dir.relative_to(tmp_path))) & set("=, ")
    code, _, _ = command(evaluate.main, f"ckpt={run_dir}", "tsne.samples=20")
    assert code == 0
    (evaluation,) = tmp_path.glob("outputs/*/*-evaluate")
    assert read_metrics(run_dir)["test"] == read_metrics(evaluation)["test"]


def test_a_multirun_continues_after_a_failed_job(tmp_path):
    result = run(
        "mnistcnn.train", "-m", *TINY, "optimizer=sgd", "optimizer.lr=0.1,1e6,0.2", cwd=tmp_path
    )
    assert result.returncode == 1
    (advice,) = result.stderr.splitlines()
    assert "\nrun 2 of 3 failed: the loss became nan" in result.stdout
    (sweep_dir,) = tmp_path.glob("outputs/*/*-multirun")
    assert advice.startswith("mnistcnn: 1 run is not complete") and str(sweep_dir) in advice
    names = sorted(path.name for path in sweep_dir.iterdir() if path.is_dir())
    assert [name[:-10] for name in names] == [
        "optimizer.lr-0.1-",
        "optimizer.lr-0.2-",
        "optimizer.lr-1000000.0-",
    ]
    assert not set("".join(names)) & set("=, []")
    statuses = [read_metrics(sweep_dir / name)["status"] for name in names]
    assert statuses == ["finished", "finished", "failed"]


@pytest.mark.parametrize("bad", ["seed=1,bad", "data.fraction=1,7", "aug=none,ful", "epoch=1,2"])
def test_all_jobs_of_a_multirun_are_checked_before_the_first_starts(command, tmp_path, bad):
    code, _, err = command(train.main, "-m", *TINY, "optimizer.lr=1,2", bad)
    assert code == 2 and len(err.splitlines()) <= 2
    assert bad.partition("=")[0] in err
    assert list(tmp_path.iterdir()) == []


def test_slugify():
    assert slugify("data.fraction=0.5,seed=3") == "data.fraction-0.5_seed-3"
    assert slugify("model.channels=[32,64]") == "model.channels-32-64"
    assert slugify("model.channels=[32,64],aug=full") == "model.channels-32-64_aug-full"
    assert len(slugify("a" * 1000)) == MAX_SLUG_LENGTH
    assert slugify("+x=é/..") == "x-.."


# Help and version --------------------------------------------------------------------------------


def test_cfg_prints_the_composed_configuration(command, tmp_path):
    code, out, _ = command(train.main, "model=custom", "--cfg", "job")
    assert code == 0 and "channels:" in out and "name: adam" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [train.main, evaluate.main], ids=["train", "evaluate"])
def test_help_shows_usage_and_examples(command, main):
    code, out, _ = command(main, "--help")
    assert code == 0
    name = main.__module__
    assert out.count(f"python -m {name}") >= 6  # usage and five examples
    assert "--version " in out
    assert "Powered by Hydra" not in out


@pytest.mark.parametrize("main", [train.main, evaluate.main], ids=["train", "evaluate"])
@pytest.mark.parametrize("arguments", [["--version"], ["-m", "seed=0,1", "--version"], ["--vers"]])
def test_version_is_that_of_mnistcnn_and_not_of_hydra(command, main, arguments):
    assert command(main, *arguments) == (0, f"mnistcnn {__version__}\n", "")


@pytest.mark.parametrize("main", [compare.main, reproduce.main], ids=["compare", "reproduce"])
def test_version_and_its_help(command, main):
    assert command(main, "--version") == (0, f"mnistcnn {__version__}\n", "")
    assert "--version" in command(main, "--help")[1]


def test_tab_completion(command, monkeypatch):
    code, out, _ = command(train.main, "-sc", "install=bash")
    assert code == 0 and "complete" in out
    monkeypatch.setenv("COMP_LINE", "mnistcnn-train aug=")
    monkeypatch.setenv("COMP_POINT", "19")
    code, out, _ = command(train.main, "-sc", "query=bash")
    assert code == 0
    assert out.split() == ["aug=full", "aug=none", "aug=prose", "aug=rotate45_flip"]


def test_console_scripts_are_installed():
    from importlib.metadata import entry_points

    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["mnistcnn-train"] == "mnistcnn.train:main"
    assert scripts["mnistcnn-evaluate"] == "mnistcnn.evaluate:main"


# In a process of its own -------------------------------------------------------------------------


def test_stderr_is_empty_after_success_and_has_the_error_after_failure(tmp_path):
    result = run("mnistcnn.train", *TINY, f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no progress bar without a terminal
    refused = run("mnistcnn.train", "epoch=3")
    assert refused.returncode == 2 and "did you mean epochs?" in refused.stderr


def test_the_same_command_twice_writes_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        run_dir = f"hydra.run.dir={tmp_path}/{name}"
        result = run("mnistcnn.train", *TINY, "aug=full", "epochs=2", run_dir)
        assert result.returncode == 0, result.stderr

    def history_without_timings(name: str) -> list[dict]:
        rows = read_history(tmp_path / name)
        return [{key: row[key] for key in row if key not in TIMING_KEYS} for row in rows]

    assert history_without_timings("first") == history_without_timings("second")
    assert len(history_without_timings("first")) == 2
    for file in (BEST, LAST, PREDICTIONS, CONFIG, TSNE):
        first, second = (tmp_path / name / file for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_a_run_finishes_if_stdout_is_ascii_only_or_closed(tmp_path):
    folder = tmp_path / "é"  # cannot be printed in ASCII
    folder.mkdir()
    train_command = f"PYTHONIOENCODING=ascii {sys.executable} -m mnistcnn.train $*"
    script = (
        f"{train_command} hydra.run.dir=piped | head -1; "
        f"{train_command} hydra.run.dir=closed 2>&- >&-"
    )
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", *TINY],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("data mnist5k: 680") and len(result.stdout.splitlines()) == 1
    for name in ("piped", "closed"):
        assert read_metrics(folder / name)["status"] == "finished"


def test_a_progress_bar_is_shown_on_a_terminal(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="no pseudo-terminals on this system")
    termios = pytest.importorskip("termios", reason="no pseudo-terminals on this system")
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    command = [sys.executable, "-m", "mnistcnn.train", *TINY, f"hydra.run.dir={tmp_path}/run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        output = b""
        with contextlib.suppress(OSError):  # raised when the process closes the terminal
            while part := os.read(controller, 4096):
                output += part
        os.close(controller)
    assert process.returncode == 0
    assert b"batch" in output and b"/6 [" in output  # 680 images in batches of 128
    assert b"batch" not in (tmp_path / "run" / LOG).read_bytes()
