"""Reading and finding runs on disk."""

import csv
import json
import re
import subprocess
import sys

import pytest

from mnistcnn.config.load import FORMAT
from mnistcnn.experiments.groups import group_runs
from mnistcnn.experiments.multirun import Multirun
from mnistcnn.experiments.summary import SUMMARY_CSV
from mnistcnn.runs.directory import CONFIG, METRICS, PREDICTIONS
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import find_runs, read_run
from mnistcnn.system.errors import UsageError
from mnistcnn.system.locks import LOCK_FILE

from .synthetic_runs import make_run, settings, write_summary


def test_a_run_is_found_in_its_own_directory(tmp_path):
    run = make_run(tmp_path / "run", "seed=7")
    (found,) = find_runs(tmp_path / "run")
    assert found.path == run.path and found.seed == 7 and found.complete
    assert [row["epoch"] for row in found.history] == [1, 2]
    assert found.measure("test", "accuracy") == 0.9
    assert found.measure("test", "loss") is None and found.measure("other", "loss") is None


def test_runs_are_found_at_any_depth_and_sorted_by_path(tmp_path):
    for name in ("b/2026-11-24/run", "c", "a/seed-1", "a/seed-0", "b/extra"):
        make_run(tmp_path / name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / CONFIG).write_text("of: another program")
    found = [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert found == ["a/seed-0", "a/seed-1", "b/2026-11-24/run", "b/extra", "c"]


def test_an_empty_directory_has_no_runs(tmp_path):
    assert find_runs(tmp_path) == []
    assert read_run(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "does not exist"), ("file", "is a file, not a directory")]
)
def test_a_path_that_is_not_a_directory_is_refused(tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"/{name} {reason}$"):
        find_runs(tmp_path / name)


def test_of_several_runs_of_a_job_the_complete_one_counts(tmp_path):
    make_run(tmp_path / "a", "seed=1", status="failed")
    make_run(tmp_path / "b", "seed=1", "device=cpu")
    make_run(tmp_path / "c", "seed=1", status="interrupted")
    make_run(tmp_path / "d", "seed=2", status="failed")
    names = {sha256: path.name for sha256, path in Multirun(tmp_path).paths.items()}
    hashes = [config_sha256(settings(f"seed={seed}")) for seed in (1, 2)]
    assert names == dict(zip(hashes, ("b", "d"), strict=True))


@pytest.mark.parametrize("content", [b'{"status": "fini', b"", b"[]", b"\xff"])
def test_a_run_with_unreadable_metrics_is_a_failed_run(tmp_path, content):
    make_run(tmp_path / "a", "seed=1")
    run = make_run(tmp_path / "b", "seed=2")
    (run.path / METRICS).write_bytes(content)
    run = read_run(run.path)
    assert run.status == "failed" and run.reason.startswith("metrics.json cannot be read: ")
    (line,) = [line for line in write_summary(tmp_path).splitlines() if line.startswith("- ")]
    assert line.startswith("- seed=2: failed, metrics.json cannot be read: ")
    with (tmp_path / SUMMARY_CSV).open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished", "failed"]


@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1])
def test_runs_of_other_formats_are_refused_by_their_number(tmp_path, number):
    run = make_run(tmp_path / "run")
    (run.path / METRICS).write_text(json.dumps(run.metrics | {"format": number}))
    with pytest.raises(UsageError) as error:
        read_run(run.path)
    assert str(error.value) == (
        f"{run.path / METRICS} was written by another version of mnistcnn "
        f"(format {number}; this version reads format {FORMAT})"
    )
    make_run(tmp_path / "other", "seed=1")
    other, refused = find_runs(tmp_path)  # one line about one run, and all others are read
    assert other.complete and not refused.complete
    assert refused.outcome == f"failed, {error.value}"


def test_a_truncated_predictions_file_makes_a_run_incomplete(tmp_path):
    run = make_run(tmp_path / "a")
    content = (run.path / PREDICTIONS).read_bytes()
    (run.path / PREDICTIONS).write_bytes(content[:-10])
    assert read_run(run.path).outcome == f"finished, missing or invalid: {PREDICTIONS}"


def test_a_run_whose_lock_is_held_is_still_running(tmp_path):
    run = make_run(tmp_path / "a", status="interrupted")
    assert run.outcome == "interrupted" and not (run.path / LOCK_FILE).exists()
    script = (
        "import sys; from pathlib import Path; from mnistcnn.system.locks import lock_run_dir\n"
        "with lock_run_dir(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        assert read_run(run.path).outcome == "still running"
        process.communicate()
    assert read_run(run.path).outcome == "interrupted"


def test_metrics_without_a_format_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    (run.path / METRICS).write_text("{}")
    with pytest.raises(UsageError, match=r"metrics\.json has no format number"):
        read_run(run.path)


NO_FORMAT = "has no format number: it was written by another program, or by another version of .+"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [", r"is not a valid configuration \(.+\)"),
        ("", NO_FORMAT),
        ("- 1", NO_FORMAT),
        ("text", NO_FORMAT),
        ("\0", r"is not a valid configuration \(.+\)"),
        ("learning_rate: 3", NO_FORMAT),
        (f"format: {FORMAT}\nlearning_rate: 3", r"is not a valid configuration \(.*no seed\)"),
    ],
)
def test_an_unreadable_configuration_is_named_in_one_line(tmp_path, content, reason):
    make_run(tmp_path / "a", "seed=1")
    make_run(tmp_path / "b", "seed=2")
    (tmp_path / "b" / CONFIG).write_text(content)
    assert re.fullmatch(f".*b/config.yaml {reason}", read_run(tmp_path / "b").reason)
    text = write_summary(tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert re.fullmatch(f"- b: finished, .*b/config.yaml {reason}", line)
    assert "| 1   | 92.00" in text  # the other run


@pytest.mark.parametrize("name", [CONFIG, PREDICTIONS])
def test_a_run_without_a_required_file_is_not_complete(tmp_path, name):
    run = make_run(tmp_path / "a")
    make_run(tmp_path / "b", "seed=1")
    (run.path / name).unlink()
    text = write_summary(tmp_path)
    assert "Not complete:\n\n- " in text and f"finished, missing or invalid: {name}" in text
    assert [group.seeds for group in group_runs(find_runs(tmp_path))] == [[1]]
