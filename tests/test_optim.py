"""Optimizers and schedules."""

import math

import pytest
import torch

from mnistcnn import optim, startup
from mnistcnn.errors import SettingError

from .conftest import settings

EPOCHS, STEPS = 4, 5


def learning_rates(*overrides: str) -> list[float]:
    """The rate of each of EPOCHS * STEPS batches, and the one after the last."""
    composed = settings("optimizer.lr=0.8", *overrides)
    optimizer = optim.optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    schedule = optim.schedule(composed.scheduler, optimizer, EPOCHS, STEPS)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(EPOCHS * STEPS):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


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


def test_onecycle_peaks_where_the_warmup_ends():
    rates = learning_rates("scheduler=onecycle", "scheduler.warmup=0.3")
    assert max(rates) == pytest.approx(0.8)
    assert rates.index(max(rates)) == round(0.3 * EPOCHS * STEPS) - 1
    assert rates[0] < 0.05 and rates[-2] < 0.001


@pytest.mark.parametrize("scheduler", ["step", "none", "cosine", "onecycle"])
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_takes_every_schedule_and_descends(name, scheduler):
    composed = settings(f"optimizer={name}", f"scheduler={scheduler}")
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = optim.optimizer(composed.optimizer, [weight])
    assert type(optimizer) is startup.eager(optim.OPTIMIZERS[name][1])
    assert optimizer.defaults["lr"] == composed.optimizer.lr
    schedule = optim.schedule(composed.scheduler, optimizer, 2, 10)
    for _ in range(20):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        schedule.step()
    assert abs(weight.item()) < 2.999  # momentum may carry it past 0


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.01), (1, 0.19), (2, 0.1)])
def test_onecycle_without_room_to_warm_up_is_refused(epochs, warmup):
    composed = settings("scheduler=onecycle", f"scheduler.warmup={warmup}")
    optimizer = optim.optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    if epochs * 10 * warmup >= 2:
        optim.schedule(composed.scheduler, optimizer, epochs, 10)
        return
    with pytest.raises(SettingError, match=r"scheduler\.warmup"):
        optim.schedule(composed.scheduler, optimizer, epochs, 10)


def test_settings_reach_the_optimizer():
    composed = settings("optimizer=sgd", "optimizer.momentum=0.3", "optimizer.weight_decay=0.01")
    optimizer = optim.optimizer(composed.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["momentum"] == 0.3
    assert optimizer.defaults["weight_decay"] == 0.01
