"""Writing so that nothing is ever half there."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from mnistcnn import files, rundir
from mnistcnn.errors import PlainError, UsageError, WriteError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    rundir.write_text(path, "one")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(WriteError, match=f"{path} cannot be written: No space left on device"):
        files.write_bytes(path, b"two")
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["file"]


def test_written_files_have_the_usual_permissions(tmp_path):
    rundir.write_text(tmp_path / "file", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError):
        rundir.write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_create_makes_parents_and_keeps_what_is_no_run(tmp_path):
    path = rundir.create(tmp_path / "a" / "b", "hydra.run.dir")
    (path / "notes.txt").write_text("mine")
    assert rundir.create(path, "hydra.run.dir") == path
    (path / rundir.HISTORY).write_text("")
    with pytest.raises(UsageError, match="already holds a run"):
        rundir.create(path, "hydra.run.dir")
    assert (path / "notes.txt").read_text() == "mine"


def test_history_is_read_back(tmp_path):
    assert rundir.read_history(tmp_path) == []
    rows = [{"epoch": 1, "val_accuracy": 0.1}, {"epoch": 2, "val_accuracy": 0.2}]
    for row in rows:
        rundir.append_history(tmp_path, row)
    assert rundir.read_history(tmp_path) == rows
    with open(tmp_path / rundir.HISTORY, "a") as file:
        file.write('{"epoch": 3, "val_acc')  # killed in the middle of a line
    assert rundir.read_history(tmp_path) == rows


def test_history_holds_no_nan(tmp_path):
    with pytest.raises(ValueError):
        rundir.append_history(tmp_path, {"val_loss": float("nan")})
    assert rundir.read_history(tmp_path) == []


def test_a_record_says_how_it_ended(tmp_path):
    with pytest.raises(ValueError), rundir.record(tmp_path, rundir.LOG) as record:
        with record.phase("data"):
            record.values["seed"] = 5
        raise ValueError("bad luck")
    written = json.loads((tmp_path / rundir.METRICS).read_text())
    assert (written["status"], written["error"]) == ("failed", "ValueError: bad luck")
    assert written["seed"] == 5 and written["seconds"].keys() == {"data", "total"}


def test_a_record_exists_from_the_start_and_does_not_look_finished(tmp_path):
    with rundir.record(tmp_path, rundir.LOG):
        written = json.loads((tmp_path / rundir.METRICS).read_text())
    assert written["status"] == "interrupted"


def test_a_record_that_cannot_be_written_is_a_plain_error(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(PlainError, match="metrics.json cannot be written"):
        with rundir.record(out, rundir.LOG):
            shutil.rmtree(out)


def test_a_log_that_cannot_be_opened_costs_the_log_alone(tmp_path):
    (tmp_path / rundir.LOG).mkdir()
    with rundir.record(tmp_path, rundir.LOG) as record:
        rundir.log.info("said")
        record.values["status"] = "finished"
    assert json.loads((tmp_path / rundir.METRICS).read_text())["status"] == "finished"


def test_seconds_of_what_is_under_way_and_of_the_processes_before(tmp_path):
    rundir.write_json(tmp_path / rundir.METRICS, {"seconds": {"fit": 100.0, "total": 300.0}})
    record = rundir.Record(tmp_path)
    with record.phase("fit"):
        time.sleep(0.05)
        record.write()
        written = json.loads((tmp_path / rundir.METRICS).read_text())["seconds"]
        assert 100.05 < written["fit"] < 110 and 300.05 < written["total"] < 310
    record.write()
    again = json.loads((tmp_path / rundir.METRICS).read_text())["seconds"]
    assert written["fit"] < again["fit"] < 110


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path):
    versions = rundir.versions() | {"torch": "2.0"}
    rundir.write_json(tmp_path / rundir.METRICS, {"versions": versions, "git_commit": "abc"})
    for _ in range(2):  # the second time it is the code that the run began with
        with rundir.record(tmp_path, rundir.LOG):
            pass
    log = (tmp_path / rundir.LOG).read_text()
    assert log.count("began with other code than it goes on with: torch 2.0, commit abc") == 1


def test_provenance():
    assert {"python", "torch", "mnistcnn"} <= rundir.versions().keys()
    commit = rundir.git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
    assert rundir.peak_memory_bytes() > 10e6


@pytest.mark.skipif(sys.platform != "linux", reason="others do not hand it on")
def test_peak_memory_is_not_that_of_who_started_this_process():
    here = bytearray(300_000_000)
    here[::4096] = b"x" * len(here[::4096])  # it is there once it is written to
    ask = "from mnistcnn import rundir; print(rundir.peak_memory_bytes())"
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert 10e6 < int(asked.stdout) < 200e6
