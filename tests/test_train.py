"""Whole runs: every model, every preset, every file of the contract."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from mnistcnn import checkpoint, data, engine, evaluation, fit, plots, report, rundir, training
from mnistcnn.config import EvaluateSettings, from_yaml, to_settings
from mnistcnn.errors import PlainError, UsageError

from .conftest import TINY, same_weights, settings

CONTRACT = {
    "config.yaml", "train.log", "history.jsonl", "metrics.json", "predictions.npz", "best.pt",
    "last.pt", "curves.png", "confusion_matrix.png", "confusion_matrix.csv", "misclassified.png",
    "tsne.png", "neighbours.png", "augmented.png", "model_summary.txt",
}  # fmt: skip


def names(path) -> set[str]:
    return {file.name for file in path.iterdir()} - {rundir.LOCK}


def read(path) -> dict:
    return json.loads((path / rundir.METRICS).read_text())


def evaluate_settings(ckpt, *overrides: str) -> EvaluateSettings:
    from hydra import compose, initialize_config_module

    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose("evaluate", [f"ckpt='{ckpt}'", *overrides])
    return to_settings(EvaluateSettings, composed)


def test_a_run_leaves_every_file_of_the_contract(finished_run):
    assert names(finished_run) == CONTRACT
    for picture in finished_run.glob("*.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_metrics(finished_run):
    written = read(finished_run)
    assert written["status"] == "finished"
    assert written["model"] == {"name": "convnet", "parameters": 14_178}
    assert written["data"]["name"] == "mnist5k" and written["data"]["fraction"] == 1.0
    assert [written["data"][part] for part in ("train", "validation", "test")] == [3400, 600, 1000]
    assert written["epochs"] == 4 and 1 <= written["best_epoch"] <= 4
    assert written["seed"] == 0 and written["device"].split(":")[0] in ("cpu", "cuda", "mps")
    assert written["peak_memory_bytes"] > 50e6
    assert {"data", "fit", "test", "tsne.png", "total"} <= written["seconds"].keys()
    assert written["versions"]["torch"] == torch.__version__.split("+")[0]
    for part in ("train", "validation", "test"):
        score = written[part]
        assert score["accuracy"] + score["error"] == pytest.approx(1)
        assert score["accuracy"] > 0.8  # four epochs on 3,400 digits reach 0.88
    low, high = written["test"]["accuracy_ci95"]
    assert low < written["test"]["accuracy"] < high


def test_predictions_carry_the_metrics(finished_run):
    test = read(finished_run)["test"]
    with np.load(finished_run / rundir.PREDICTIONS) as saved:
        labels, predictions, probabilities = (
            saved[name] for name in ("labels", "predictions", "probabilities")
        )
    assert probabilities.shape == (1000, 10) and probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(1000), abs=1e-5)
    assert (predictions == labels).mean() == test["accuracy"]
    assert np.array_equal(probabilities.argmax(axis=1), predictions)
    assert np.bincount(labels).tolist() == [100] * 10
    loss = -np.log(probabilities[np.arange(1000), labels]).mean()
    assert loss == pytest.approx(test["loss"], rel=1e-4)


def test_the_confusion_matrix_is_the_same_in_both_files(finished_run):
    with open(finished_run / rundir.CONFUSION_CSV) as file:
        header, *rows = csv.reader(file)
    assert header == ["true \\ predicted", *map(str, range(10))]
    assert [row[0] for row in rows] == list(map(str, range(10)))
    counts = [list(map(int, row[1:])) for row in rows]
    assert counts == read(finished_run)["test"]["confusion_matrix"]
    assert np.sum(counts) == 1000


def test_the_scores_are_those_of_the_best_epoch(finished_run):
    written = read(finished_run)
    row = rundir.read_history(finished_run)[written["best_epoch"] - 1]
    assert written["validation"]["accuracy"] == row["val_accuracy"]
    assert written["train"]["loss"] == row["train_loss"]


def test_the_log_has_a_line_per_epoch_and_no_bar(finished_run):
    log = (finished_run / rundir.LOG).read_text()
    assert [f"epoch {n}/4" in log for n in (1, 2, 3, 4)] == [True] * 4
    assert "test accuracy" in log


def test_the_configuration_is_whole(finished_run):
    assert from_yaml((finished_run / rundir.CONFIG).read_text()) == settings(
        "data=mnist5k", "epochs=4", "aug=full", "tsne.samples=200"
    )


def test_a_checkpoint_rebuilds_the_network_by_itself(finished_run):
    loaded = checkpoint.load(finished_run / rundir.BEST)
    assert loaded.epoch == read(finished_run)["best_epoch"]
    digits = data.load(settings("data=mnist5k").data, 0)
    said = engine.infer(loaded.network, data.evaluation_batches(digits.test), torch.float32)
    assert said.correct.mean() == read(finished_run)["test"]["accuracy"]
    mean, std = digits.pixel_statistics()
    assert loaded.network.mean.item() == pytest.approx(mean)
    assert loaded.network.std.item() == pytest.approx(std)


@pytest.mark.parametrize("by_directory", [True, False])
def test_evaluate_repeats_the_metrics_to_the_last_digit(finished_run, tmp_path, by_directory):
    ckpt = finished_run if by_directory else finished_run / rundir.BEST
    again = evaluation.run(evaluate_settings(ckpt, "tsne.samples=60", "tsne.of=pixels"), tmp_path)
    written = read(finished_run)
    for key in ("train", "validation", "test", "data", "model", "seed"):
        assert again[key] == written[key] == read(tmp_path)[key]
    assert again["status"] == "finished"
    assert again["precision"] == written["precision"] == "float32"
    assert names(tmp_path) == CONTRACT - {"train.log", "history.jsonl", "best.pt", "last.pt"} | {
        "evaluate.log"
    }
    with np.load(finished_run / rundir.PREDICTIONS) as one, np.load(
        tmp_path / rundir.PREDICTIONS
    ) as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_evaluate_of_a_directory_takes_the_weights_that_the_run_selected(tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.8])
    monkeypatch.setattr(fit, "_evaluate", lambda *_: {
        "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": next(accuracies),
    })  # fmt: skip
    written = training.run(settings(*TINY, "epochs=2", "select=last"), tmp_path / "run")
    again = evaluation.run(evaluate_settings(tmp_path / "run", "tsne.samples=20"), tmp_path / "out")
    assert written["best_epoch"] == 1
    assert again["epoch"] == 2 and again["test"] == written["test"]


def test_evaluate_keeps_the_precision_of_the_training_unless_told(tmp_path):
    written = training.run(settings(*TINY, "precision=bfloat16"), tmp_path / "run")
    again = evaluation.run(evaluate_settings(tmp_path / "run", "tsne.samples=20"), tmp_path / "a")
    assert again["precision"] == "bfloat16" and again["test"] == written["test"]
    exact = evaluation.run(
        evaluate_settings(tmp_path / "run", "tsne.samples=20", "precision=float32"), tmp_path / "b"
    )
    assert exact["precision"] == "float32" and exact["test"]["loss"] != written["test"]["loss"]


@pytest.mark.parametrize("content", ["a: [", "learning_rate: 3", "- 1", ""])
def test_evaluate_refuses_the_directory_of_something_else(tmp_path, content):
    (tmp_path / rundir.CONFIG).write_text(content)
    with pytest.raises(UsageError, match="holds no configuration that this version can read"):
        evaluation.run(evaluate_settings(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_curves_are_drawn_from_the_run_that_wrote_the_checkpoint_only(finished_run, tmp_path):
    shutil.copy(finished_run / rundir.BEST, tmp_path)
    (tmp_path / rundir.HISTORY).write_text((finished_run / rundir.HISTORY).read_text())
    evaluation.run(
        evaluate_settings(tmp_path / rundir.BEST, "tsne.samples=20"), tmp_path / "out"
    )
    assert not (tmp_path / "out" / rundir.CURVES).exists()


# Test accuracy after one epoch, below what was measured by a margin for other machines.
LEAST = {
    "convnet": 0.8, "custom": 0.35, "vgg16": 0.2, "resnet50": 0.7, "fcnet": 0.8,
    "none": 0.75, "full": 0.7, "prose": 0.4, "rotate45_flip": 0.4,
}  # fmt: skip
LARGE = {
    "custom": ["model.width=0.1"],
    "vgg16": ["model.width=0.25"],
    "resnet50": ["model.layers=[1,1,1,1]", "model.width=0.25"],
}


@pytest.mark.parametrize("model", ["convnet", "custom", "vgg16", "resnet50", "fcnet"])
def test_every_model_trains_for_an_epoch(model, tmp_path):
    fraction = "data.fraction=1" if model in ("convnet", "fcnet") else "data.fraction=0.4"
    written = training.run(
        settings(*TINY, f"model={model}", fraction, "batch_size=16", *LARGE.get(model, [])),
        tmp_path / "run",
    )
    assert written["status"] == "finished" and written["model"]["name"] == model
    assert names(tmp_path / "run") == CONTRACT
    assert written["train"]["loss"] < np.log(10) - 0.01  # below that of guessing
    assert written["test"]["accuracy"] > LEAST[model]


@pytest.mark.parametrize("aug", ["none", "full", "prose", "rotate45_flip"])
def test_every_preset_trains_for_an_epoch(aug, tmp_path):
    chosen = settings(*TINY, f"aug={aug}", "data.fraction=1", "batch_size=32")
    written = training.run(chosen, tmp_path / "run")
    assert written["status"] == "finished"
    assert written["test"]["accuracy"] > LEAST[aug]
    row = rundir.read_history(tmp_path / "run")[0]
    # what trains is augmented, what is scored is not
    assert row["train_accuracy"] > row["train_accuracy_running"]


def test_a_failed_run_says_so_and_keeps_its_traceback_in_the_log(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(engine.NonFiniteLoss):
        training.run(settings(*TINY, "optimizer=sgd", "optimizer.lr=1e6"), out)
    written = read(out)
    assert written["status"] == "failed"
    assert written["error"].startswith("NonFiniteLoss: the loss became")
    assert written["model"]["name"] == "convnet" and written["data"]["train"] == 680
    assert "test" not in written and not (out / rundir.BEST).exists()
    assert "Traceback" in (out / rundir.LOG).read_text()


def test_an_interrupted_run_says_so(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.run(settings(*TINY), tmp_path / "run")
    written = read(tmp_path / "run")
    assert written["status"] == "interrupted"
    assert (written["epochs"], written["best_epoch"]) == (1, 1)  # what it had learned by then


def test_a_picture_that_fails_does_not_cost_the_numbers_nor_look_finished(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no font")

    monkeypatch.setattr(plots, "neighbours", fail)
    with pytest.raises(PlainError, match=r"neighbours.png \(OSError: no font\)"):
        training.run(settings(*TINY), tmp_path / "run")
    written = read(tmp_path / "run")
    assert written["status"] == "failed" and "neighbours.png" in written["error"]
    assert 0 < written["test"]["accuracy"] < 1
    assert names(tmp_path / "run") == CONTRACT - {"neighbours.png"}


def test_numbers_are_written_before_pictures_and_do_not_look_finished(tmp_path, monkeypatch):
    seen = {}

    real = plots.confusion

    def look(path, *arguments):
        seen.update(read(path.parent))
        real(path, *arguments)

    monkeypatch.setattr(plots, "confusion", look)
    training.run(settings(*TINY), tmp_path / "run")
    assert seen["status"] == "interrupted"
    assert seen["test"] == read(tmp_path / "run")["test"]


def test_a_directory_with_a_run_is_not_used_again(finished_run):
    before = (finished_run / rundir.METRICS).read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        training.run(settings(*TINY), finished_run)
    assert (finished_run / rundir.METRICS).read_bytes() == before


def test_two_runs_in_one_process_do_not_influence_each_other(tmp_path, finished_run):
    alone = checkpoint.load(finished_run / rundir.LAST)
    training.run(settings(*TINY, "model=fcnet"), tmp_path / "other")
    training.run(
        settings("data=mnist5k", "epochs=4", "aug=full", "tsne.samples=20"), tmp_path / "again"
    )
    again = checkpoint.load(tmp_path / "again" / rundir.LAST)
    assert same_weights(alone.network.state_dict(), again.network.state_dict())


@pytest.mark.full_mnist
def test_one_epoch_of_all_of_mnist(mnist_dir, tmp_path):
    written = training.run(
        settings(f"data.dir={mnist_dir}", "epochs=1", "tsne.samples=100"), tmp_path / "run"
    )
    assert written["validation"]["accuracy"] > 0.92
    assert written["data"]["train"] == 51_005
