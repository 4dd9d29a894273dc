"""Multiruns under Hydra's launchers and its sweeper, all as processes of their own."""

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
from mnistcnn import rundir, sweep

from .conftest import CONF, TINY

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and shell scripts")

# mnistcnn.train, but for what happens in the training of the seeds that ACCIDENTS names
# (0:raise,1:kill). Each run leaves the number of its threads beside its other files.
TRAIN = """
import os, signal
from mnistcnn import command_line, training

def run(settings, out, **how):
    import torch
    accidents = dict(pair.split(":") for pair in os.environ.get("ACCIDENTS", "").split(",") if pair)
    training.rundir.write_text(out / "threads", str(torch.get_num_threads()))
    if str(settings.seed) in accidents:
        training.fit = globals()[accidents[str(settings.seed)] + "_"]
    training.run(settings, out, **how)

def raise_(*_):
    raise RuntimeError("an accident")

def kill_(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    command_line.run_app("train", "accidents:run")
"""

LAUNCHERS = "basic, joblib, submitit_local, submitit_slurm"

# Slurm on one machine: sbatch keeps the script it is given and starts each job of the array.
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
    "sacct": "printf 'JobID|State|NodeList\n77_0|RUNNING|here\n77_1|RUNNING|here\n'",
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Run the command above; returns what :func:`subprocess.run` does."""
    home = tmp_path_factory.mktemp("accidents")
    (home / "accidents.py").write_text(TRAIN)

    def run(
        *arguments: str, limit_threads: bool = True, **environment: str
    ) -> subprocess.CompletedProcess:
        environment = {**os.environ, **environment}
        for name in [name for name in environment if name.endswith("_NUM_THREADS")]:
            del environment[name]
        if limit_threads:
            environment["OMP_NUM_THREADS"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(home), *filter(None, [environment.get("PYTHONPATH")])]
        )
        return subprocess.run(
            [sys.executable, "-m", "accidents", "-m", *TINY, *arguments],
            cwd=home, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


def table(directory: Path) -> list[dict[str, str]]:
    with open(directory / sweep.SUMMARY_CSV) as file:
        return list(csv.DictReader(file))


def threads(directory: Path) -> set[int]:
    return {int(file.read_text()) for file in directory.glob("*/threads")}


@pytest.fixture(scope="module")
def joblib(train, tmp_path_factory):
    """A sweep of three runs under joblib, of which one raised and one was killed."""
    out = tmp_path_factory.mktemp("joblib")
    typed = ["seed=0,1,2", "hydra/launcher=joblib", f"hydra.sweep.dir={out}"]
    return out, typed, train(*typed, limit_threads=False, ACCIDENTS="0:raise,1:kill")


def test_runs_that_fail_do_not_take_the_others_along(joblib):
    out, _, done = joblib
    assert done.returncode == 1
    assert "2 runs are not complete" in done.stderr and "Traceback" not in done.stderr
    raised, killed, finished = table(out)
    assert (raised["status"], raised["reason"]) == ("failed", "RuntimeError: an accident")
    assert (killed["status"], killed["reason"].split(" (")[0]) == ("failed", "killed by SIGKILL")
    assert (finished["status"], finished["seed"]) == ("finished", "2")
    assert "2 of 3 runs not complete" in (out / sweep.SUMMARY_MD).read_text()


def test_each_job_of_joblib_has_its_share_of_the_cores(joblib):
    out, _, _ = joblib
    assert len(list(out.glob("*/threads"))) == 3
    assert threads(out) == {1}  # as many jobs as cores


def test_the_same_command_does_what_is_missing(joblib, train):
    out, typed, _ = joblib
    (finished,) = (run.path for run in sweep.find(out) if run.complete)
    before = (finished / rundir.METRICS).stat().st_mtime_ns
    done = train(*typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run 3 of 3 is there already" in done.stdout
    assert (finished / rundir.METRICS).stat().st_mtime_ns == before
    assert [row["status"] for row in table(out)] == ["finished"] * 3
    assert str(out) in done.stdout and "95% interval" in done.stdout
    for name in (sweep.SUMMARY_MD, sweep.CURVES):
        assert (out / name).stat().st_size > 0


def test_submitit_on_this_machine(train, tmp_path):
    out = tmp_path / "sweep"
    typed = ["seed=0,1", "hydra/launcher=submitit_local", f"hydra.sweep.dir={out}"]
    done = train(*typed, limit_threads=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in table(out)] == ["finished"] * 2
    assert threads(out) == {max(1, (os.cpu_count() or 1) // 2)}
    (said, _) = out.glob(".submitit/*/*_log.out")
    assert "test accuracy" in said.read_text()


def test_a_preempted_job_queues_again_and_goes_on(train, tmp_path):
    """As under Slurm, submitit is told by a signal, and starts the job anew when it has ended."""
    out, alone = tmp_path / "sweep", tmp_path / "alone"
    typed = ["seed=0", "epochs=20", "batch_size=32"]
    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(
            train, *typed, "hydra/launcher=submitit_local", f"hydra.sweep.dir={out}"
        )
        while not sweeping.done() and not list(out.glob(f"*/{rundir.HISTORY}")):
            time.sleep(0.02)
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if re.search(f"submitit.core._submit.*{out}", file.read_text()):
                    os.kill(int(file.parent.name), signal.SIGUSR2)
        done = sweeping.result()
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = sweep.find(out)
    log = (run.path / rundir.LOG).read_text()
    assert "stopped by SIGTERM" in log and re.search(r"going on after epoch \d+ of 20", log)
    assert train(*typed, f"hydra.sweep.dir={alone}").returncode == 0
    (undisturbed,) = sweep.find(alone)
    for name in (rundir.BEST, rundir.LAST, rundir.PREDICTIONS, rundir.CONFIG):
        assert (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


def test_slurm(train, tmp_path):
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, lines in SLURM.items():
        (fake / name).write_text(f"#!/usr/bin/env bash\n{lines}")
        (fake / name).chmod(stat.S_IRWXU)
    out = tmp_path / "sweep"
    path = os.pathsep.join([str(fake), os.environ["PATH"]])
    typed = ["partition=gpus", "cpus_per_task=1", "mem_gb=8", "timeout_min=30"]
    done = train(
        "seed=0,1", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={out}",
        *(f"hydra.launcher.{setting}" for setting in typed),
        limit_threads=False, PATH=path, FAKE_SLURM=str(fake),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in table(out)] == ["finished"] * 2
    assert threads(out) == {1}  # cpus_per_task

    script = (fake / "script").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))
    wanted = {
        "partition": "gpus", "gpus-per-node": "1", "nodes": "1", "ntasks-per-node": "1",
        "cpus-per-task": "1", "mem": "8GB", "time": "30", "array": "0-1%2", "job-name": "train",
        "signal": "USR2@120",
    }  # fmt: skip
    assert wanted.items() <= asked.items()
    assert not {"gres", "account", "qos", "constraint", "exclude"} & asked.keys()
    assert asked["output"].startswith(str(out / ".submitit"))
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in script.splitlines()
    (command,) = (line for line in script.splitlines() if line.startswith("srun"))
    assert f"{sys.executable} -u -m submitit.core._submit {out}/.submitit/%j" in command


def trials(study: Path) -> list[tuple[str, float | None]]:
    """State and value of each trial of all studies in a file, in their order."""
    query = (
        "SELECT state, value FROM trials LEFT JOIN trial_values USING (trial_id) ORDER BY number"
    )
    with contextlib.closing(sqlite3.connect(study)) as file:
        return file.execute(query).fetchall()


def test_a_study_goes_on_and_a_run_that_fails_is_a_failed_trial(train, tmp_path):
    out = tmp_path / "study"
    typed = [
        "hydra/sweeper=optuna", f"hydra.sweep.dir={out}", "hydra.sweeper.n_trials=2",
        "optimizer=sgd", "optimizer.lr=choice(0.05,1e6)",
        "hydra.sweeper.sampler.seed=3",  # draws the rate that fails, then the other
    ]  # fmt: skip
    first = train(*typed)
    assert first.returncode == 1
    assert "the loss became" in first.stderr and "Traceback" not in first.stderr
    by_status = {row["status"]: row for row in table(out)}
    assert by_status.keys() == {"finished", "failed"} and len(table(out)) == 2
    best = float(by_status["finished"]["validation_error"])
    assert trials(out / "study.db") == [("FAIL", None), ("COMPLETE", best)]
    results = OmegaConf.load(out / "optimization_results.yaml")
    assert results.best_value == best and results.best_params["optimizer.lr"] == 0.05
    assert 0 <= results.best_params["model.dropout"] <= 0.7
    assert results.best_params["batch_size"] in (32, 64, 128, 256)
    assert (out / sweep.CURVES).exists()

    second = train(*typed)  # the same draws: what failed fails again, the rest was tried before
    assert "Using an existing study" in second.stderr
    assert second.stdout.count("is there already") == 1
    assert trials(out / "study.db") == 2 * [("FAIL", None), ("COMPLETE", best)]
    assert OmegaConf.load(out / "optimization_results.yaml") == results
    assert len(table(out)) == 2


OURS = sorted(CONF.glob("hydra/launcher/*.yaml")) + sorted(CONF.glob("hydra/sweeper/*.yaml"))


@pytest.mark.parametrize("file", OURS, ids=[file.stem for file in OURS])
def test_our_files_stand_for_the_plugins_own(file):
    group, option = file.parent.name, file.stem
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose("train", [f"hydra/{group}={option}"], return_hydra_config=True)
    ours = OmegaConf.to_container(OmegaConf.load(file))
    taken = OmegaConf.to_container(composed.hydra[group])
    for key in ("defaults", "sampler"):  # the sampler has a file of its own
        ours.pop(key, None)
        taken.pop(key, None)
    assert taken == ours


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("hydra/launcher=joblb", ["hydra/launcher=joblb", "did you mean joblib?", LAUNCHERS]),
        ("hydra/launcher=null", ["hydra/launcher=null", LAUNCHERS]),
        ("hydra/sweeper=optun", ["did you mean optuna?", "basic, optuna"]),
        ("hydra.launcher.n_job=2", ["no setting hydra.launcher.n_job"]),
    ],
)
def test_a_launcher_that_is_not_there(command, tmp_path, typed, named):
    code, out, err = command(mnistcnn.train.main, "-m", "seed=0,1", typed)
    assert code == 2 and out == "" and len(err.splitlines()) <= 2
    for part in named:
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_plugins(tmp_path) -> str:
    """A directory for PYTHONPATH that hides all of Hydra's plugins, as if none were installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'hydra_plugins':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    return os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("typed", "extra"),
    [
        ("hydra/launcher=joblib", "launchers"),
        ("hydra/launcher=submitit_slurm", "launchers"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_plugin_that_is_not_installed(train, without_plugins, tmp_path, typed, extra):
    out = tmp_path / "sweep"
    done = train(typed, "seed=0,1", f"hydra.sweep.dir={out}", PYTHONPATH=without_plugins)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mnistcnn: {typed} ") and f'pip install "mnistcnn[{extra}]"' in line
    assert not out.exists()
