"""The epochs: what they compute, when they stop, what they keep."""

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from mnistcnn import (
    checkpoint,
    console,
    data,
    device,
    engine,
    fit,
    metrics,
    models,
    optim,
    rundir,
    seeding,
)
from mnistcnn.seeding import Stream

from .conftest import TINY, same_weights, settings

PINNED = [
    2.33309, 2.29805, 2.30235, 2.29355, 2.30823, 2.25807, 2.27255, 2.29089, 2.26285, 2.26285,
]  # fmt: skip
CPU, FLOAT32 = torch.device("cpu"), torch.float32


def trained(out, *overrides: str):
    chosen = settings(*TINY, *overrides)
    digits = data.load(chosen.data, chosen.seed)
    network = fit.fresh_network(chosen, digits)
    out.mkdir(exist_ok=True)
    return network, digits, fit.fit(network, digits, chosen, rundir.Record(out))


def test_a_pinned_loss_trace():
    """Ten steps of the default recipe: any change here changes every result."""
    chosen = settings("data=mnist5k", "aug=full", "batch_size=64")
    digits = data.load(chosen.data, 0)
    network = fit.fresh_network(chosen, digits)
    optimizer = optim.optimizer(chosen.optimizer, network.parameters())
    schedule = optim.schedule(chosen.scheduler, optimizer, 1, 10)
    seeding.seed_global(0, Stream.DROPOUT, 1)
    batches = islice(fit.training_batches(digits.train, chosen, 1), 10)
    losses = []
    for batch in batches:
        running = engine.Running(epoch=1)
        engine.train_epoch(
            network, [batch], F.cross_entropy, optimizer, schedule, FLOAT32, running
        )
        losses.append(running.loss)
    assert losses == pytest.approx(PINNED, rel=1e-4)


def test_history_has_what_the_contract_names(tmp_path):
    _, digits, done = trained(tmp_path, "epochs=2")
    assert rundir.read_history(tmp_path) == done.history
    assert [row["epoch"] for row in done.history] == [1, 2]
    assert [row["lr"] for row in done.history] == pytest.approx([1.0, 0.7])
    for row in done.history:
        assert row.keys() == {
            "epoch", "lr", "train_loss", "train_accuracy", "train_loss_running",
            "train_accuracy_running", "val_loss", "val_accuracy", "seconds", "samples_per_second",
        }  # fmt: skip
        # the rate is that of training, the seconds are those of scoring too
        assert row["samples_per_second"] > len(digits.train) / row["seconds"] > 0
        assert row["train_accuracy_running"] * len(digits.train) == pytest.approx(
            round(row["train_accuracy_running"] * len(digits.train)), abs=1e-6
        )


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    one, _, first = trained(tmp_path / "a", "aug=full")
    two, _, second = trained(tmp_path / "b", "aug=full")
    other, _, _ = trained(tmp_path / "c", "aug=full", "seed=1")
    assert same_weights(one.state_dict(), two.state_dict())
    assert not same_weights(one.state_dict(), other.state_dict())
    timings = {"seconds", "samples_per_second"}
    for row, again in zip(first.history, second.history, strict=True):
        assert {k: v for k, v in row.items() if k not in timings} == {
            k: v for k, v in again.items() if k not in timings
        }


def test_scores_of_an_epoch_are_those_of_its_weights_without_augmentation(tmp_path):
    network, digits, done = trained(tmp_path, "aug=prose")
    predictions = engine.infer(network, data.evaluation_batches(digits.validation), FLOAT32)
    assert metrics.score(predictions)["accuracy"] == done.history[-1]["val_accuracy"]
    images = data.to_unit(digits.train.pixels)
    with torch.no_grad():
        right = (network(images).argmax(1) == digits.train.labels).float().mean()
    assert done.history[-1]["train_accuracy"] == pytest.approx(right.item(), abs=1e-6)


def test_best_is_the_first_epoch_of_the_highest_validation_accuracy(tmp_path):
    _, _, done = trained(tmp_path, "epochs=6", "optimizer.lr=3", "scheduler=none")
    accuracies = [row["val_accuracy"] for row in done.history]
    best_epoch = metrics.best_epoch(done.history)
    assert best_epoch == accuracies.index(max(accuracies)) + 1
    best, last = (checkpoint.load(tmp_path / name) for name in (rundir.BEST, rundir.LAST))
    assert (best.epoch, last.epoch) == (best_epoch, 6)
    digits = data.load(settings(*TINY).data, 0)
    for loaded, row in ((best, done.history[best_epoch - 1]), (last, done.history[-1])):
        scored = engine.infer(loaded.network, data.evaluation_batches(digits.validation), FLOAT32)
        assert metrics.score(scored)["accuracy"] == row["val_accuracy"]


