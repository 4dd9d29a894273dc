"""The summary of a directory of runs: CSV, Markdown and pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.config.load import FORMAT
from mnistcnn.evaluation import figures
from mnistcnn.experiments import documents
from mnistcnn.experiments.curves import errors_by_epoch
from mnistcnn.experiments.groups import group_runs
from mnistcnn.experiments.summary import (
    ERROR_BY_SAMPLES,
    SUMMARY_CSV,
    SUMMARY_MD,
    errors_by_samples,
    summarise,
)
from mnistcnn.runs.directory import CONFIG, HISTORY, METRICS, SUMMARY_HTML, VALIDATION_CURVES
from mnistcnn.runs.store import find_runs

from .synthetic_runs import make_run, make_runs, write_summary

PNG = b"\x89PNG"


def csv_rows(path: Path) -> list[list[str]]:
    with (path / SUMMARY_CSV).open(newline="") as file:
        return list(csv.reader(file))


def table_cells(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without the rule below the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


# Tables ------------------------------------------------------------------------------------------


def test_summary_csv_has_a_row_per_run(tmp_path):
    make_run(tmp_path / "x" / "b", "seed=1", "aug=full", accuracy=0.8, seconds=12.5)
    make_run(tmp_path / "a", "seed=10", accuracy=0.75, status="early_stopped")
    error = "NonFiniteLoss: the loss\n  became nan"
    make_run(tmp_path / "c", "seed=2", status="failed", error=error)
    write_summary(tmp_path)
    header, *rows = csv_rows(tmp_path)
    assert header == [
        "aug", "seed", "status", "reason", "train_accuracy", "train_error", "validation_accuracy",
        "validation_error", "test_accuracy", "test_error", "epochs", "seconds", "directory",
    ]  # fmt: skip
    assert rows == [
        ["full", "1", "finished", "", "0.82", "0.18", "0.81", "0.19", "0.8", "0.2", "2", "12.5",
         "x/b"],
        ["none", "2", "failed", "NonFiniteLoss: the loss became nan", *[""] * 7, "10.0", "c"],
        ["none", "10", "early_stopped", "", "0.77", "0.23", "0.76", "0.24", "0.75", "0.25", "2",
         "10.0", "a"],
    ]  # fmt: skip


def test_summary_md_has_mean_deviation_and_interval_over_seeds(tmp_path):
    for seed, accuracy in ((0, 0.90), (1, 0.92), (2, 0.94)):
        make_run(tmp_path / f"none-{seed}", f"seed={seed}", accuracy=accuracy, seconds=10 + seed)
    for seed, accuracy in ((5, 0.90), (3, 0.88)):
        make_run(tmp_path / f"full-{seed}", f"seed={seed}", "aug=full", accuracy=accuracy)
    make_run(tmp_path / "prose", "aug=prose", accuracy=0.975)
    text = write_summary(tmp_path)
    header, *rows = table_cells(text)
    assert header == [
        "aug", "n", "training", "validation", "test", "test error", "epochs", "seconds",
    ]  # fmt: skip
    # Errors 0.10, 0.08 and 0.06: standard deviation 0.02, t(0.975, 2) = 4.3027, and
    # 4.3027 * 0.02 / sqrt(3) = 0.0497. Two seeds have no interval.
    assert rows == [
        ["none", "3", "94.00 ± 2.00", "93.00 ± 2.00", "92.00 ± 2.00",
         "8.00 ± 2.00 (3.03 to 12.97)", "2", "11.0"],
        ["full", "2", "91.00 ± 1.41", "90.00 ± 1.41", "89.00 ± 1.41", "11.00 ± 1.41", "2", "10.0"],
        ["prose", "1", "99.50", "98.50", "97.50", "2.50", "2", "10.0"],
    ]  # fmt: skip
    assert "There is no interval for fewer than three seeds." in text
    content = (tmp_path / SUMMARY_MD).read_text()
    assert content == f"{text}\n\n![validation_curves.png](validation_curves.png)\n"
    assert (tmp_path / VALIDATION_CURVES).read_bytes().startswith(PNG)


def test_incomplete_runs_are_listed_with_their_reason_in_one_line(tmp_path):
    make_run(tmp_path / "a", "seed=0")
    error = "OSError: no\nspace  left"
    make_run(tmp_path / "b", "seed=1", "aug=full", status="failed", error=error)
    make_run(tmp_path / "c", "seed=2", status="interrupted")
    (tmp_path / "d").mkdir()
    content = {"format": FORMAT, "status": "failed", "error": "no such file"}
    (tmp_path / "d" / METRICS).write_text(json.dumps(content))
    lines = write_summary(tmp_path).splitlines()
    assert lines[-5:] == [
        "Not complete:",
        "",
        "- aug=none seed=2: interrupted",
        "- aug=full seed=1: failed, OSError: no space left",
        "- d: failed, no such file",
    ]


def test_a_summary_of_failed_runs_has_no_table_and_no_figure(tmp_path):
    for fraction in ("0.5", "1"):
        overrides = [f"data.fraction={fraction}"]
        make_run(tmp_path / fraction, *overrides, status="failed", error="E: no")
    assert write_summary(tmp_path) == (
        "Not complete:\n\n- data.fraction=0.5: failed, E: no\n- data.fraction=1: failed, E: no"
    )
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {SUMMARY_CSV, SUMMARY_MD, SUMMARY_HTML}


def test_a_summary_of_one_run_is_written_to_its_directory(tmp_path):
    make_run(tmp_path / "run")
    header, row = table_cells(write_summary(tmp_path / "run"))
    assert header[0] == "n" and row[:2] == ["1", "92.00"]
    assert csv_rows(tmp_path / "run")[1][-1] == "."


# Pictures ----------------------------------------------------------------------------------------


def test_the_error_by_samples_is_drawn_if_the_fraction_varies(tmp_path):
    for seed in (0, 1, 2):
        for fraction in (1, 0.25):
            accuracy = 0.8 + 0.1 * fraction + 0.02 * seed
            overrides = [f"seed={seed}", f"data.fraction={fraction}"]
            make_run(tmp_path / f"{fraction}-{seed}", *overrides, accuracy=accuracy)
    make_run(tmp_path / "full", "aug=full", "data.fraction=0.5", accuracy=0.7)
    write_summary(tmp_path)
    assert (tmp_path / ERROR_BY_SAMPLES).read_bytes().startswith(PNG)
    content = (tmp_path / SUMMARY_MD).read_text()
    assert "![error_by_samples.png](error_by_samples.png)" in content
    series = errors_by_samples(group_runs(find_runs(tmp_path)), ["aug.name"])
    assert series.keys() == {"aug=none", "aug=full"}
    half = 4.3027 * 0.02 / 3**0.5  # half the interval of three seeds that differ by 0.02
    assert series["aug=none"] == pytest.approx(
        np.array([
            [12_500, 0.135, 0.135 - half, 0.135 + half, 0.155, 0.155 - half, 0.155 + half],
            [50_000, 0.06, 0.06 - half, 0.06 + half, 0.08, 0.08 - half, 0.08 + half],
        ]),
        abs=1e-5,
    )  # fmt: skip
    # a single seed has no interval
    assert series["aug=full"] == pytest.approx(np.array([[25_000, *[0.28] * 3, *[0.3] * 3]]))


def test_the_error_by_samples_is_not_drawn_if_the_fraction_does_not_vary(tmp_path):
    make_runs(tmp_path, "seed=0", "seed=1", "aug=full")
    write_summary(tmp_path)
    assert not (tmp_path / ERROR_BY_SAMPLES).exists()
    assert (tmp_path / VALIDATION_CURVES).exists()


def test_curves_are_validation_errors_of_each_run(tmp_path):
    make_run(tmp_path / "a", "seed=0", accuracy=0.9)
    make_run(tmp_path / "b", "seed=1", accuracy=0.8)
    (group,) = group_runs(find_runs(tmp_path))
    assert np.array(errors_by_epoch(group)) == pytest.approx(np.array([[0.29, 0.09], [0.39, 0.19]]))


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """Return the names and the note of the last picture of curves."""
    last = {}

    def overlaid_curves(path, errors, note=""):
        last.update(names=list(errors), note=note)

    monkeypatch.setattr(figures, "overlaid_curves", overlaid_curves)
    return last


def test_the_best_of_many_curves_and_the_first_are_drawn(tmp_path, drawn):
    # the last typed is the best, the first the worst
    for number, size in enumerate(range(10, 24)):
        make_run(tmp_path / f"{size}", f"batch_size={size}", accuracy=0.8 + number / 100)
    write_summary(tmp_path)
    assert drawn["names"] == [f"batch_size={size}" for size in (10, *range(13, 24))]
    note = (
        "The first group and the 11 of 13 others with the lowest validation error; 2 are not shown"
    )
    assert " ".join(drawn["note"].split()) == note


@pytest.mark.parametrize(
    "content", ["3\n", '{"val_accuracy": null}\n', '{"val_accuracy": NaN}\n', "{\n"]
)
def test_a_group_without_a_readable_history_has_no_curve(tmp_path, drawn, content):
    runs = make_runs(tmp_path, "aug=none", "aug=full")
    (runs[1].path / HISTORY).write_text(content)
    write_summary(tmp_path)
    assert drawn["names"] == ["aug=none"]
    line = f"Not in validation_curves.png: aug=full. No readable history.jsonl in {runs[1].path}."
    assert line in (tmp_path / SUMMARY_MD).read_text().splitlines()


def test_runs_without_any_history_have_no_curves(tmp_path):
    for run in make_runs(tmp_path, "aug=none", "aug=full"):  # as of evaluations
        (run.path / HISTORY).unlink()
    text = write_summary(tmp_path)
    assert (tmp_path / SUMMARY_MD).read_text() == text + "\n"
    assert not (tmp_path / VALIDATION_CURVES).exists()


def test_the_tables_are_written_before_the_pictures(tmp_path, monkeypatch):
    def fail(*_):
        assert len(csv_rows(tmp_path)) == 3
        assert (tmp_path / SUMMARY_MD).read_text() == summarise(tmp_path).text + "\n"
        raise OSError("no font")

    lines = []
    monkeypatch.setattr(documents.log, "warning", lambda form, *values: lines.append(form % values))
    make_runs(tmp_path, "data.fraction=1", "data.fraction=0.5")
    monkeypatch.setattr(figures, "overlaid_curves", fail)
    text = write_summary(tmp_path)
    line = "validation_curves.png was not written: OSError: no font"
    assert lines == [line]
    assert (tmp_path / SUMMARY_MD).read_text() == (
        f"{text}\n\n{line}\n\n![error_by_samples.png](error_by_samples.png)\n"
    )
    assert (tmp_path / ERROR_BY_SAMPLES).read_bytes().startswith(PNG)


# Files that cannot be read -----------------------------------------------------------------------

FINISHED = "finished, missing or invalid: "
NO_FORMAT = "config.yaml has no format number"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"test": 5}, f"{FINISHED}test"),
        ({"train": None}, f"{FINISHED}train"),
        ({"validation": {"accuracy": "high", "error": 0.1}}, f"{FINISHED}validation"),
        ({"test": {"accuracy": float("nan"), "error": 0.1}}, f"{FINISHED}test"),
        ({"test": {"accuracy": 10**400, "error": 0.1}}, f"{FINISHED}test"),
        ({"test": {"accuracy": True, "error": 0.1}}, f"{FINISHED}test"),
        ({"data": []}, f"{FINISHED}data"),
        ({"data": {"train": None}}, f"{FINISHED}data"),
        ({"precision": "auto"}, f"{FINISHED}precision"),
        ({"precision": ["float32"]}, f"{FINISHED}precision"),
        ({"config_sha256": [1]}, f"{FINISHED}config_sha256"),
        ({"status": 7}, "failed, metrics.json has no valid status"),
        ({"status": None}, "failed, metrics.json has no valid status"),
        ({"status": ["finished"]}, "failed, metrics.json has no valid status"),
        ({"status": "failed", "error": {"a": 1}, "test": 5}, "failed, {'a': 1}"),
        ({"seconds": 5}, None),
        ({"seconds": {"total": None}, "epochs": [1], "started_at": 7}, None),
        ("seed: 1\n", NO_FORMAT),
        (f"format: {FORMAT}\n1: 2\n", "config.yaml cannot be read: "),
        (f"format: {FORMAT}\nseed: [1]\n", "config.yaml is not a valid configuration"),
        (f"format: {FORMAT}\nseed: null\n", "config.yaml is not a valid configuration"),
    ],
)
def test_a_strange_file_is_a_line_about_one_run(tmp_path, changes, outcome):
    make_run(tmp_path / "a", "seed=1")
    run = make_run(tmp_path / "b", "seed=2", "aug=full")
    make_run(tmp_path / "c", "seed=3")
    if isinstance(changes, str):
        (run.path / CONFIG).write_text(changes)
    else:
        (run.path / METRICS).write_text(json.dumps(run.metrics | changes))
    text = write_summary(tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == (outcome is not None)
    assert all(
        outcome in line and line.startswith(("- aug=full seed=2: ", "- b: ")) for line in lines
    )
    rows = table_cells(text)[1:]
    assert rows[0][-7:-4] == ["2", "92.00 ± 0.00", "91.00 ± 0.00"]
    assert len(rows) == 1 + (outcome is None) and len(csv_rows(tmp_path)) == 4
    assert (tmp_path / VALIDATION_CURVES).read_bytes().startswith(PNG)


# The next step -----------------------------------------------------------------------------------


def test_the_best_group_is_named_with_rounded_values(tmp_path):
    for lr, accuracy in (("0.0967206464254", 0.98), ("0.967206464254", 0.97)):
        make_run(tmp_path / lr, f"optimizer.lr={lr}", "seed=3", accuracy=accuracy)
    summary = summarise(tmp_path)
    assert summary.best("Best trial") == "Best trial: optimizer.lr=0.0967, 1.00% (n=1)"
    assert "| 0.0967206464254 |" in summary.text


def test_a_single_group_has_no_best(tmp_path):
    make_runs(tmp_path, "seed=1", "seed=2")
    assert summarise(tmp_path).best("Lowest validation error") == ""
