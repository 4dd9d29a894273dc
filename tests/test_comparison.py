"""Comparisons of runs: the tests that are chosen, and the wording of their results."""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from mnistcnn import compare
from mnistcnn.config.load import FORMAT, to_yaml
from mnistcnn.data.images import Dataset, Images
from mnistcnn.evaluation import figures, mosaic
from mnistcnn.experiments import comparison, disagreements, verdicts
from mnistcnn.experiments.documents import plain_text
from mnistcnn.experiments.predictions import most_different
from mnistcnn.experiments.sweep_file import record_sweep
from mnistcnn.runs import directory
from mnistcnn.runs.history import append_history
from mnistcnn.runs.identity import config_sha256
from mnistcnn.system.errors import UsageError, WriteError
from mnistcnn.training.train_run import train_run

from .conftest import TINY, settings

LABELS = np.arange(100) % 10


def make_run(path, wrong, *overrides: str, labels=LABELS, name="mnist5k", status="finished"):
    """Write the files of a run that a comparison reads; the images ``wrong`` are misclassified."""
    path.mkdir(parents=True)
    config = settings("data=mnist5k", *overrides)
    (path / directory.CONFIG).write_text(to_yaml(config))
    predicted = labels.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % 10
    probabilities = np.full((len(labels), 10), 0.01, dtype=np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.91
    content = io.BytesIO()
    np.savez(content, labels=labels, predictions=predicted, probabilities=probabilities)
    (path / directory.PREDICTIONS).write_bytes(content.getvalue())
    error = len(set(wrong)) / len(labels)
    score = {"accuracy": 1 - error, "error": error, "loss": error}
    metrics = {"format": FORMAT, "status": status, "config_sha256": config_sha256(config)}
    metrics |= {"data": {"name": name, "train": 50}}
    metrics |= {"seconds": {"total": 1.0}, "precision": "float32"}
    metrics |= {"train": score, "validation": score, "test": score}
    (path / directory.METRICS).write_text(json.dumps(metrics))
    append_history(path, {"epoch": 1, "val_accuracy": 1 - error})
    return path


def compare_text(tmp_path, *paths, baseline=None) -> str:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    comparison.compare_paths(paths, tmp_path / "out", baseline, None).write()
    return (tmp_path / "out" / comparison.COMPARISON).read_text()


def test_an_earlier_comparison_is_not_overwritten(tmp_path):
    paths = [make_run(tmp_path / "a", [1]), make_run(tmp_path / "b", [2], "aug=full")]
    text = compare_text(tmp_path, *paths)
    with pytest.raises(UsageError, match=r"already holds comparison\.md: choose another"):
        comparison.compare_paths(paths, tmp_path / "out", None, None)
    assert (tmp_path / "out" / comparison.COMPARISON).read_text() == text


def test_two_runs_are_compared_by_mcnemars_test(tmp_path):
    a = make_run(tmp_path / "a", range(12))  # 12 wrong
    b = make_run(tmp_path / "b", [0, 1, 50], "aug=full")  # two of which are wrong in a too
    text = compare_text(tmp_path, a, b)
    assert "**aug=full** against **aug=none**: test error -9.000 points" in text
    # 10 images are correct only in b, 1 only in a
    assert (
        "on 100 test images: 1 correct only with aug=none, 10 correct only with aug=full)" in text
    )
    assert f"p = {binomtest(1, 11).pvalue:.3g} " in text
    assert "These two networks differ." in text and "other seeds" in text


def test_two_runs_with_different_seeds_are_compared(tmp_path):
    a = make_run(tmp_path / "a", range(6), "seed=1")
    b = make_run(tmp_path / "b", range(7), "seed=2")
    text = compare_text(tmp_path, a, b)
    assert "**seed=2** against **seed=1**" in text and "No difference is shown" in text


def test_two_runs_with_equal_settings_are_named_by_their_directories(tmp_path):
    a, b = make_run(tmp_path / "a", range(6)), make_run(tmp_path / "b", range(6))
    text = compare_text(tmp_path, a, b)
    assert "**b** against **a**: test error +0.000 points" in text
    assert "Baseline: a, the first directory; `--baseline` selects another." in text
    assert "p = 1 " in text and "No difference is shown" in text


def make_sweep(tmp_path, wrong: dict[str, Callable[[int], int]], seeds):
    """Make a run per override and seed that misclassifies ``wrong[override](seed)`` images."""
    for override, count in wrong.items():
        for seed in seeds:
            path = tmp_path / "sweep" / f"{override}-{seed}"
            make_run(path, range(count(seed)), override, f"seed={seed}")
    return tmp_path / "sweep"


def test_six_seeds_can_show_a_difference(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(6)), baseline="aug=none")
    # differences -5, -5, -7, -7, -9, -9, all negative: two of the 2^6 patterns are as extreme
    assert "**aug=full** against **aug=none**: test error -7.000 points" in text
    assert "p = 0.0312 (paired over the 6 seeds in common" in text and "It helps." in text
    assert "differ" not in text.split("against")[1].split("![")[0]


