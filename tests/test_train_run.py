"""Whole runs and evaluations: every model, augmentation preset and result file."""

import csv
import filecmp
import json
import logging
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mnistcnn import evaluate, train
from mnistcnn.config.load import FORMAT, read_settings, to_yaml
from mnistcnn.data.batches import evaluation_batches, to_float
from mnistcnn.data.dataset import load_splits
from mnistcnn.data.mnist import load_mnist5k
from mnistcnn.evaluation import evaluate_run as evaluate_run_module
from mnistcnn.evaluation import figures, mosaic, scatter
from mnistcnn.evaluation.evaluate_run import evaluate_run
from mnistcnn.evaluation.inference import infer
from mnistcnn.models.classifier import Classifier
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import (
    BEST,
    CONFIG,
    CONFUSION_CSV,
    CURVES,
    EVALUATE_LOG,
    HISTORY,
    LAST,
    LOG,
    METRICS,
    MODEL_SUMMARY,
    PREDICTIONS,
    RUN_PAGE,
)
from mnistcnn.runs.history import read_history
from mnistcnn.runs.store import read_run
from mnistcnn.system.errors import UsageError
from mnistcnn.system.locks import LOCK_FILE
from mnistcnn.training import train_run as train_run_module
from mnistcnn.training.step import NonFiniteLoss
from mnistcnn.training.train_run import train_run
from mnistcnn.training.trainer import Trainer

from .conftest import FOUR_EPOCHS, TINY, evaluate_settings, same_weights, settings

ALL_FILES = {
    "config.yaml",
    "run.html",
    "train.log",
    "history.jsonl",
    "metrics.json",
    "predictions.npz",
    "best.pt",
    "last.pt",
    "curves.png",
    "confusion_matrix.png",
    "confusion_matrix.csv",
    "misclassified.png",
    "tsne.png",
    "neighbours.png",
    "augmented.png",
    "model_summary.txt",
}


PNG_FILES = {name for name in ALL_FILES if name.endswith(".png")}


def file_names(run_dir) -> set[str]:
    return {file.name for file in run_dir.iterdir()} - {LOCK_FILE}


def read_metrics(run_dir) -> dict:
    return json.loads((run_dir / METRICS).read_text())


# The files of a run ------------------------------------------------------------------------------


def test_a_run_writes_all_files(finished_run):
    assert file_names(finished_run) == ALL_FILES
    for picture in finished_run.glob("*.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_metrics(finished_run):
    metrics = read_metrics(finished_run)
    assert metrics["format"] == FORMAT
    assert metrics["status"] == "finished"
    assert metrics["model"] == {"name": "convnet", "parameters": 14_178}
    assert metrics["data"]["name"] == "mnist5k" and metrics["data"]["fraction"] == 1.0
    sizes = [metrics["data"][split] for split in ("train", "validation", "test")]
    assert sizes == [3400, 600, 1000]
    assert metrics["epochs"] == 4 and 1 <= metrics["best_epoch"] <= 4
    assert metrics["seed"] == 0 and metrics["device"].split(":")[0] in ("cpu", "cuda", "mps")
    assert metrics["compile"] == "none"
    assert metrics["kernels"] in ("native", "torch")
    assert metrics["threads"] == torch.get_num_threads()
    assert metrics["peak_memory_bytes"] > 50e6
    assert {"data", "fit", "test", "tsne.png", "total"} <= metrics["seconds"].keys()
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    package = "openTSNE" if find_spec("openTSNE") else "scikit-learn"
    assert metrics["tsne"]["package"] == package and package in metrics["versions"]
    assert 0.1 < metrics["tsne"]["kl_divergence"] < 2
    assert round(metrics["tsne"]["kl_divergence"], 3) == metrics["tsne"]["kl_divergence"]
    for split in ("train", "validation", "test"):
        score = metrics[split]
        assert score["accuracy"] + score["error"] == pytest.approx(1)
        assert score["accuracy"] > 0.8  # four epochs on 3,400 images reach 0.88
    low, high = metrics["test"]["accuracy_ci95"]
    assert low < metrics["test"]["accuracy"] < high


def test_predictions_agree_with_the_metrics(finished_run):
    test = read_metrics(finished_run)["test"]
    with np.load(finished_run / PREDICTIONS) as file:
        labels, predictions, probabilities = (
            file[name] for name in ("labels", "predictions", "probabilities")
        )
    assert probabilities.shape == (1000, 10) and probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(1000), abs=1e-5)
    assert (predictions == labels).mean() == test["accuracy"]
    assert np.array_equal(probabilities.argmax(axis=1), predictions)
    assert np.bincount(labels).tolist() == [100] * 10
    loss = -np.log(probabilities[np.arange(1000), labels]).mean()
    assert loss == pytest.approx(test["loss"], rel=1e-4)


