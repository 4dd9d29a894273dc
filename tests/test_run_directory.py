"""A run's directory: atomic writes, creation, the history, ``metrics.json`` and provenance."""

import errno
import json
import shutil
import subprocess
import sys
import time

import pytest

from mnistcnn.config.load import FORMAT
from mnistcnn.runs import metrics_file, provenance
from mnistcnn.runs.directory import HISTORY, LOG, METRICS, create_run_dir
from mnistcnn.runs.history import append_history, read_history
from mnistcnn.runs.metrics_file import RunRecord, record_run
from mnistcnn.runs.provenance import git_commit, package_versions, peak_memory_bytes
from mnistcnn.system import atomic_files
from mnistcnn.system.atomic_files import write_bytes, write_json, write_text
from mnistcnn.system.errors import UsageError, WriteError

# Atomic writes -----------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_text(path, "one")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", fail)
    with pytest.raises(WriteError, match=f"{path} cannot be written: No space left on device"):
        write_bytes(path, b"two")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_permissions(tmp_path):
    write_text(tmp_path / "file", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


# Directory and history ---------------------------------------------------------------------------


def test_create_run_dir_makes_parents_and_refuses_only_existing_runs(tmp_path):
    path = create_run_dir(tmp_path / "a" / "b", "hydra.run.dir")
    (path / "notes.txt").write_text("mine")
    assert create_run_dir(path, "hydra.run.dir") == path
    (path / HISTORY).write_text("")
    with pytest.raises(UsageError, match="already holds a run"):
        create_run_dir(path, "hydra.run.dir")
    assert (path / "notes.txt").read_text() == "mine"


def test_history_round_trip(tmp_path):
    assert read_history(tmp_path) == []
    rows = [{"epoch": 1, "val_accuracy": 0.1}, {"epoch": 2, "val_accuracy": 0.2}]
    for row in rows:
        append_history(tmp_path, row)
    assert read_history(tmp_path) == rows
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"epoch": 3, "val_acc')  # as left by a process killed while writing
    assert read_history(tmp_path) == rows


def test_nan_is_refused_in_the_history(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_history(tmp_path, {"val_loss": float("nan")})
    assert read_history(tmp_path) == []


# metrics.json ------------------------------------------------------------------------------------


def test_an_exception_is_recorded(tmp_path):
    def fail():
        with record_run(tmp_path, LOG) as record:
            with record.phase("data"):
                record.values["seed"] = 5
            raise ValueError("bad luck")

    with pytest.raises(ValueError, match="bad luck"):
        fail()
    written = json.loads((tmp_path / METRICS).read_text())
    assert (written["status"], written["error"]) == ("failed", "ValueError: bad luck")
    assert written["seed"] == 5 and written["seconds"].keys() == {"data", "total"}


def test_metrics_json_exists_from_the_start_with_the_status_interrupted(tmp_path):
    with record_run(tmp_path, LOG):
        written = json.loads((tmp_path / METRICS).read_text())
    assert (written["format"], written["status"]) == (FORMAT, "interrupted")


def test_failing_to_write_metrics_json_raises_write_error(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    message = r"metrics\.json cannot be written"
    with pytest.raises(WriteError, match=message), record_run(run_dir, LOG):
        shutil.rmtree(run_dir)


def test_a_log_file_that_cannot_be_opened_does_not_fail_the_run(tmp_path):
    (tmp_path / LOG).mkdir()
    with record_run(tmp_path, LOG) as record:
        metrics_file.log.info("a line")
        record.values["status"] = "finished"
    assert json.loads((tmp_path / METRICS).read_text())["status"] == "finished"


def test_seconds_include_active_phases_and_earlier_processes(tmp_path):
    write_json(tmp_path / METRICS, {"seconds": {"fit": 100.0, "total": 300.0}})
    record = RunRecord(tmp_path)
    with record.phase("fit"):
        time.sleep(0.05)
        record.write()
        written = json.loads((tmp_path / METRICS).read_text())["seconds"]
        assert 100.05 < written["fit"] < 110 and 300.05 < written["total"] < 310
    record.write()
    later = json.loads((tmp_path / METRICS).read_text())["seconds"]
    assert written["fit"] < later["fit"] < 110


def test_a_run_resumed_with_different_code_logs_a_warning(tmp_path):
    versions = package_versions() | {"torch": "2.0"}
    write_json(tmp_path / METRICS, {"versions": versions, "git_commit": "abc"})
    for _ in range(2):  # the second time the code is the same as the first time
        with record_run(tmp_path, LOG):
            pass
    log = (tmp_path / LOG).read_text()
    assert log.count("was started with different code: torch 2.0, commit abc") == 1


# Provenance --------------------------------------------------------------------------------------


def test_provenance():
    assert {"python", "torch", "mnistcnn"} <= package_versions().keys()


def test_versions_omit_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ["torch", "no-such-package"])
    assert package_versions().keys() == {"python", "mnistcnn", "torch"}
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
    assert peak_memory_bytes() > 10e6


def test_only_changed_source_files_make_the_commit_dirty(tmp_path, monkeypatch):
    source = tmp_path / "src" / "provenance.py"
    source.parent.mkdir()
    for file in (source, tmp_path / "README.md"):
        file.write_text("first")

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    monkeypatch.setattr(provenance, "__file__", str(source))
    commit = git_commit()
    assert len(commit) == 40
    (tmp_path / "README.md").write_text("second")
    (tmp_path / "src" / "new.txt").write_text("untracked")
    assert git_commit() == commit
    source.write_text("second")
    assert git_commit() == f"{commit}-dirty"
    assert provenance.short_commit(f"{commit}-dirty") == f"{commit[:7]}-dirty"
    assert provenance.short_commit(None) == "unknown"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the parent's memory")
def test_peak_memory_excludes_that_of_the_parent_process():
    allocated = bytearray(300_000_000)
    allocated[::4096] = b"x" * len(allocated[::4096])  # memory is resident once it is written
    code = "from mnistcnn.runs import provenance; print(provenance.peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10e6 < int(child.stdout) < 200e6
