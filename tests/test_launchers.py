"""Sweeps with Hydra's launchers and sweepers, each in a process of its own."""

import contextlib
import csv
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import mnistcnn.train
from mnistcnn.experiments.summary import SUMMARY_CSV, SUMMARY_MD
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    HISTORY,
    LAST,
    LOG,
    METRICS,
    PREDICTIONS,
    VALIDATION_CURVES,
)
from mnistcnn.runs.store import find_runs
from mnistcnn.system.resources import available_cores

from .conftest import CONF, TINY

pytestmark = pytest.mark.skipif(os.name != "posix", reason="uses signals and shell scripts")

# The module ``failing_train``: mnistcnn.train, except that the training of the seeds in FAILURES
# ("0:fail,1:kill") calls the given function. Each run writes its number of threads to ``threads``.
FAILING_TRAIN = """
import os, signal
from mnistcnn.cli.hydra_command import run_hydra_command
from mnistcnn.system.atomic_files import write_text
from mnistcnn.training import train_run

def task(settings, run_dir, **options):
    import torch
    failures = dict(pair.split(":") for pair in os.environ.get("FAILURES", "").split(",") if pair)
    write_text(run_dir / "threads", str(torch.get_num_threads()))
    if str(settings.seed) in failures:
        train_run.Trainer.fit = globals()[failures[str(settings.seed)]]
    train_run.train_run(settings, run_dir, **options)

def fail(trainer):
    raise RuntimeError("a failure")

def kill(trainer):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    import failing_train  # other processes cannot import a function of __main__
    run_hydra_command("train", failing_train.task)
"""

LAUNCHERS = "local, submitit_local, submitit_slurm"