def test_the_confusion_matrix_is_the_same_in_both_files(finished_run):
    with (finished_run / CONFUSION_CSV).open() as file:
        header, *rows = csv.reader(file)
    assert header == ["true \\ predicted", *map(str, range(10))]
    assert [row[0] for row in rows] == list(map(str, range(10)))
    counts = [list(map(int, row[1:])) for row in rows]
    assert counts == read_metrics(finished_run)["test"]["confusion_matrix"]
    assert np.sum(counts) == 1000


def test_names_of_classes_are_those_of_the_dataset(tmp_path, monkeypatch):
    names = ('a, "b"', "été", "", "<img src=x>", "$x$", *(f"class {k}" for k in range(5, 10)))
    renamed = replace(load_mnist5k(), class_names=names, label_errors=(3, 8))
    monkeypatch.setattr("mnistcnn.data.dataset.load_mnist5k", lambda: renamed)
    names_in_pictures = {}

    def record_names(path, *arguments):
        names_in_pictures[path.name] = [each for each in arguments if isinstance(each, tuple)]

    for module, function in (
        (figures, "confusion_matrix"),
        (scatter, "tsne"),
        (mosaic, "misclassified"),
        (mosaic, "neighbours"),
        (mosaic, "augmented"),
    ):
        monkeypatch.setattr(module, function, record_names)
    metrics = train_run(settings(*TINY), tmp_path / "run")
    assert metrics["data"]["classes"] == list(names)
    per_class = read_metrics(tmp_path / "run")["test"]["per_class"]
    assert [row["class"] for row in per_class] == list(names)
    with (tmp_path / "run" / CONFUSION_CSV).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true \\ predicted", *names]
    assert [row[0] for row in rows] == list(names)
    pictures = ("confusion_matrix", "tsne", "misclassified", "neighbours", "augmented")
    assert names_in_pictures == {f"{picture}.png": [names] for picture in pictures}


def test_train_and_validation_scores_are_those_of_the_best_epoch(finished_run):
    metrics = read_metrics(finished_run)
    row = read_history(finished_run)[metrics["best_epoch"] - 1]
    assert metrics["validation"]["accuracy"] == row["val_accuracy"]
    assert metrics["train"]["loss"] == row["train_loss"]


def test_the_test_set_is_used_once_after_the_last_epoch(tmp_path, monkeypatch, splits):
    test_images = to_float(splits.test.pixels)  # the model gets them in one batch
    epochs_before = []
    predict = Classifier.features_and_logits

    def record_test_set(self, images):
        if torch.equal(images, test_images):
            epochs_before.append(len(read_history(tmp_path / "run")))
        return predict(self, images)

    monkeypatch.setattr(Classifier, "features_and_logits", record_test_set)
    train_run(settings(*TINY, "epochs=3"), tmp_path / "run")
    assert epochs_before == [3]


def test_the_log_has_one_line_per_epoch_and_no_progress_bar(finished_run):
    log = (finished_run / LOG).read_text()
    assert [log.count(f"epoch {n}/4") for n in (1, 2, 3, 4)] == [1] * 4
    assert "test accuracy" in log
    assert "batch" not in log


def test_config_yaml_has_all_settings(finished_run):
    file = finished_run / CONFIG
    assert read_settings(file.read_text(), file) == settings(
        "data=mnist5k", "epochs=4", "aug=full", "tsne.samples=200"
    )


def test_model_summary_shows_the_uncropped_image(finished_run):
    """The table of the report's Figure 3, although the model computes on 26 x 26 pixels."""
    lines = (finished_run / MODEL_SUMMARY).read_text().splitlines()
    first_convolution = next(line for line in lines if "Conv2d" in line)
    assert "[1, 8, 26, 26]" in first_convolution

    input_shapes = []
    model = load_checkpoint(finished_run / BEST).model
    model.body.register_forward_pre_hook(lambda _, inputs: input_shapes.append(inputs[0].shape))
    splits = load_splits(settings("data=mnist5k").data, seed=0)
    infer(model, evaluation_batches(splits.test))
    assert input_shapes == [(1000, 1, 26, 26)]


