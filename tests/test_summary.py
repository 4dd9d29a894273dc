"""The summary of a directory of runs: CSV, Markdown and pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.config.load import FORMAT
from mnistcnn.evaluation import figures
from mnistcnn.experiments.curves import VALIDATION_CURVES
from mnistcnn.experiments.groups import group_runs
from mnistcnn.experiments.summary import (
    ERROR_BY_SAMPLES,
    SUMMARY_CSV,
    SUMMARY_MD,
    errors_by_samples,
    summarise,
)
from mnistcnn.runs.directory import HISTORY, METRICS
from mnistcnn.runs.store import find_runs
from mnistcnn.system.errors import MnistcnnError

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
    # 4.3027 * 0.02 / sqrt(3) = 0.0497. Errors 0.10 and 0.12: 0.01 * sqrt(2), t(0.975, 1) = 12.706,
    # and 12.706 * 0.01 * sqrt(2) / sqrt(2) = 0.1271.
    assert rows == [
        ["full", "2", "91.00 ± 1.41", "90.00 ± 1.41", "89.00 ± 1.41",
         "11.00 ± 1.41 (-1.71 to 23.71)", "2", "10.0"],
        ["none", "3", "94.00 ± 2.00", "93.00 ± 2.00", "92.00 ± 2.00",
         "8.00 ± 2.00 (3.03 to 12.97)", "2", "11.0"],
        ["prose", "1", "99.50", "98.50", "97.50", "2.50", "2", "10.0"],
    ]  # fmt: skip
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
    assert "Not complete: 3 of 4 runs" in lines
    assert lines[-3:] == [
        "- d: failed, no such file",
        "- aug=full seed=1: failed, OSError: no space left",
        "- aug=none seed=2: interrupted",
    ]


def test_a_summary_of_failed_runs_has_no_table_and_no_figure(tmp_path):
    for fraction in ("0.5", "1"):
        overrides = [f"data.fraction={fraction}"]
        make_run(tmp_path / fraction, *overrides, status="failed", error="E: no")
    assert write_summary(tmp_path) == (
        "Not complete: 2 of 2 runs\n\n"
        "- data.fraction=0.5: failed, E: no\n- data.fraction=1: failed, E: no"
    )
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {SUMMARY_CSV, SUMMARY_MD}


def test_a_summary_of_one_run_is_written_to_its_directory(tmp_path):
    make_run(tmp_path / "run")
    header, row = table_cells(write_summary(tmp_path / "run"))
    assert header[0] == "n" and row[:2] == ["1", "92.00"]
    assert csv_rows(tmp_path / "run")[1][-1] == "."


# Pictures ----------------------------------------------------------------------------------------


def test_the_error_by_samples_is_drawn_if_the_fraction_varies(tmp_path):
    for seed in (0, 1):
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
    half = 12.7062 * 0.01  # half the interval of two seeds that differ by 0.02
    assert series["aug=none"] == pytest.approx(
        np.array([
            [12_500, 0.145, 0.145 - half, 0.145 + half, 0.165, 0.165 - half, 0.165 + half],
            [50_000, 0.07, 0.07 - half, 0.07 + half, 0.09, 0.09 - half, 0.09 + half],
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


def test_curves_are_validation_errors_by_label(tmp_path):
    make_run(tmp_path / "a", "seed=0", accuracy=0.9)
    make_run(tmp_path / "b", "seed=1", accuracy=0.8)
    groups = group_runs(find_runs(tmp_path))
    ((name, errors),) = curves_by_label(groups, []).items()
    assert name == "all runs"
    assert np.array(errors) == pytest.approx(np.array([[0.29, 0.09], [0.39, 0.19]]))
    # an evaluation has no history
    (tmp_path / "b" / HISTORY).unlink()
    groups = group_runs(find_runs(tmp_path))
    assert curves_by_label(groups, []) == {}


def test_at_most_twelve_curves_are_drawn(tmp_path):
    runs = [make_run(tmp_path / f"{size:02}", f"batch_size={size}") for size in range(10, 24)]
    curves = curves_by_label(group_runs(runs), ["batch_size"])
    assert list(curves) == [f"batch_size={size}" for size in range(10, 22)]


def test_the_tables_and_other_figures_are_written_if_a_figure_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no font")

    make_runs(tmp_path, "data.fraction=1", "data.fraction=0.5")
    monkeypatch.setattr(figures, "overlaid_curves", fail)
    with pytest.raises(MnistcnnError, match=r"validation_curves.png \(OSError: no font\)"):
        write_summary(tmp_path)
    assert len(csv_rows(tmp_path)) == 3
    assert len(table_cells((tmp_path / SUMMARY_MD).read_text())) == 3
    assert (tmp_path / ERROR_BY_SAMPLES).read_bytes().startswith(PNG)