def test_a_larger_error_is_reported_as_harm(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(6)), baseline="aug=full")
    assert "**aug=none** against **aug=full**: test error +7.000 points" in text
    assert "It harms." in text


def test_few_seeds_show_no_difference_and_the_number_needed_is_given(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(4)), baseline="aug=none")
    assert "No difference is shown. With 4 seeds p cannot be below 0.125" in text
    assert "about 6 seeds" in text and "helps" not in text


def test_no_difference_is_shown_if_the_interval_contains_zero(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed % 3, "aug=full": lambda seed: 20 + (seed + 1) % 3}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(8)), baseline="aug=none")
    assert "No difference is shown." in text
    assert "helps" not in text and "harms" not in text
    assert verdicts._verdict(-0.01, (-0.02, 0.0), 0.01, is_single=False) == "not shown"
    assert verdicts._verdict(-0.01, (-0.02, -0.001), 0.06, is_single=False) == "not shown"
    assert verdicts._verdict(-0.01, (-0.02, -0.001), 0.05, is_single=False) == "helps"
    assert verdicts._verdict(0.01, (0.001, 0.02), 0.05, is_single=True) == "these two differ"


def test_a_mean_difference_of_zero_asks_for_no_more_seeds(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed % 2, "aug=full": lambda seed: 21 - seed % 2}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(4)), baseline="aug=none")
    assert "No difference is shown." in text and "The mean difference is zero." in text


def test_only_seeds_in_common_are_paired(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path / f"a{seed}", range(10), f"seed={seed}")
    for seed in (1, 2, 3):
        make_run(tmp_path / f"b{seed}", range(12), f"seed={seed}", "aug=full")
    assert "paired over the 2 seeds" in compare_text(tmp_path, tmp_path)


def test_groups_without_a_seed_in_common_are_not_paired(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", range(10), f"seed={seed}")
    for seed in (2, 3):
        make_run(tmp_path / f"b{seed}", range(5), f"seed={seed}", "aug=full")
    text = compare_text(tmp_path, tmp_path)
    assert "no seed in common" in text and "helps" not in text


def test_several_groups_without_a_seed_in_common_give_a_table(tmp_path):
    for index, override in enumerate(("aug=none", "aug=full", "aug=prose")):
        for seed in (2 * index, 2 * index + 1):
            make_run(tmp_path / f"{override}-{seed}", range(10), f"seed={seed}", override)
    rows = [line for line in compare_text(tmp_path, tmp_path).splitlines() if "no seed in" in line]
    assert len(rows) == 2


def test_p_is_adjusted_if_several_groups_are_compared_with_the_baseline(tmp_path):
    wrong = {
        "aug=none": lambda seed: 20 + seed,
        "aug=full": lambda seed: 15 + seed % 2,
        "optimizer=adam": lambda seed: 22 + seed,
    }
    text = compare_text(
        tmp_path, make_sweep(tmp_path, wrong, range(6)), baseline="aug=none optimizer=adadelta"
    )
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert "| -7.000 " in rows["aug=full"] and "0.0625" in rows["aug=full"]  # twice 2 / 2^6
    assert "not shown" in rows["aug=full"] and "not shown" in rows["optimizer=adam"]
    assert "adjusted for 2 comparisons (Holm)" in text


def test_pair_names_distinguish_all_groups(tmp_path):
    make_run(tmp_path / "a", range(9))
    make_run(tmp_path / "b", range(8), "optimizer=adam", "optimizer.lr=0.1")
    make_run(tmp_path / "c", range(7), "optimizer=adam")
    collections, _ = comparison.find_collections([tmp_path])
    _, pairs = comparison.compare_groups(collections, None)
    assert [pair.names[1] for pair in pairs] == [
        "optimizer=adam optimizer.lr=0.1",
        "optimizer=adam optimizer.lr=0.001",
    ]


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"name": "mnist"}, "100 images of mnist5k"),
        ({"labels": LABELS[:50]}, "50 images of mnist5k"),
        ({"labels": LABELS[::-1].copy()}, "different images"),
    ],
    ids=["another dataset", "another number of images", "another order"],
)
def test_different_test_sets_are_refused(tmp_path, second, named):
    a = make_run(tmp_path / "a", [1, 2])
    b = make_run(tmp_path / "b", [1], "aug=full", **second)
    with pytest.raises(UsageError, match="tested on different images") as error:
        compare_text(tmp_path, a, b)
    assert named in str(error.value) and not (tmp_path / "out").exists()