def test_a_checkpoint_is_enough_to_rebuild_the_model(finished_run):
    checkpoint = load_checkpoint(finished_run / BEST)
    assert checkpoint.epoch == read_metrics(finished_run)["best_epoch"]
    splits = load_splits(settings("data=mnist5k").data, 0)
    predictions = infer(checkpoint.model, evaluation_batches(splits.test))
    assert predictions.correct.mean() == read_metrics(finished_run)["test"]["accuracy"]
    mean, std = splits.pixel_statistics()
    assert checkpoint.model.mean.item() == pytest.approx(mean)
    assert checkpoint.model.std.item() == pytest.approx(std)


# checkpoint.keep_last ----------------------------------------------------------------------------


@pytest.mark.parametrize("patience", ["null", "1"])
def test_a_complete_run_may_remove_its_last_checkpoint(tmp_path, command, patience):
    overrides = [*TINY, "epochs=3", f"early_stopping.patience={patience}"]
    kept = train_run(settings(*overrides), tmp_path / "kept")
    run_dir = tmp_path / "run"
    metrics = train_run(settings(*overrides, "checkpoint.keep_last=false"), run_dir)
    assert file_names(run_dir) == ALL_FILES - {LAST}
    assert file_names(tmp_path / "kept") == ALL_FILES
    for key in ("config_sha256", "status", "epochs", "train", "validation", "test"):
        assert metrics[key] == kept[key]

    evaluation = evaluate_run(evaluate_settings(run_dir, "tsne.samples=20"), tmp_path / "a")
    assert evaluation["test"] == metrics["test"]
    code, _, err = command(evaluate.main, f"ckpt={run_dir}/last.pt")
    assert code == 2
    assert err == f"mnistcnn: {run_dir}/last.pt cannot be read: No such file or directory\n"


def test_a_failed_run_keeps_its_last_checkpoint(tmp_path):
    overrides = [*TINY, "checkpoint.keep_last=false", "optimizer=sgd", "optimizer.lr=1e6"]
    with pytest.raises(NonFiniteLoss):
        train_run(settings(*overrides), tmp_path / "run")
    assert (tmp_path / "run" / LAST).exists()


def test_an_interrupted_run_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run_module, "write_artifacts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings(*TINY, "checkpoint.keep_last=false"), tmp_path / "run")
    assert (tmp_path / "run" / LAST).exists() and (tmp_path / "run" / BEST).exists()


# Evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_directory", [True, False])
def test_evaluate_repeats_the_metrics_exactly(finished_run, tmp_path, from_directory):
    ckpt = finished_run if from_directory else finished_run / BEST
    overrides = ["tsne.samples=60", "tsne.of=pixels"]
    evaluation = evaluate_run(evaluate_settings(ckpt, *overrides), tmp_path)
    trained = read_metrics(finished_run)
    for key in ("train", "validation", "test", "data", "model", "seed"):
        assert evaluation[key] == trained[key] == read_metrics(tmp_path)[key]
    assert evaluation["status"] == "finished"
    assert evaluation["precision"] == trained["precision"] == "float32"
    training_files = {"train.log", "history.jsonl", "best.pt", "last.pt"}
    assert file_names(tmp_path) == ALL_FILES - training_files | {"evaluate.log"}
    with (
        np.load(finished_run / PREDICTIONS) as first,
        np.load(tmp_path / PREDICTIONS) as second,
    ):
        assert all(np.array_equal(first[name], second[name]) for name in first.files)


def test_evaluate_of_a_directory_uses_the_checkpoint_that_the_run_selected(tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.8])

    def fake_score(trainer: Trainer) -> dict[str, float]:
        return {
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            "val_loss": 1.0,
            "val_accuracy": next(accuracies),
        }

    monkeypatch.setattr(Trainer, "_score", fake_score)
    trained = train_run(settings(*TINY, "epochs=2", "select=last"), tmp_path / "run")
    evaluation = evaluate_run(
        evaluate_settings(tmp_path / "run", "tsne.samples=20"), tmp_path / "evaluation"
    )
    assert trained["best_epoch"] == 1
    assert evaluation["epoch"] == 2 and evaluation["test"] == trained["test"]


