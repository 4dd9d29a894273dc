"""Training: steps and their metrics, epochs, early stopping, checkpoints, the time estimate."""

import math
from itertools import chain, islice

import pytest
import torch
import torch.nn.functional as F

from mnistcnn.data.batches import (
    evaluation_batches,
    pass_order,
    to_float,
    training_batches,
)
from mnistcnn.data.dataset import load_splits
from mnistcnn.evaluation.inference import infer
from mnistcnn.evaluation.metrics import score
from mnistcnn.models.registry import create_model
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import BEST, LAST
from mnistcnn.runs.history import TIMING_KEYS, best_epoch, read_history
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.system.logs import format_duration
from mnistcnn.system.random_streams import Stream, seed_global
from mnistcnn.training import progress, trainer
from mnistcnn.training.flat_parameters import flatten_parameters
from mnistcnn.training.optim import build_optimizer, build_scheduler
from mnistcnn.training.step import NonFiniteLoss, TrainMetrics, training_step
from mnistcnn.training.trainer import Trainer, build_model

from .conftest import TINY, same_weights, settings

LOSS_TRACE = [
    2.33309, 2.29805, 2.30235, 2.29355, 2.30823, 2.25807, 2.27255, 2.29089, 2.26285, 2.26285,
]  # fmt: skip
CPU = torch.device("cpu")


def fit(run_dir, *overrides: str):
    """Train a model with TINY and ``overrides``; return the model, its data and the result."""
    chosen = settings(*TINY, *overrides)
    splits = load_splits(chosen.data, chosen.seed)
    model = build_model(chosen, splits)
    run_dir.mkdir(exist_ok=True)
    return model, splits, Trainer(model, splits, chosen, RunRecord(run_dir)).fit()


def replace_scores(monkeypatch, accuracies) -> None:
    """Make the trainer use these validation accuracies instead of scoring the model."""
    remaining = iter(accuracies)

    def fake_score(trainer: Trainer) -> dict[str, float]:
        return {
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            "val_loss": 1.0,
            "val_accuracy": next(remaining),
        }

    monkeypatch.setattr(Trainer, "_score", fake_score)


# Steps and their metrics -------------------------------------------------------------------------


def test_the_losses_of_the_first_ten_steps():
    """A change of these values changes every result."""
    chosen = settings("data=mnist5k", "aug=full", "batch_size=64")
    splits = load_splits(chosen.data, 0)
    model = build_model(chosen, splits).train()
    optimizer = build_optimizer(chosen.optimizer, flatten_parameters(model))
    scheduler = build_scheduler(chosen.scheduler, optimizer, 1, 10)
    seed_global(0, Stream.DROPOUT, 1)
    losses = []
    for images, labels in islice(training_batches(splits.train, chosen, 1), 10):
        metrics = TrainMetrics(epoch=1)
        training_step(model, images, labels, F.cross_entropy, optimizer, scheduler, metrics)
        losses.append(metrics.loss)
    assert losses == pytest.approx(LOSS_TRACE, rel=1e-4)