def test_early_stopping(tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.7, 0.6, 0.9])
    monkeypatch.setattr(fit, "_evaluate", lambda *_: {
        "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": next(accuracies),
    })  # fmt: skip
    _, _, done = trained(tmp_path, "epochs=5", "early_stopping.patience=2")
    assert (done.status, len(done.history)) == ("early_stopped", 4)
    assert metrics.best_epoch(done.history) == 2


def test_patience_that_runs_out_with_the_epochs_is_no_early_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "_evaluate", lambda *_: {
        "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5,
    })  # fmt: skip
    _, _, done = trained(tmp_path, "epochs=2", "early_stopping.patience=1")
    assert (done.status, len(done.history)) == ("finished", 2)


def test_a_loss_that_is_not_finite_names_epoch_batch_and_rate(tmp_path):
    with pytest.raises(engine.NonFiniteLoss, match=r"epoch 1, batch \d+, at learning rate 1e\+06"):
        trained(tmp_path, "optimizer=sgd", "optimizer.lr=1e6")
    kept = checkpoint.load(tmp_path / rundir.LAST)
    assert kept.epoch == 0
    assert all(torch.isfinite(weight).all() for weight in kept.network.state_dict().values())


def test_a_late_failure_keeps_the_last_whole_epoch(tmp_path, monkeypatch):
    real = engine.train_epoch

    def fails_in_epoch_3(*arguments):
        if arguments[6].epoch == 3:
            raise engine.NonFiniteLoss(3, 1, 0.49, math.nan)
        return real(*arguments)

    monkeypatch.setattr(engine, "train_epoch", fails_in_epoch_3)
    with pytest.raises(engine.NonFiniteLoss):
        trained(tmp_path, "epochs=4")
    assert checkpoint.load(tmp_path / rundir.LAST).epoch == 2
    assert len(rundir.read_history(tmp_path)) == 2


def test_losses_that_are_looked_at_together_name_the_first_bad_batch():
    running = engine.Running(epoch=2, batches=100, samples=800, loss_sum=400.0)
    losses, rates = (0.5, 0.4, math.inf, math.nan), (0.1, 0.2, 0.3, 0.4)
    for loss, lr in zip(losses, rates, strict=True):
        running._pending.append((torch.tensor(loss), torch.tensor(3), 8, lr))
    said = "inf in epoch 2, batch 103, at learning rate 0.3"
    with pytest.raises(engine.NonFiniteLoss, match=said):
        running.settle()
    assert running.loss_sum == pytest.approx(400 + 8 * 0.9)


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path, monkeypatch):
    real, calls = fit._evaluate, []

    def broken_in_epoch_2(*arguments):
        calls.append(1)
        return real(*arguments) | ({"val_loss": math.nan} if len(calls) == 2 else {})

    monkeypatch.setattr(fit, "_evaluate", broken_in_epoch_2)
    with pytest.raises(engine.NonFiniteLoss, match="nan in epoch 2, batch 6") as stop:
        trained(tmp_path, "epochs=3", "scheduler=cosine")
    last = (1 + math.cos(math.pi * 11 / 18)) / 2  # the rate of the 12th of 18 steps
    assert f"{last:g}" in str(stop.value)
    assert [row["epoch"] for row in rundir.read_history(tmp_path)] == [1]
    for name in (rundir.BEST, rundir.LAST):
        assert checkpoint.load(tmp_path / name).epoch == 1


def test_running_scores_weigh_samples_and_not_batches():
    network = models.build(settings("model=fcnet", "model.dropout=0").model)
    images, labels = torch.rand(7, 1, 28, 28), torch.arange(7)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    batches = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    running = engine.Running(epoch=1)
    engine.train_epoch(
        network, batches, F.cross_entropy, optimizer, schedule, FLOAT32, running
    )
    with torch.no_grad():
        logits = network(images)
    expected = F.cross_entropy(logits, labels).item()
    assert running.loss == pytest.approx(expected, rel=1e-4)
    assert running.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert running.samples == 7 and running.batches == 2


def test_training_batches_see_every_image_once(digits):
    chosen = settings("data=mnist5k", "batch_size=100")
    labels = torch.cat([labels for _, labels in fit.training_batches(digits.train, chosen, 1)])
    order = data.epoch_order(0, 1, len(digits.train))
    assert torch.equal(labels, digits.train.labels[order])