def test_evaluate_uses_the_precision_of_the_training_by_default(tmp_path):
    trained = train_run(settings(*TINY, "precision=bfloat16"), tmp_path / "run")
    same = evaluate_run(evaluate_settings(tmp_path / "run", "tsne.samples=20"), tmp_path / "a")
    assert same["precision"] == "bfloat16" and same["test"] == trained["test"]
    exact = evaluate_run(
        evaluate_settings(tmp_path / "run", "tsne.samples=20", "precision=float32"),
        tmp_path / "b",
    )
    assert exact["precision"] == "float32" and exact["test"]["loss"] != trained["test"]["loss"]


@pytest.mark.parametrize("content", ["a: [", "learning_rate: 3", "- 1", ""])
def test_evaluate_refuses_the_directory_of_another_program(tmp_path, content):
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(UsageError, match=f"{CONFIG} (is not a valid|has no format number)"):
        evaluate_run(evaluate_settings(tmp_path), tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_curves_are_drawn_only_from_the_history_of_the_same_run(finished_run, tmp_path):
    shutil.copy(finished_run / BEST, tmp_path)
    (tmp_path / HISTORY).write_text((finished_run / HISTORY).read_text())
    evaluation_dir = tmp_path / "evaluation"
    evaluate_run(evaluate_settings(tmp_path / BEST, "tsne.samples=20"), evaluation_dir)
    assert not (evaluation_dir / CURVES).exists()


# Models and augmentation presets -----------------------------------------------------------------

# lower bounds of the test accuracy after one epoch, with a margin for other machines
MIN_ACCURACY = {
    "convnet": 0.8,
    "custom": 0.35,
    "vgg16": 0.2,
    "resnet50": 0.7,
    "fcnet": 0.8,
    "none": 0.75,
    "full": 0.7,
    "prose": 0.4,
    "rotate45_flip": 0.4,
}
SMALLER = {
    "custom": ["model.width=0.1"],
    "vgg16": ["model.width=0.25"],
    "resnet50": ["model.layers=[1,1,1,1]", "model.width=0.25"],
}


@pytest.mark.parametrize("model", ["convnet", "custom", "vgg16", "resnet50", "fcnet"])
def test_every_model_learns_in_one_epoch(model, tmp_path):
    fraction = "data.fraction=1" if model in ("convnet", "fcnet") else "data.fraction=0.4"
    metrics = train_run(
        settings(*TINY, f"model={model}", fraction, "batch_size=16", *SMALLER.get(model, [])),
        tmp_path / "run",
    )
    assert metrics["status"] == "finished" and metrics["model"]["name"] == model
    assert file_names(tmp_path / "run") == ALL_FILES
    assert metrics["train"]["loss"] < np.log(10) - 0.01  # the loss of guessing is log(10)
    assert metrics["test"]["accuracy"] > MIN_ACCURACY[model]


@pytest.mark.parametrize("aug", ["none", "full", "prose", "rotate45_flip"])
def test_every_augmentation_preset_learns_in_one_epoch(aug, tmp_path):
    chosen = settings(*TINY, f"aug={aug}", "data.fraction=1", "batch_size=32")
    metrics = train_run(chosen, tmp_path / "run")
    assert metrics["status"] == "finished"
    assert metrics["test"]["accuracy"] > MIN_ACCURACY[aug]
    row = read_history(tmp_path / "run")[0]
    # training images are augmented, scored images are not
    assert row["train_accuracy"] > row["train_accuracy_running"]


# Failures and interruptions ----------------------------------------------------------------------


def test_a_failed_run_records_the_error_and_logs_the_traceback(tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(NonFiniteLoss):
        train_run(settings(*TINY, "optimizer=sgd", "optimizer.lr=1e6"), run_dir)
    metrics = read_metrics(run_dir)
    assert metrics["status"] == "failed"
    assert metrics["error"].startswith("NonFiniteLoss: the loss became")
    assert metrics["model"]["name"] == "convnet" and metrics["data"]["train"] == 680
    assert "test" not in metrics and not (run_dir / BEST).exists()
    assert "Traceback" in (run_dir / LOG).read_text()


def test_an_interrupted_run_records_its_status(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run_module, "write_artifacts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings(*TINY), tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")
    assert metrics["status"] == "interrupted"
    assert (metrics["epochs"], metrics["best_epoch"]) == (1, 1)  # known before the interrupt


def fail_to_draw(*_, **__):
    raise OSError("no font")


def test_a_run_without_a_picture_is_complete(tmp_path, command, monkeypatch):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(mosaic, "neighbours", fail_to_draw)
        code, out, err = command(train.main, *TINY, f"hydra.run.dir={run_dir}")
    assert (code, err) == (0, "")
    assert "not written: neighbours.png (OSError: no font)\n" in out
    assert f"to draw the missing pictures: python -m mnistcnn.train resume={run_dir}\n" in out
    metrics = read_metrics(run_dir)
    assert (metrics["status"], metrics["missing_pictures"]) == ("finished", ["neighbours.png"])
    assert 0 < metrics["test"]["accuracy"] < 1
    assert file_names(run_dir) == ALL_FILES - {"neighbours.png"}

    before = {name: (run_dir / name).read_bytes() for name in ALL_FILES - {"neighbours.png"}}
    assert command(train.main, f"resume={run_dir}")[0] == 0
    assert read_metrics(run_dir)["missing_pictures"] == []
    assert read_metrics(run_dir)["test"] == metrics["test"]
    assert file_names(run_dir) == ALL_FILES
    changed = {name for name, content in before.items() if (run_dir / name).read_bytes() != content}
    assert changed == {LOG, METRICS}


def test_a_run_that_is_stopped_while_it_draws_is_complete(tmp_path, monkeypatch):
    metrics_while_drawing = {}

    def stop(path, *_):
        metrics_while_drawing.update(read_metrics(path.parent))
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "confusion_matrix", stop)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings(*TINY), tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")
    expected = {
        "augmented.png",
        "confusion_matrix.png",
        "misclassified.png",
        "model_summary.txt",
        "neighbours.png",
        "run.html",
        "tsne.png",
    }
    assert metrics_while_drawing["test"] == metrics["test"]
    for values in (metrics_while_drawing, metrics):
        assert values["status"] == "finished" and expected <= set(values["missing_pictures"])
    assert set(metrics["missing_pictures"]) == expected
    assert read_run(tmp_path / "run").complete


@pytest.mark.parametrize(
    ("override", "picture"), [("tsne.samples=70", "tsne.png"), ("neighbours.k=3", "neighbours.png")]
)
def test_resume_draws_a_complete_run_with_other_picture_settings(
    finished_run, tmp_path, command, override, picture
):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    before = {name: (run_dir / name).read_bytes() for name in ALL_FILES}
    for _ in range(2):  # the second time, nothing changes
        code, out, err = command(train.main, f"resume={run_dir}", override)
        assert (code, err) == (0, "") and "already complete" in out
        files = {name: (run_dir / name).read_bytes() for name in ALL_FILES}
        drawn = {picture, RUN_PAGE}  # the page has the settings
        assert {n for n in files if files[n] != before[n]} == {LOG, METRICS, CONFIG, *drawn}
    assert override.partition("=")[2] in (run_dir / CONFIG).read_text()
    metrics = read_metrics(run_dir)
    original = read_metrics(finished_run)
    changed = {"seconds", "tsne"} if picture == "tsne.png" else {"seconds"}
    assert {k for k in original if metrics[k] != original[k]} == changed


@pytest.mark.parametrize(
    ("without", "left_out", "later"),
    [
        ("pictures=false", PNG_FILES | {"run.html"}, "pictures=true"),
        ("tsne.samples=0", {"tsne.png"}, "tsne.samples=60"),
    ],
)
def test_pictures_that_a_run_leaves_out_can_be_drawn_later(
    tmp_path, command, without, left_out, later
):
    run_dir, at_once = tmp_path / "run", tmp_path / "at-once"

    def resume(*overrides: str) -> dict[str, bytes]:
        assert command(train.main, f"resume={run_dir}", *overrides)[::2] == (0, "")
        return {name: (run_dir / name).read_bytes() for name in file_names(run_dir)}

    train_run(settings(*TINY, without), run_dir)
    metrics = read_metrics(run_dir)
    assert file_names(run_dir) == ALL_FILES - left_out
    assert metrics["status"] == "finished" and metrics["missing_pictures"] == []
    assert read_run(run_dir).complete and "tsne" not in metrics
    before = resume()
    assert before[METRICS] == json.dumps(metrics, indent=2).encode() + b"\n"

    complete = resume(later)
    train_run(settings(*TINY), at_once)
    for name in [CONFIG, *PNG_FILES]:
        assert complete[name] == (at_once / name).read_bytes(), name
    assert read_metrics(run_dir)["tsne"] == read_metrics(at_once)["tsne"]
    assert read_metrics(run_dir)["missing_pictures"] == []
    unchanged = complete.keys() - {CONFIG, LOG, METRICS, RUN_PAGE, *left_out}
    assert all(complete[name] == before[name] for name in unchanged)
    after = resume(without)  # pictures remain
    assert {name for name in complete if after[name] != complete[name]} == set()


def test_only_the_pictures_that_are_not_left_out_are_drawn_again(tmp_path):
    run_dir = tmp_path / "run"
    train_run(settings(*TINY, "pictures=false"), run_dir)
    train_run(settings(*TINY, "tsne.samples=0"), run_dir, resume=True)
    assert file_names(run_dir) == ALL_FILES - {"tsne.png"}
    train_run(settings(*TINY), run_dir, resume=True)
    tsne = (run_dir / "tsne.png").read_bytes()
    train_run(settings(*TINY, "tsne.samples=0", "neighbours.k=3"), run_dir, resume=True)
    assert (run_dir / "tsne.png").read_bytes() == tsne
    assert (run_dir / CONFIG).read_text() == to_yaml(settings(*TINY, "neighbours.k=3"))


def test_an_evaluation_without_pictures(finished_run, tmp_path):
    metrics = evaluate_run(evaluate_settings(finished_run, "pictures=false"), tmp_path / "a")
    files = {CONFIG, METRICS, EVALUATE_LOG, PREDICTIONS, CONFUSION_CSV, MODEL_SUMMARY}
    assert file_names(tmp_path / "a") == files
    assert metrics["missing_pictures"] == [] and "tsne" not in metrics
    assert read_run(tmp_path / "a").complete


def test_a_picture_that_cannot_be_drawn_again_remains(finished_run, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    monkeypatch.setattr(mosaic, "neighbours", fail_to_draw)
    train_run(settings(*FOUR_EPOCHS, "neighbours.k=3"), run_dir, resume=True)
    unchanged = ALL_FILES - {LOG, METRICS, CONFIG, RUN_PAGE}
    assert filecmp.cmpfiles(run_dir, finished_run, unchanged, shallow=False)[1:] == ([], [])
    assert read_metrics(run_dir)["missing_pictures"] == ["neighbours.png"]
    monkeypatch.undo()
    train_run(settings(*FOUR_EPOCHS, "neighbours.k=3"), run_dir, resume=True)
    assert (run_dir / "neighbours.png").read_bytes() != (
        finished_run / "neighbours.png"
    ).read_bytes()
    assert read_metrics(run_dir)["missing_pictures"] == []


def test_evaluate_says_that_a_run_is_not_complete(tmp_path, caplog, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_run_module, "write_artifacts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_run(settings(*TINY), tmp_path / "run")
    monkeypatch.setattr(logging.getLogger("mnistcnn"), "propagate", True)
    evaluate_run(evaluate_settings(tmp_path / "run", "tsne.samples=20"), tmp_path / "evaluation")
    assert "the run is not complete (interrupted): stopped by Ctrl-C" in caplog.text
    assert (tmp_path / "evaluation" / CURVES).exists()


def test_an_evaluation_without_its_data_leaves_no_directory(tmp_path, finished_run, monkeypatch):
    def fail(_):
        raise UsageError("no data")

    monkeypatch.setattr(evaluate_run_module, "load_dataset", fail)
    with pytest.raises(UsageError, match="no data"):
        evaluate_run(evaluate_settings(finished_run), tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_an_existing_run_is_not_overwritten(finished_run):
    before = (finished_run / METRICS).read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        train_run(settings(*TINY), finished_run)
    assert (finished_run / METRICS).read_bytes() == before


def test_two_runs_in_one_process_do_not_affect_each_other(tmp_path, finished_run):
    first = load_checkpoint(finished_run / LAST)
    train_run(settings(*TINY, "model=fcnet"), tmp_path / "other")
    train_run(
        settings("data=mnist5k", "epochs=4", "aug=full", "tsne.samples=20"), tmp_path / "second"
    )
    second = load_checkpoint(tmp_path / "second" / LAST)
    assert same_weights(first.model.state_dict(), second.model.state_dict())


@pytest.mark.full_mnist
def test_one_epoch_on_all_of_mnist(mnist_dir, tmp_path):
    metrics = train_run(
        settings(f"data.dir={mnist_dir}", "epochs=1", "tsne.samples=100"), tmp_path / "run"
    )
    assert metrics["validation"]["accuracy"] > 0.92
    assert metrics["data"]["train"] == 51_005