def test_incomplete_runs_are_left_out_and_named(tmp_path):
    make_run(tmp_path / "runs" / "a", [1, 2])
    make_run(tmp_path / "runs" / "b", [1], "aug=full")
    make_run(tmp_path / "runs" / "c", [1], "aug=prose", status="failed")
    text = compare_text(tmp_path, tmp_path / "runs")
    assert f"Left out:\n\n- {tmp_path / 'runs' / 'c'}: failed\n" in text
    assert "aug=prose" not in text


@pytest.mark.parametrize(
    ("runs", "baseline", "message"),
    [
        ([], None, "no run found in"),
        ([()], None, "only one complete run, "),
        ([(), ("seed=1",), ("seed=2",)], None, "differ only in their seeds"),
        (
            [(), ("aug=full",)],
            "full",
            "'full' matches none of the 2 groups: choose one of aug=none, aug=full$",
        ),
        (
            [(), ("aug=full",), ("aug=full", "epochs=3")],
            "aug=full",
            "matches 2 of the 3 groups: choose one of 'aug=full epochs=10', 'aug=full epochs=3'$",
        ),
    ],
)
def test_an_impossible_comparison_is_refused(tmp_path, runs, baseline, message):
    (tmp_path / "runs").mkdir()
    for index, overrides in enumerate(runs):
        make_run(tmp_path / "runs" / str(index), [1], *overrides)
    with pytest.raises(UsageError, match=message):
        compare_text(tmp_path, tmp_path / "runs", baseline=baseline)


@pytest.mark.parametrize(
    "arrays",
    [
        None,
        {"labels": LABELS},
        {"labels": LABELS, "probabilities": np.zeros((99, 10), dtype=np.float32)},
        {"labels": LABELS + 0.5, "probabilities": np.zeros((100, 10), dtype=np.float32)},
        {"labels": LABELS + 5, "probabilities": np.zeros((100, 10), dtype=np.float32)},
        {"labels": LABELS, "probabilities": np.zeros((100, 9), dtype=np.float32)},
        {"labels": LABELS, "probabilities": np.zeros(100, dtype=np.float32)},
        {"labels": np.array([{}] * 100), "probabilities": np.zeros((100, 10), dtype=np.float32)},
    ],
    ids=["truncated", "missing", "shape", "type", "range", "classes", "vector", "objects"],
)
def test_a_run_with_unreadable_predictions_is_left_out(tmp_path, arrays):
    a, b = make_run(tmp_path / "a", [1]), make_run(tmp_path / "b", [2], "aug=full")
    with (b / directory.PREDICTIONS).open("wb") as file:
        file.write(b"PK truncated")
        if arrays is not None:
            file.seek(0)
            np.savez(file, **arrays)
    message = r"b/predictions\.npz cannot be read: .+"
    if not zipfile.is_zipfile(b / directory.PREDICTIONS):
        message = r"b: finished, missing or invalid: predictions\.npz"
    with pytest.raises(UsageError, match=rf"^found only one complete run, .*\n- .*{message}"):
        compare_text(tmp_path, a, b)
    c = make_run(tmp_path / "c", [2, 3], "aug=full")
    text = compare_text(tmp_path, a, b, c)
    assert "**aug=full** against **aug=none**: test error +1.000 points" in text
    (line,) = (line for line in text.splitlines() if line.startswith("- "))
    assert re.match(rf"- {re.escape(str(tmp_path))}/{message}", line)


