"""Losses, optimizers and learning-rate schedulers."""

import math

import pytest
import torch

from mnistcnn.config.schema import GROUP_SCHEMAS, LOSS_NAMES
from mnistcnn.system.errors import UsageError
from mnistcnn.system.startup import without_dynamo_wrappers
from mnistcnn.training.optim import LOSSES, OPTIMIZERS, build_optimizer, build_scheduler

from .conftest import settings

EPOCHS, STEPS = 4, 5


def learning_rates(*overrides: str) -> list[float]:
    """Return the learning rates of EPOCHS * STEPS batches, and the one after the last batch."""
    composed = settings("optimizer.lr=0.8", *overrides)
    optimizer = build_optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    scheduler = build_scheduler(composed.scheduler, optimizer, EPOCHS, STEPS)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(EPOCHS * STEPS):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_every_loss_and_optimizer_in_the_schema_is_implemented():
    assert LOSSES.keys() == set(LOSS_NAMES)
    assert OPTIMIZERS.keys() == GROUP_SCHEMAS["optimizer"].keys()


def test_step_multiplies_by_gamma_after_each_epoch():
    rates = learning_rates("scheduler=step")
    assert rates[:-1] == pytest.approx([0.8 * 0.7 ** (b // STEPS) for b in range(EPOCHS * STEPS)])
    every_other = learning_rates("scheduler=step", "scheduler.epochs=2", "scheduler.gamma=0.5")
    assert every_other[: EPOCHS * STEPS] == pytest.approx([0.8] * 10 + [0.4] * 10)


def test_none_is_constant():
    assert learning_rates("scheduler=none") == pytest.approx([0.8] * (EPOCHS * STEPS + 1))


def test_cosine_falls_along_half_a_cosine():
    rates = learning_rates("scheduler=cosine", "scheduler.final=0.25")
    total = EPOCHS * STEPS
    expected = [0.2 + 0.6 * (1 + math.cos(math.pi * b / total)) / 2 for b in range(total + 1)]
    assert rates == pytest.approx(expected)


def test_onecycle_peaks_at_the_end_of_the_warmup():
    rates = learning_rates("scheduler=onecycle", "scheduler.warmup=0.3")
    assert max(rates) == pytest.approx(0.8)
    assert rates.index(max(rates)) == round(0.3 * EPOCHS * STEPS) - 1
    assert rates[0] < 0.05 and rates[-2] < 0.001


@pytest.mark.parametrize("scheduler_name", ["step", "none", "cosine", "onecycle"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_with_every_scheduler(name, scheduler_name):
    composed = settings(f"optimizer={name}", f"scheduler={scheduler_name}")
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = build_optimizer(composed.optimizer, [weight])
    assert type(optimizer) is without_dynamo_wrappers(OPTIMIZERS[name])
    assert optimizer.defaults["lr"] == composed.optimizer.lr
    scheduler = build_scheduler(composed.scheduler, optimizer, 2, 10)
    for _ in range(20):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        scheduler.step()
    assert abs(weight.item()) < 2.999  # momentum may carry it past 0


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.01), (1, 0.19), (2, 0.1)])
def test_onecycle_with_a_warmup_below_two_steps_is_refused(epochs, warmup):
    composed = settings("scheduler=onecycle", f"scheduler.warmup={warmup}")
    optimizer = build_optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    if epochs * 10 * warmup >= 2:
        build_scheduler(composed.scheduler, optimizer, epochs, 10)
        return
    with pytest.raises(UsageError, match=r"scheduler\.warmup=\S+ needs a run of at least \d+"):
        build_scheduler(composed.scheduler, optimizer, epochs, 10)


def test_settings_are_passed_to_the_optimizer():
    composed = settings("optimizer=sgd", "optimizer.momentum=0.3", "optimizer.weight_decay=0.01")
    optimizer = build_optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["momentum"] == 0.3
    assert optimizer.defaults["weight_decay"] == 0.01