def test_train_metrics_are_weighted_by_samples_and_not_by_batches():
    model = create_model(settings("model=fcnet", "model.dropout=0").model).train()
    images, labels = torch.rand(7, 1, 28, 28), torch.arange(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    metrics = TrainMetrics(epoch=1)
    for part in (slice(5), slice(5, None)):
        batch = images[part], labels[part]
        training_step(model, *batch, F.cross_entropy, optimizer, scheduler, metrics)
    with torch.no_grad():
        logits = model(images)
    expected = F.cross_entropy(logits, labels).item()
    assert metrics.loss == pytest.approx(expected, rel=1e-4)
    assert metrics.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics.samples == 7 and metrics.batches == 2


def test_pending_losses_name_the_first_batch_that_is_not_finite():
    metrics = TrainMetrics(epoch=2, batches=100, samples=800, loss_sum=400.0)
    losses, rates = (0.5, 0.4, math.inf, math.nan), (0.1, 0.2, 0.3, 0.4)
    for loss, lr in zip(losses, rates, strict=True):
        metrics._pending.append((torch.tensor(loss), torch.tensor(3), 8, lr))
    message = "inf in epoch 2, batch 103, at learning rate 0.3"
    with pytest.raises(NonFiniteLoss, match=message):
        metrics.flush()
    assert metrics.loss_sum == pytest.approx(400 + 8 * 0.9)


# Batches and epochs ------------------------------------------------------------------------------


def test_training_batches_contain_every_image_once(splits):
    chosen = settings("data=mnist5k", "batch_size=100")
    labels = torch.cat([labels for _, labels in training_batches(splits.train, chosen, 1)])
    order = pass_order(0, 1, len(splits.train))
    assert torch.equal(labels, splits.train.labels[order])


def test_steps_divide_the_same_batches_into_other_epochs(splits):
    by_epochs = settings("data=mnist5k", "aug=full", "batch_size=1000")  # 3,400 images: 4 batches
    by_steps = settings("data=mnist5k", "aug=full", "batch_size=1000", "steps=9", "epochs=3")
    whole_passes, equal_parts = (
        [list(training_batches(splits.train, chosen, epoch)) for epoch in (1, 2, 3)]
        for chosen in (by_epochs, by_steps)
    )
    assert [len(batches) for batches in whole_passes] == [4, 4, 4]
    assert [len(batches) for batches in equal_parts] == [3, 3, 3]
    for first, second in zip(chain(*whole_passes), chain(*equal_parts), strict=False):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_an_epoch_of_steps_may_contain_several_passes(splits):
    chosen = settings("data=mnist5k", "batch_size=1000", "steps=18", "epochs=2")
    labels = torch.cat([labels for _, labels in training_batches(splits.train, chosen, 2)])
    orders = [pass_order(0, number, len(splits.train)) for number in (3, 4, 5)]
    expected = torch.cat([splits.train.labels[order] for order in orders])[1000:]  # 9 = 2 * 4 + 1
    assert torch.equal(labels, expected[: len(labels)]) and len(labels) == 3000 - 600 + 3400 + 2000


def test_augmentation_differs_between_epochs_and_is_repeatable(splits):
    chosen = settings("data=mnist5k", "aug=full")
    first, repeated, second = (
        torch.cat([images for images, _ in training_batches(splits.train, chosen, epoch)])
        for epoch in (1, 1, 2)
    )
    assert torch.equal(first, repeated)
    # positions of the same image in two epochs
    positions = [pass_order(0, epoch, len(splits.train)).argsort()[0] for epoch in (1, 2)]
    assert not torch.equal(first[positions[0]], second[positions[1]])


def test_the_learning_rate_falls_after_each_epoch_of_steps(tmp_path):
    chosen = settings(*TINY, "epochs=2", "steps=30")
    splits = load_splits(chosen.data, 0)
    record = RunRecord(tmp_path)
    result = Trainer(build_model(chosen, splits), splits, chosen, record).fit()
    assert record.values["steps"] == 30 and record.values["epochs"] == 2
    assert [row["lr"] for row in result.history] == pytest.approx([1.0, 0.7])


# Training ----------------------------------------------------------------------------------------


def test_the_rows_of_the_history(tmp_path):
    _, splits, result = fit(tmp_path, "epochs=2")
    assert read_history(tmp_path) == result.history
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert [row["lr"] for row in result.history] == pytest.approx([1.0, 0.7])
    for row in result.history:
        assert row.keys() == {
            "epoch",
            "lr",
            "train_loss",
            "train_accuracy",
            "train_loss_running",
            "train_accuracy_running",
            "val_loss",
            "val_accuracy",
            "seconds",
            "samples_per_second",
        }
        # the seconds include scoring, the rate does not
        assert row["samples_per_second"] > len(splits.train) / row["seconds"] > 0
        correct = row["train_accuracy_running"] * len(splits.train)
        assert correct == pytest.approx(round(correct), abs=1e-6)


def test_the_seed_decides_the_weights(tmp_path):
    first_model, _, first = fit(tmp_path / "a", "aug=full")
    second_model, _, second = fit(tmp_path / "b", "aug=full")
    other_model, _, _ = fit(tmp_path / "c", "aug=full", "seed=1")
    assert same_weights(first_model.state_dict(), second_model.state_dict())
    assert not same_weights(first_model.state_dict(), other_model.state_dict())
    for first_row, second_row in zip(first.history, second.history, strict=True):
        assert {k: v for k, v in first_row.items() if k not in TIMING_KEYS} == {
            k: v for k, v in second_row.items() if k not in TIMING_KEYS
        }


def test_scores_of_an_epoch_are_computed_from_its_weights_without_augmentation(tmp_path):
    model, splits, result = fit(tmp_path, "aug=prose")
    predictions = infer(model, evaluation_batches(splits.validation))
    assert score(predictions)["accuracy"] == result.history[-1]["val_accuracy"]
    images = to_float(splits.train.pixels)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == splits.train.labels).float().mean()
    assert result.history[-1]["train_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)


def test_best_is_the_first_epoch_with_the_highest_validation_accuracy(tmp_path):
    _, splits, result = fit(tmp_path, "epochs=6", "optimizer.lr=3", "scheduler=none")
    accuracies = [row["val_accuracy"] for row in result.history]
    best_number = best_epoch(result.history)
    assert best_number == accuracies.index(max(accuracies)) + 1
    best, last = (load_checkpoint(tmp_path / name) for name in (BEST, LAST))
    assert (best.epoch, last.epoch) == (best_number, 6)
    for checkpoint, row in ((best, result.history[best_number - 1]), (last, result.history[-1])):
        predictions = infer(checkpoint.model, evaluation_batches(splits.validation))
        assert score(predictions)["accuracy"] == row["val_accuracy"]


def test_early_stopping(tmp_path, monkeypatch):
    replace_scores(monkeypatch, [0.5, 0.7, 0.7, 0.6, 0.9])
    _, _, result = fit(tmp_path, "epochs=5", "early_stopping.patience=2")
    assert (result.status, len(result.history)) == ("early_stopped", 4)
    assert best_epoch(result.history) == 2


def test_patience_that_ends_with_the_last_epoch_is_no_early_stop(tmp_path, monkeypatch):
    replace_scores(monkeypatch, [0.5, 0.5])
    _, _, result = fit(tmp_path, "epochs=2", "early_stopping.patience=1")
    assert (result.status, len(result.history)) == ("finished", 2)


def test_the_negative_loss_of_the_report(tmp_path):
    _, _, result = fit(tmp_path, "loss=nll_of_logits", "epochs=3")
    losses = [row["train_loss_running"] for row in result.history]
    assert losses[-1] < losses[0] and losses[-1] < -1
    assert result.history[-1]["val_loss"] > 0  # scores are cross-entropy for every training loss


def test_training_in_bfloat16_on_a_cpu(tmp_path):
    _, _, result = fit(tmp_path, "precision=bfloat16", "epochs=2")
    assert result.history[-1]["train_loss"] < 2.3


# Losses that are not finite ----------------------------------------------------------------------


def test_a_non_finite_loss_names_epoch_batch_and_learning_rate(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, batch \d+, at learning rate 1e\+06"):
        fit(tmp_path, "optimizer=sgd", "optimizer.lr=1e6")
    last = load_checkpoint(tmp_path / LAST)
    assert last.epoch == 0
    assert all(torch.isfinite(weight).all() for weight in last.model.state_dict().values())


def test_last_pt_holds_the_last_complete_epoch_after_a_failure(tmp_path, monkeypatch):
    def fail_in_epoch_3(*arguments):
        if arguments[-1].epoch == 3:
            raise NonFiniteLoss(3, 1, 0.49, math.nan)
        training_step(*arguments)

    monkeypatch.setattr(trainer, "training_step", fail_in_epoch_3)
    with pytest.raises(NonFiniteLoss):
        fit(tmp_path, "epochs=4")
    assert load_checkpoint(tmp_path / LAST).epoch == 2
    assert len(read_history(tmp_path)) == 2


def test_weights_with_a_non_finite_score_are_not_saved(tmp_path, monkeypatch):
    """The last step of an epoch may break the weights without a bad loss of a batch."""
    calls = []

    def broken_validation_in_epoch_2(predictions):
        calls.append(len(predictions.labels))
        return score(predictions) | ({"loss": math.nan} if len(calls) == 4 else {})

    monkeypatch.setattr(trainer, "score", broken_validation_in_epoch_2)
    with pytest.raises(NonFiniteLoss, match="nan in epoch 2, batch 6") as stop:
        fit(tmp_path, "epochs=3", "scheduler=cosine")
    assert calls[1] == calls[3] < calls[0] == calls[2]  # training images, validation images
    last_rate = (1 + math.cos(math.pi * 11 / 18)) / 2  # of the 12th of 18 steps
    assert f"{last_rate:g}" in str(stop.value)
    assert [row["epoch"] for row in read_history(tmp_path)] == [1]
    for name in (BEST, LAST):
        assert load_checkpoint(tmp_path / name).epoch == 1


# The time estimate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12 s"), (600, "10 min"), (22_680, "6.3 hours")]
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


def test_suggestions_for_a_shorter_run():
    assert list(progress._suggestions(settings("model=custom"), on_cpu=True)) == [
        "model.width=0.25 (6% of the work)",
        "data.fraction=0.25",
        "epochs=3",
        "data=mnist5k",
        "a GPU",
    ]
    half_width = settings("model=custom", "model.width=0.5")
    first = next(progress._suggestions(half_width, on_cpu=True))
    assert first == "model.width=0.25 (25% of the work)"
    by_steps = settings("model=fcnet", "data=mnist5k", "steps=4000")
    assert list(progress._suggestions(by_steps, on_cpu=False)) == ["steps=1000"]
    small = settings("model=fcnet", "data=mnist5k", "epochs=2", "data.fraction=0.1")
    assert list(progress._suggestions(small, on_cpu=False)) == []


@pytest.mark.parametrize("slow_batch", [1, 2])
def test_an_estimate_and_suggestions_are_logged_once(splits, monkeypatch, caplog, slow_batch):
    clock = iter([0.0, *[5.0] * 9] if slow_batch == 1 else [0.0, 1.0, 1.0, *[6.0] * 9])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    chosen = settings("model=custom", "data=mnist5k", "epochs=10")
    with (
        caplog.at_level("INFO", "mnistcnn"),
        progress.ProgressReporter(chosen, splits) as reporter,
    ):
        for _ in range(4):
            reporter.on_batch(128)
    # 5 s for 128 images; an epoch is 3,400 images and a third of the 4,000 that are scored
    hours = 5 / 128 * 10 * (3400 + 4000 / 3) / 3600
    estimate, suggestions = caplog.messages
    assert estimate == f"estimated time: {60 * hours:.0f} min for 10 epochs"
    assert suggestions.startswith("for a shorter run: model.width=0.25")