# A fake Slurm: sbatch saves the script and starts each job of the array on this machine.
SLURM = {
    "sbatch": r"""
        cp "$1" "$FAKE_SLURM/script"
        last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
        export SLURM_CPUS_PER_TASK=$(sed -n 's/^#SBATCH --cpus-per-task=//p' "$1")
        for task in $(seq 0 "$last"); do
            SLURM_JOB_ID=$((77 + task)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task \
                bash "$FAKE_SLURM/script" > "$FAKE_SLURM/$task.log" 2>&1 &
        done
        echo "Submitted batch job 77"
    """,
    "srun": r"""
        while [[ $1 == --* ]]; do [[ $1 == --output ]] && shift; shift; done
        exec "$@"
    """,
    "sacct": "printf 'JobID|State|NodeList\n77_0|RUNNING|node\n77_1|RUNNING|node\n'",
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Run a sweep of ``failing_train``; return the result of :func:`subprocess.run`."""
    folder = tmp_path_factory.mktemp("failing_train")
    (folder / "failing_train.py").write_text(FAILING_TRAIN)

    def run(
        *arguments: str, limit_threads: bool = True, **variables: str
    ) -> subprocess.CompletedProcess:
        environment = {
            name: value
            for name, value in {**os.environ, **variables}.items()
            if not name.endswith("_NUM_THREADS")
        }
        if limit_threads:
            environment["OMP_NUM_THREADS"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
        )
        return subprocess.run(
            [sys.executable, "-m", "failing_train", "-m", *TINY, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def summary_rows(directory: Path) -> list[dict[str, str]]:
    with (directory / SUMMARY_CSV).open() as file:
        return list(csv.DictReader(file))


def thread_counts(directory: Path) -> set[int]:
    return {int(file.read_text()) for file in directory.glob("*/threads")}


@pytest.fixture(scope="module")
def parallel(train, tmp_path_factory):
    """A sweep of three runs side by side: the first raises, the second is killed."""
    sweep_dir = tmp_path_factory.mktemp("parallel")
    overrides = ["seed=0,1,2", "hydra.launcher.jobs=3", f"hydra.sweep.dir={sweep_dir}"]
    result = train(*overrides, limit_threads=False, FAILURES="0:fail,1:kill")
    return sweep_dir, overrides, result


def test_other_runs_finish_if_some_fail(parallel):
    sweep_dir, _, result = parallel
    assert result.returncode == 1
    assert "2 runs are not complete" in result.stderr and "Traceback" not in result.stderr
    raised, killed, finished = summary_rows(sweep_dir)
    assert (raised["status"], raised["reason"]) == ("failed", "RuntimeError: a failure")
    assert (killed["status"], killed["reason"].split(" (")[0]) == ("failed", "killed by SIGKILL")
    assert (finished["status"], finished["seed"]) == ("finished", "2")
    assert "Not complete:\n\n- " in (sweep_dir / SUMMARY_MD).read_text()


def test_jobs_share_the_cores_as_threads(parallel):
    sweep_dir, _, _ = parallel
    assert len(list(sweep_dir.glob("*/threads"))) == 3
    assert thread_counts(sweep_dir) == {max(1, available_cores() // 3)}


def test_the_same_command_runs_only_the_missing_jobs(parallel, train):
    sweep_dir, overrides, _ = parallel
    (finished,) = (run.path for run in find_runs(sweep_dir) if run.complete)
    before = (finished / METRICS).stat().st_mtime_ns
    result = train(*overrides)
    assert (result.returncode, result.stderr) == (0, "")
    assert "run 3 of 3 is already complete" in result.stdout
    assert (finished / METRICS).stat().st_mtime_ns == before
    assert [row["status"] for row in summary_rows(sweep_dir)] == ["finished"] * 3
    assert str(sweep_dir) in result.stdout and "95% interval" in result.stdout
    for name in (SUMMARY_MD, VALIDATION_CURVES):
        assert (sweep_dir / name).stat().st_size > 0


def test_submitit_on_this_machine(train, tmp_path):
    sweep_dir = tmp_path / "sweep"
    overrides = ["seed=0,1", "hydra/launcher=submitit_local", f"hydra.sweep.dir={sweep_dir}"]
    result = train(*overrides, limit_threads=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["status"] for row in summary_rows(sweep_dir)] == ["finished"] * 2
    assert thread_counts(sweep_dir) == {max(1, available_cores() // 2)}
    (first_output, _) = sweep_dir.glob(".submitit/*/*_log.out")
    assert "test accuracy" in first_output.read_text()


def test_a_preempted_job_is_requeued_and_resumed(train, tmp_path):
    """As under Slurm, SIGUSR2 makes submitit stop the job and start it again."""
    sweep_dir, undisturbed_dir = tmp_path / "sweep", tmp_path / "undisturbed"
    overrides = ["seed=0", "epochs=100", "batch_size=8"]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            train, *overrides, "hydra/launcher=submitit_local", f"hydra.sweep.dir={sweep_dir}"
        )
        while not future.done() and not list(sweep_dir.glob(f"*/{HISTORY}")):
            time.sleep(0.02)
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if re.search(f"submitit.core._submit.*{sweep_dir}", file.read_text()):
                    os.kill(int(file.parent.name), signal.SIGUSR2)
        result = future.result()
    assert (result.returncode, result.stderr) == (0, "")
    (run,) = find_runs(sweep_dir)
    log = (run.path / LOG).read_text()
    assert "stopped by SIGTERM" in log and re.search(r"resuming after epoch \d+ of 100", log)
    assert train(*overrides, f"hydra.sweep.dir={undisturbed_dir}").returncode == 0
    (undisturbed,) = find_runs(undisturbed_dir)
    for name in (BEST, LAST, PREDICTIONS, CONFIG):
        assert (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


def test_slurm(train, tmp_path):
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, lines in SLURM.items():
        (fake / name).write_text(f"#!/usr/bin/env bash\n{lines}")
        (fake / name).chmod(stat.S_IRWXU)
    sweep_dir = tmp_path / "sweep"
    path = os.pathsep.join([str(fake), os.environ["PATH"]])
    launcher_settings = ["partition=gpus", "cpus_per_task=1", "mem_gb=8", "timeout_min=30"]
    result = train(
        "seed=0,1",
        "hydra/launcher=submitit_slurm",
        f"hydra.sweep.dir={sweep_dir}",
        *(f"hydra.launcher.{setting}" for setting in launcher_settings),
        limit_threads=False,
        PATH=path,
        FAKE_SLURM=str(fake),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["status"] for row in summary_rows(sweep_dir)] == ["finished"] * 2
    assert thread_counts(sweep_dir) == {1}  # cpus_per_task

    script = (fake / "script").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))
    expected = {
        "partition": "gpus",
        "gpus-per-node": "1",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "1",
        "mem": "8GB",
        "time": "30",
        "array": "0-1%2",
        "job-name": "train",
        "signal": "USR2@120",
    }
    assert expected.items() <= options.items()
    assert not {"gres", "account", "qos", "constraint", "exclude"} & options.keys()
    assert options["output"].startswith(str(sweep_dir / ".submitit"))
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in script.splitlines()
    (srun_line,) = (line for line in script.splitlines() if line.startswith("srun"))
    assert f"{sys.executable} -u -m submitit.core._submit {sweep_dir}/.submitit/%j" in srun_line


def trials(study: Path) -> list[tuple[str, float | None]]:
    """Return the state and value of each trial in a study's database, in order of their numbers."""
    query = (
        "SELECT state, value FROM trials LEFT JOIN trial_values USING (trial_id) ORDER BY number"
    )
    with contextlib.closing(sqlite3.connect(study)) as database:
        return database.execute(query).fetchall()


def test_a_failed_run_is_a_failed_trial_and_a_study_can_be_resumed(train, tmp_path):
    sweep_dir = tmp_path / "study"
    overrides = [
        "hydra/sweeper=optuna",
        f"hydra.sweep.dir={sweep_dir}",
        "hydra.sweeper.n_trials=2",
        "optimizer=sgd",
        "optimizer.lr=choice(0.05,1e6)",
        "hydra.sweeper.sampler.seed=3",  # draws the learning rate that fails, then the other
    ]
    first = train(*overrides)
    assert first.returncode == 1
    assert "the loss became" in first.stderr and "Traceback" not in first.stderr
    by_status = {row["status"]: row for row in summary_rows(sweep_dir)}
    assert by_status.keys() == {"finished", "failed"} and len(summary_rows(sweep_dir)) == 2
    best = float(by_status["finished"]["validation_error"])
    assert trials(sweep_dir / "study.db") == [("FAIL", None), ("COMPLETE", best)]
    results = OmegaConf.load(sweep_dir / "optimization_results.yaml")
    assert results.best_value == best and results.best_params["optimizer.lr"] == 0.05
    assert 0 <= results.best_params["model.dropout"] <= 0.7
    assert results.best_params["batch_size"] in (32, 64, 128, 256)
    assert (sweep_dir / VALIDATION_CURVES).exists()

    # The same draws again: the failed run fails again, the other one is already complete.
    second = train(*overrides)
    assert "Using an existing study" in second.stderr
    assert second.stdout.count("is already complete") == 1
    assert trials(sweep_dir / "study.db") == 2 * [("FAIL", None), ("COMPLETE", best)]
    assert OmegaConf.load(sweep_dir / "optimization_results.yaml") == results
    assert len(summary_rows(sweep_dir)) == 2


PLUGIN_CONFIGS = sorted(CONF.glob("hydra/launcher/*.yaml")) + sorted(
    CONF.glob("hydra/sweeper/*.yaml")
)


@pytest.mark.parametrize("file", PLUGIN_CONFIGS, ids=[file.stem for file in PLUGIN_CONFIGS])
def test_our_files_replace_the_plugins_own_configurations(file):
    group, option = file.parent.name, file.stem
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose("train", [f"hydra/{group}={option}"], return_hydra_config=True)
    expected = OmegaConf.to_container(OmegaConf.load(file))
    actual = OmegaConf.to_container(composed.hydra[group])
    for key in ("defaults", "sampler"):  # the sampler has its own file
        expected.pop(key, None)
        actual.pop(key, None)
    assert actual == expected


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("hydra/launcher=locl", ["hydra/launcher=locl", "did you mean local?", LAUNCHERS]),
        ("hydra/launcher=null", ["hydra/launcher=null", LAUNCHERS]),
        ("hydra/sweeper=optun", ["did you mean optuna?", "grid, optuna"]),
        ("hydra.launcher.n_job=2", ["no setting hydra.launcher.n_job"]),
        ("hydra.launcher.jobs=two", ["jobs=two", "auto or a whole number from 1"]),
    ],
)
def test_unknown_launchers_and_their_settings_are_refused(command, tmp_path, override, parts):
    code, out, err = command(mnistcnn.train.main, "-m", "seed=0,1", *override.split())
    assert code == 2 and out == "" and len(err.splitlines()) <= 2
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_plugins(tmp_path) -> str:
    """Return a value of PYTHONPATH that hides the plugins of others, as if none were installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, hydra_plugins\n"
        "hydra_plugins.__path__ = [path for path in hydra_plugins.__path__\n"
        "    if os.path.isdir(os.path.join(path, 'mnistcnn_plugins'))]\n"
    )
    return os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("override", "extra"),
    [
        ("hydra/launcher=submitit_slurm", "launchers"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_missing_plugin_is_named_with_its_extra(
    train, without_plugins, tmp_path, override, extra
):
    sweep_dir = tmp_path / "sweep"
    result = train(override, "seed=0,1", f"hydra.sweep.dir={sweep_dir}", PYTHONPATH=without_plugins)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mnistcnn: {override} ")
    assert f'pip install "mnistcnn[{extra}]"' in line
    assert not sweep_dir.exists()