def test_a_run_with_a_strange_file_is_left_out(tmp_path):
    for name in "abcde":
        make_run(tmp_path / "runs" / name, [1], "aug=full" if name > "a" else "aug=none")
    for name, content in (("b", f'{{"format": {FORMAT}, "status": 7}}'), ("c", "null")):
        (tmp_path / "runs" / name / directory.METRICS).write_text(content)
    (tmp_path / "runs" / "d" / directory.CONFIG).write_text("seed: [")
    text = compare_text(tmp_path, tmp_path / "runs")
    assert "**aug=full** against **aug=none**: test error +0.000 points" in text
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in lines] == [
        f"- {tmp_path / 'runs' / name}" for name in ("b", "c", "d")
    ]
    assert "metrics.json has no valid status" in lines[0] and "not an object" in lines[1]
    assert "config.yaml is not a valid configuration" in lines[2]


def test_the_verdict_is_printed_and_written_before_the_pictures(tmp_path, command, monkeypatch):
    make_run(tmp_path / "a", range(6)), make_run(tmp_path / "b", range(7), "aug=full")
    printed = []

    def fail(path, *_):
        printed.append((path.parent / comparison.COMPARISON).read_text())
        raise WriteError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(figures, "overlaid_curves", fail)
    monkeypatch.setattr(disagreements.DisagreementImages, "draw", lambda _, path: fail(path))
    code, out, err = command(compare.main, "a", "b", "--out", "results")
    assert (code, err) == (0, "")
    verdict, pictures = out.split("Results: results\n")
    assert "aug=full against aug=none: test error +1.000 points" in verdict
    assert "**aug=full** against **aug=none**: test error +1.000 points" in printed[0]
    first, second = pictures.splitlines()
    assert first.startswith("validation_curves.png was not written: ")
    assert second.startswith("disagreements.png was not written: ")


def test_a_verdict_that_cannot_be_written_is_printed(tmp_path, command, monkeypatch):
    make_run(tmp_path / "a", range(6)), make_run(tmp_path / "b", range(7), "aug=full")

    def fail(path, _):
        raise WriteError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(comparison, "write_text", fail)
    code, out, err = command(compare.main, "a", "b", "--out", "results")
    assert code == 1 and err.endswith("comparison.md cannot be written: No space left on device\n")
    assert "aug=full against aug=none: test error +1.000 points" in out


def test_the_terminal_shows_no_markdown_signs(tmp_path, command):
    make_run(tmp_path / "a", range(6)), make_run(tmp_path / "b", range(7), "aug=full")
    _, out, _ = command(compare.main, "a", "b", "--out", "results")
    assert not re.search(r"\*\*|!\[|`|^#", out, re.MULTILINE)
    assert "of the first directory, a; --baseline selects another." in out
    text = (tmp_path / "results" / comparison.COMPARISON).read_text()
    assert "**aug=full**" in text and "![validation_curves.png](validation_curves.png)" in text


def test_plain_text_has_no_markdown_signs():
    text = "# Title\n\n**a b** and `--baseline`, # 2 * 3 ** 2\n\n![x.png](x.png)\n\n![y](y)\n"
    assert plain_text(text) == "Title\n\na b and --baseline, # 2 * 3 ** 2"


def test_a_sweep_that_has_not_ended(tmp_path, command):
    """What can be said so far, and the runs that are still to come."""
    typed = ["aug=none,full,prose", "seed=0,1,2"]
    jobs = [
        ["data=mnist5k", f"aug={aug}", f"seed={seed}"]
        for aug in ("none", "full", "prose")
        for seed in range(3)
    ]
    make_run(tmp_path / "sweep" / "failed", range(9), *jobs[5], status="failed")
    record_sweep(tmp_path / "sweep", typed, ["aug", "seed"], [settings(*job) for job in jobs])
    for number, job in enumerate(jobs[:5]):
        make_run(tmp_path / "sweep" / str(number), range(5 + number), *job)
    code, out, err = command(compare.main, "sweep", "--out", "results")
    assert (code, err) == (0, "")
    assert "aug=full against aug=none: test error +3.000 points" in out  # of the seeds 0 and 1
    left_out = out.partition("Left out:\n\n")[2].splitlines()
    assert left_out[0].startswith("- sweep/failed: failed")
    missing = ", ".join(f"aug=prose seed={seed}" for seed in range(3))
    assert left_out[1] == f"- sweep: not started yet: {missing}"