def test_steps_are_the_same_batches_cut_into_other_epochs(digits):
    by_epochs = settings("data=mnist5k", "aug=full", "batch_size=1000")  # 3,400 images: 4 batches
    by_steps = settings("data=mnist5k", "aug=full", "batch_size=1000", "steps=9", "epochs=3")
    passes, parts = (
        [list(fit.training_batches(digits.train, chosen, epoch)) for epoch in (1, 2, 3)]
        for chosen in (by_epochs, by_steps)
    )
    assert [len(part) for part in passes] == [4, 4, 4]
    assert [len(part) for part in parts] == [3, 3, 3]
    for one, other in zip(sum(passes, []), sum(parts, []), strict=False):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_an_epoch_of_steps_may_hold_several_passes(digits):
    chosen = settings("data=mnist5k", "batch_size=1000", "steps=18", "epochs=2")
    labels = torch.cat([labels for _, labels in fit.training_batches(digits.train, chosen, 2)])
    orders = [data.epoch_order(0, number, len(digits.train)) for number in (3, 4, 5)]
    expected = torch.cat([digits.train.labels[order] for order in orders])[1000:]  # 9 = 2 * 4 + 1
    assert torch.equal(labels, expected[: len(labels)]) and len(labels) == 3000 - 600 + 3400 + 2000


def test_a_run_by_steps_takes_them_and_lowers_the_rate_in_their_epochs(tmp_path):
    chosen = settings(*TINY, "epochs=2", "steps=30")
    digits = data.load(chosen.data, 0)
    record = rundir.Record(tmp_path)
    done = fit.fit(fit.fresh_network(chosen, digits), digits, chosen, record)
    assert record.values["steps"] == 30 and record.values["epochs"] == 2
    assert [row["lr"] for row in done.history] == pytest.approx([1.0, 0.7])


def test_the_negative_loss_of_the_report(tmp_path):
    _, _, done = trained(tmp_path, "loss=nll_of_logits", "epochs=3")
    running = [row["train_loss_running"] for row in done.history]
    assert running[-1] < running[0] and running[-1] < -1
    assert done.history[-1]["val_loss"] > 0  # scores are cross-entropy, whatever is minimised


def test_epochs_augment_differently_and_repeatably(digits):
    chosen = settings("data=mnist5k", "aug=full")
    first, again, second = (
        torch.cat([images for images, _ in fit.training_batches(digits.train, chosen, epoch)])
        for epoch in (1, 1, 2)
    )
    assert torch.equal(first, again)
    # the same image in two epochs
    position = [data.epoch_order(0, epoch, len(digits.train)).argsort()[0] for epoch in (1, 2)]
    assert not torch.equal(first[position[0]], second[position[1]])


def test_devices_and_precisions():
    assert device.resolve("cpu") == CPU
    assert device.resolve_precision("auto", CPU) == torch.float32
    assert device.resolve_precision("auto", torch.device("cuda")) == torch.bfloat16
    assert device.resolve_precision("float32", torch.device("cuda")) == torch.float32
    assert device.resolve_precision("bfloat16", CPU) == torch.bfloat16


def test_bfloat16_trains_on_a_cpu_too(tmp_path):
    _, _, done = trained(tmp_path, "precision=bfloat16", "epochs=2")
    assert done.history[-1]["train_loss"] < 2.3


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.3, "12 s"), (600, "10 min"), (22_680, "6.3 hours")]
)
def test_durations(seconds, said):
    assert console.duration(seconds) == said


def test_advice_names_what_would_help():
    assert list(fit._advice(settings("model=custom"), on_cpu=True)) == [
        "model.width=0.25 (6% of the work)", "data.fraction=0.25", "epochs=3", "data=mnist5k",
        "a GPU",
    ]  # fmt: skip
    half = next(fit._advice(settings("model=custom", "model.width=0.5"), on_cpu=True))
    assert half == "model.width=0.25 (25% of the work)"
    by_steps = settings("model=fcnet", "data=mnist5k", "steps=4000")
    assert list(fit._advice(by_steps, on_cpu=False)) == ["steps=1000"]
    small = settings("model=fcnet", "data=mnist5k", "epochs=2", "data.fraction=0.1")
    assert list(fit._advice(small, on_cpu=False)) == []


@pytest.mark.parametrize("slow_batch", [1, 2])
def test_an_estimate_and_advice_are_told_once(digits, monkeypatch, caplog, slow_batch):
    clock = iter([0.0, *[5.0] * 9] if slow_batch == 1 else [0.0, 1.0, 1.0, *[6.0] * 9])
    monkeypatch.setattr(fit.time, "perf_counter", lambda: next(clock))
    chosen = settings("model=custom", "data=mnist5k", "epochs=10")
    with caplog.at_level("INFO", "mnistcnn"), fit._Progress(chosen, digits, 27) as progress:
        for _ in range(4):
            progress.on_batch(128)
    # 5 s for 128 images; an epoch is 3,400 images and a third of the 4,000 that are scored
    hours = 5 / 128 * 10 * (3400 + 4000 / 3) / 3600
    assert caplog.messages[0] == f"about {60 * hours:.0f} min for 10 epochs"
    assert "model.width=0.25" in caplog.messages[1] and len(caplog.messages) == 2
