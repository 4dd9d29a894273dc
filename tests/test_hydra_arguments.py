"""The arguments of the commands configured by Hydra: flags, overrides, and Hydra's settings."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnistcnn import compare, evaluate, reproduce, train
from mnistcnn.benchmark import __main__ as benchmark
from mnistcnn.cli.arguments import parse_compare_arguments
from mnistcnn.cli.hydra_arguments import check_overrides, flags_first, parse_arguments
from mnistcnn.config.load import parse_yaml
from mnistcnn.runs.directory import LAST
from mnistcnn.system import logs
from mnistcnn.system.errors import UsageError

from .conftest import TINY
from .synthetic_runs import make_run

# Flags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["seed=0,1", "-m"], ["--multirun", "seed=0,1"]),
        (["data=mnist5k", "-m", "seed=0,1"], ["--multirun", "data=mnist5k", "seed=0,1"]),
        (["seed=1", "--cfg", "job", "aug=full"], ["--cfg=job", "seed=1", "aug=full"]),
        (["seed=1", "-c", "all", "--resolve", "-p", "model"], 3),
        (["seed=1", "-cd", "a=b", "aug=full"], ["--config-dir=a=b", "seed=1", "aug=full"]),
        (["seed=1", "-cn", "train"], ["--config-name=train", "seed=1"]),
        (["seed=1", "-h"], ["--help", "seed=1"]),
        (["seed=1", "--hydra-help"], ["--hydra-help", "seed=1"]),
        (["seed=1", "-i"], ["--info=all", "seed=1"]),
        (["seed=1", "--info", "plugins", "aug=full"], ["--info=plugins", "seed=1", "aug=full"]),
        (["install=bash", "-sc"], ["--shell-completion", "install=bash"]),
        (["seed=1", "--multi", "aug=full"], ["--multirun", "seed=1", "aug=full"]),
        (["seed=1"], ["seed=1"]),
        ([], []),
    ],
    ids=str,
)
def test_flags_may_stand_anywhere(arguments, ordered):
    found = flags_first(parse_arguments(arguments))
    if isinstance(ordered, int):
        assert set(found[:ordered]) == {"--cfg=all", "--resolve", "--package=model"}
        found, ordered = found[ordered:], ["seed=1"]
    assert found == ordered
    assert flags_first(parse_arguments(found)) == found


def test_a_flag_after_an_override_reaches_hydra(command, tmp_path):
    code, out, _ = command(train.main, "epochs=3", "--cfg", "job", "seed=7", "-p", "_global_")
    assert code == 0 and {"epochs: 3", "seed: 7"} <= set(out.splitlines())
    code, _, err = command(train.main, "data=mnist5k", "-m", "seed=0,bad")
    assert code == 2 and "'bad' is not a whole number" in err  # a job of a sweep
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1", "-M"], "there is no flag -M; did you mean -m?"),
        (["--mutirun"], "there is no flag --mutirun; did you mean --multirun?"),
        (
            ["aug=full", "--epochs", "3"],
            "there is no flag --epochs; write settings without dashes, as epochs=...",
        ),
        (["--", "-x=1"], "there is no flag -x=1; write settings without dashes, as x=..."),
        (
            ["--cfg", "job", "-m", "seed=0,1"],
            "--multirun and --cfg cannot be used together: omit one of them",
        ),
        (["--resolve"], "--resolve has an effect only with --cfg, as in --cfg job --resolve"),
        (
            ["-p", "model"],
            "--package has an effect only with --cfg, as in --cfg job --package model",
        ),
        (["-cn", "other"], "--config-name=other: this command has one configuration, train"),
        (
            ["--cfg", "jobs"],
            (
                "argument --cfg/-c: invalid choice: 'jobs' (choose from 'job', 'hydra', 'all') "
                "(--help shows the usage)"
            ),
        ),
        (["seed=1", "--cfg"], "argument --cfg/-c: expected one argument (--help shows the usage)"),
    ],
    ids=str,
)
def test_bad_flags_are_refused_in_one_line(command, tmp_path, arguments, message):
    code, out, err = command(train.main, *arguments)
    assert (code, out) == (2, "")
    # Python 3.12 and later quote the choices differently
    assert err.replace("job, hydra, all", "'job', 'hydra', 'all'") == f"mnistcnn: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["a", "b", "--version"], ["--out", "x", "a", "--version", "b"]], ids=str
)
def test_version_anywhere_in_compare(command, arguments):
    assert command(compare.main, *arguments)[0] == 0


def test_directories_may_follow_an_option_of_compare():
    found = parse_compare_arguments(["a", "--baseline", "aug=none", "b", "--out", "c", "d"])
    assert found.paths == [Path("a"), Path("b"), Path("d")]
    assert (found.baseline, found.out) == ("aug=none", Path("c"))


@pytest.mark.parametrize(
    "arguments", [["--pages", "--version"], ["seed=0", "--only", "x", "--version"]], ids=str
)
def test_version_anywhere_in_reproduce(command, arguments):
    assert command(reproduce.main, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (reproduce.main, ["--pages", "--only", "stride"], "--pages runs nothing: omit --only"),
        (reproduce.main, ["--scale", "cpu", "--pages"], "--pages runs nothing: omit --scale"),
        (reproduce.main, ["--pages", "seed=1"], "--pages runs nothing: omit seed=1"),
        (reproduce.main, ["--seeds", "0"], "--seeds: must be at least 1"),
        (reproduce.main, ["--out="], "argument --out: give the name of a directory"),
        (benchmark.main, ["--pages", "--rounds", "2"], "--pages runs nothing: omit --rounds"),
        (compare.main, [], "the following arguments are required: RUN_OR_SWEEP"),
        (compare.main, ["a", "--out", ""], "argument --out: give the name of a directory"),
        (compare.main, ["", "a"], "argument RUN_OR_SWEEP: give the name of a directory"),
        (compare.main, ["a", "--version=1"], "argument --version: ignored explicit argument '1'"),
        (train.main, ["--version=1"], "argument --version: ignored explicit argument '1'"),
        (evaluate.main, ["--version=1"], "argument --version: ignored explicit argument '1'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    command, monkeypatch, tmp_path, main, arguments, message
):
    monkeypatch.setattr("mnistcnn.experiments.results.repository", lambda: pytest.fail("written"))
    code, out, err = command(main, *arguments)
    assert (code, out) == (2, "")
    assert err == f"mnistcnn: {message} (--help shows the usage)\n"
    assert list(tmp_path.iterdir()) == []


# Overrides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "experiment=table_1,batch_norm"],
        ["experiment=table_1,batch_norm", "-m"],
        ["experiment=table_1,batch_norm"],
        ["+experiment=table_1,batch_norm"],
        ["-m", "+experiment=table_1,batch_norm"],
        ["-m", "experiment=choice(table_1,batch_norm)"],
        ["experiment=[table_1,batch_norm]"],
        ["experiment=table_1", "experiment=batch_norm"],
    ],
    ids=" ".join,
)
def test_several_experiments_are_refused_with_a_command_for_each(command, tmp_path, arguments):
    directory = r"data.dir='it\'s'"
    code, out, err = command(train.main, "epochs=1", *arguments, directory)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith("mnistcnn: experiment=table_1,batch_norm: each experiment needs its own")
    commands = [shlex.split(text) for text in err.partition("own command: ")[2].split(" && ")]
    flags = ["-m"] if "-m" in arguments else []
    for words, name in zip(commands, ["table_1", "batch_norm"], strict=True):
        expected = [f"experiment={name}", "epochs=1", directory]
        assert words == ["python", "-m", "mnistcnn.train", *flags, *expected]
        OverridesParser.create().parse_overrides(expected)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_experiments_that_have_no_sweep_of_their_own_is_accepted(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nepochs: 3\n")
    arguments = ["-m", "experiment=smoke,mine", "--config-dir", str(tmp_path)]
    check_overrides(parse_arguments(arguments), "train")
    (folder / "mine.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    with pytest.raises(UsageError, match="each experiment needs its own command"):
        check_overrides(parse_arguments(arguments), "train")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["aug=[none,full]"], ["aug=[none,full]: choose one option", "-m aug=none,full"]),
        (["-m", "model=[convnet,custom]"], ["-m model=convnet,custom"]),
        (["-m", "hydra/launcher=[basic,local]"], ["choose one option"]),
        (["-m", "hydra/launcher=joblib"], ["omit it", "hydra.launcher.jobs=N"]),
        (["-m", "hydra/launcher=basic"], ["omit it", "hydra.launcher.jobs=N"]),
        (["-m", "hydra/sweeper=basic"], ["omit it"]),
        (["-m", "seed=0,1", "+hydra.job.env_set.A=b"], ["hydra.job.env_set has no effect"]),
        (["-m", "optimizer.lr=interval(0.1,1)"], ["lr=interval(0.1,1)", "hydra/sweeper=optuna"]),
        (["-m", "hydra.sweeper.pairs=['',seed]"], ["pairs=", "a list of settings"]),
        (["-m", "hydra.sweeper.pairs=???", "seed=0,1"], ["hydra.sweeper.pairs"]),
        (["-m", "hydra.launcher=4"], ["hydra/launcher=..., of local, submitit_local"]),
        (["-m", "hydra.launcher.jobs=0"], ["jobs=0", "auto or a whole number from 1"]),
        (["-m", "hydra.launcher.jobs_per_gpu=x"], ["jobs_per_gpu=x", "a whole number from 1"]),
        (["-m", "hydra.launcher.fail_fast=3"], ["fail_fast=3", "true or false"]),
        (["-m", "hydra.sweeper.pairs=3"], ["pairs=3", "[model,optimizer.lr]"]),
        (["-m", "hydra.sweeper.pairs=[seed]", "seed=0,1"], ["two settings or more"]),
        (["-m", "hydra.sweeper.pairs=[seed,aug]", "seed=0,1"], ["aug has no values"]),
        (["-m", "hydra.sweeper.pairs=[seed,seed]", "seed=0,1"], ["seed occurs twice"]),
        (
            ["-m", "hydra.sweeper.pairs=[seed,epochs]", "seed=0,1", "epochs=1,2,3"],
            ["seed has 2, epochs has 3"],
        ),
        (["-m", "seed=range(0)"], ["seed=range(0) has no values"]),
        (["-m", "seed=range(5,5)", "epochs=1,2"], ["seed=range(5,5) has no values"]),
        (["-m", "seed=range(0,5,0)"], ["seed=range(0,5,0) has no values"]),
        (["experiment=stride", "seed=range(0)"], ["seed=range(0) has no values"]),
        (["-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"], ["max_batch_size=0", "from 1"]),
        (["-m", "seed=0,1", "hydra.sweeper.max_batch_size=-1"], ["max_batch_size=-1", "from 1"]),
        (["-m", "seed=0,1", "hydra.sweeper.max_batch_size=x"], ["max_batch_size", "whole number"]),
        (["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=0"], ["n_trials=0", "from 1"]),
        (["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=-2"], ["n_trials=-2", "from 1"]),
        (["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=x"], ["n_trials=x", "from 1"]),
        (["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=null"], ["n_trials", "from 1"]),
        (["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=0"], ["n_jobs=0", "from 1"]),
        (["hydra/sweeper=optuna"], ["hydra/sweeper=optuna has an effect only with -m"]),
        (["hydra.launcher.jobs=2"], ["hydra.launcher.jobs=2 has an effect only with -m"]),
        (["hydra.sweep.dir=x"], ["hydra.sweep.dir=x has an effect only with -m"]),
        (["hydra.sweeper.max_batch_size=2"], ["has an effect only with -m"]),
        (["-m", "seed=0,1", "hydra.run.dir=x"], ["hydra.run.dir=x has an effect only without -m"]),
        (["hydra.run.dir="], ["hydra.run.dir is empty", "give the name of a directory"]),
        (["hydra.run.dir=' '"], ["hydra.run.dir is empty"]),
        (["-m", "seed=0,1", "hydra.sweep.dir="], ["hydra.sweep.dir is empty"]),
    ],
    ids=str,
)
def test_what_hydra_would_ignore_or_misunderstand_is_refused(command, tmp_path, arguments, parts):
    code, out, err = command(train.main, "data=mnist5k", *arguments)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and err.startswith("mnistcnn: ")
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_says_what_to_type(command, tmp_path):
    make_run(tmp_path / "a run")
    code, _, err = command(evaluate.main, "a run")
    assert code == 2 and err.endswith(
        "to evaluate this run or checkpoint, write \"ckpt='a run'\"\n"
    )
    code, _, err = command(evaluate.main)
    assert code == 2 and "ckpt is required: write ckpt=RUN, where RUN is the directory of" in err
    code, _, err = command(evaluate.main, "hydra.run.dir=", "ckpt=x")
    assert code == 2 and "hydra.run.dir is empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a run"]


def test_train_says_how_to_resume(command, tmp_path):
    run = make_run(tmp_path / "first").path
    code, _, err = command(train.main, "first")
    assert code == 2 and err.endswith("first: to resume this run, write resume=first\n")
    (run / LAST).write_bytes(b"")
    code, _, err = command(train.main, "resume=first/last.pt")
    assert code == 2 and len(err.splitlines()) == 1
    assert "resume=first/last.pt is a file: give the directory of the run, resume=first\n" in err


# The configuration of a run to resume ------------------------------------------------------------


def test_cfg_shows_the_configuration_of_the_run_to_resume(command, tmp_path):
    make_run(tmp_path / "first", "model=fcnet", "seed=5", "epochs=4", "data=mnist5k")
    code, out, err = command(train.main, "resume=first", "--cfg", "job", "epochs=6")
    assert (code, err) == (0, "")
    shown = parse_yaml(out)
    assert (shown["model"]["name"], shown["seed"], shown["epochs"]) == ("fcnet", 5, 6)
    code, out, err = command(train.main, "resume=first", "--cfg", "job", "seed=6")
    assert code == 2 and out == "" and "seed is 5 and cannot be changed to 6" in err
    code, out, err = command(train.main, "resume=nowhere", "--cfg", "job")
    assert code == 2 and out == "" and "resume=nowhere: there is no such directory" in err
    code, out, err = command(train.main, "resume=first", "--cfg", "all")
    assert code == 2 and out == "" and "only --cfg job shows the configuration" in err
    code, out, _ = command(train.main, "resume=null", "seed=8", "--cfg", "job")
    assert code == 0 and parse_yaml(out)["seed"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


# Empty directories -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate.main, ["ckpt=nowhere"]),
        (evaluate.main, ["ckpt=nowhere", "hydra.run.dir=a/b/c"]),
        (train.main, ["data=mnist5k", "epochs=0", "hydra.run.dir=a/b/c"]),
        (train.main, ["data=mnist5k", "-m", "seed=0,1", "epochs=0", "hydra.sweep.dir=a/b/c"]),
        (compare.main, ["nowhere", "elsewhere", "--out", "a/b/c"]),
    ],
)
def test_a_refused_command_leaves_no_directory(command, tmp_path, main, arguments):
    code, _, err = command(main, *arguments)
    assert code == 2 and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refused_command_keeps_an_existing_empty_directory(command, tmp_path):
    (tmp_path / "mine").mkdir()
    code, _, _ = command(evaluate.main, "ckpt=nowhere", "hydra.run.dir=mine/evaluation")
    assert code == 2 and [path.name for path in tmp_path.rglob("*")] == ["mine"]
    code, _, _ = command(evaluate.main, "ckpt=nowhere", "hydra.run.dir=mine")
    assert code == 2 and [path.name for path in tmp_path.rglob("*")] == ["mine"]


# Colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_terminal", "variables", "expected"),
    [
        (False, {}, "1"),
        (True, {}, None),
        (False, {"FORCE_COLOR": "1"}, None),
        (True, {"NO_COLOR": "1"}, "1"),
    ],
)
def test_colours_need_a_terminal(monkeypatch, is_terminal, variables, expected):
    monkeypatch.setenv("NO_COLOR", "")  # restored after the test
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    logs.setup_logging()
    assert os.environ.get("NO_COLOR") == expected


def test_optuna_writes_no_colour_codes_into_a_pipe(tmp_path):
    pytest.importorskip("optuna")
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    overrides = [*TINY, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"]
    result = subprocess.run(
        [sys.executable, "-m", "mnistcnn.train", "-m", *overrides],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "A new study created" in result.stderr
    assert not re.search(r"\x1b\[", result.stdout + result.stderr)