def test_two_seeds_have_no_interval(tmp_path):
    wrong = {"aug=none": lambda seed: 20 + seed, "aug=full": lambda seed: 15 + seed % 2}
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(2)), baseline="aug=none")
    assert "test error -5.000 points, p = 0.5 (paired over the 2 seeds in common: sign-flip" in text
    assert "There is no interval for fewer than three seeds." in text
    wrong["aug=prose"] = lambda seed: 12
    shutil.rmtree(tmp_path / "sweep")
    text = compare_text(tmp_path, make_sweep(tmp_path, wrong, range(2)), baseline="aug=none")
    assert "There is no interval for fewer than three seeds." in text
    cells = [line.split("|")[5].strip() for line in text.splitlines() if "not shown" in line]
    assert cells == ["", ""]


def test_most_different_images_are_sorted_by_the_difference():
    labels = np.array([0, 1, 2, 3])
    a, b = np.full((4, 10), 0.05), np.full((4, 10), 0.05)
    a[[0, 1, 2, 3], [0, 1, 2, 4]] = 0.55  # the last one is wrong
    b[0, 7], b[1, 1], b[2, 7], b[3, 3] = 0.55, 0.55, 0.9, 0.55  # 0 and 2 are wrong
    a[2, 2] = 0.95
    assert most_different(labels, a, b).tolist() == [2, 0, 3]


def test_compare_command_with_two_trained_runs(command, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        train_run(settings(*TINY, f"seed={seed}", "aug=full"), tmp_path / name)
    code, out, err = command(compare.main, "a", "b", "--out", "results")
    assert code == 0 and err == ""
    assert "seed=1 against seed=0: test error" in out and "McNemar's exact test" in out
    files = {path.name for path in (tmp_path / "results").iterdir()}
    pictures = {"validation_curves.png", "disagreements.png"}
    assert files == {"comparison.md", "comparison.html", *pictures}
    code, out, err = command(compare.main, "a", "nowhere")
    assert code == 2 and err == "mnistcnn: nowhere does not exist\n"


def test_disagreements_have_the_names_of_the_dataset(tmp_path, monkeypatch):
    a, b = make_run(tmp_path / "a", [1]), make_run(tmp_path / "b", [2], "aug=full")
    images = Images(torch.zeros(100, 28, 28, dtype=torch.uint8), torch.from_numpy(LABELS))
    names = tuple(f"class {index}" for index in range(10))
    test_set = Dataset("mnist5k", images, images, names)
    monkeypatch.setattr(disagreements, "load_dataset", lambda _: test_set)
    drawn = []
    monkeypatch.setattr(mosaic, "disagreements", lambda *arguments: drawn.append(arguments))
    compare_text(tmp_path, a, b)
    assert drawn[0][4].tolist() == [1, 2] and drawn[0][-1] == names

    monkeypatch.setattr(
        disagreements, "load_dataset", lambda _: replace(test_set, class_names=names[:9])
    )
    assert "the data is not the data on which the runs were tested" in compare_text(tmp_path, a, b)
    assert len(drawn) == 1


def test_missing_images_omit_only_the_disagreements(tmp_path, monkeypatch):
    a, b = make_run(tmp_path / "a", [1]), make_run(tmp_path / "b", [2], "aug=full")

    attempts = []

    def load_dataset(*_):
        attempts.append(1)
        raise UsageError("data.dir: no such directory")

    monkeypatch.setattr(disagreements, "load_dataset", load_dataset)
    text = compare_text(tmp_path, a, b)
    assert text.endswith("disagreements.png was not written: data.dir: no such directory\n")
    assert "![validation_curves.png]" in text
    assert not (tmp_path / "out" / comparison.DISAGREEMENTS).exists()
    page = (tmp_path / "out" / directory.COMPARISON_HTML).read_text()
    assert "<p>data.dir: no such directory</p>" in page
    assert attempts == [1]
