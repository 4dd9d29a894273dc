"""The trial of the first steps: what is timed, what is chosen, and what a failure does."""

import pytest
import torch

from mnistcnn import compiled, models
from mnistcnn.compiled import TRIED, TRIED_MODE, WARM_UP, Forward
from mnistcnn.errors import PlainError

from .conftest import settings

IMAGES = torch.zeros(2, 1, 28, 28)


class Clock:
    """Each step takes ``seconds``; compiled ones another number of them."""

    def __init__(self, monkeypatch, seconds: float, when_compiled: float):
        self.now, self.calls = 0.0, {"plain": 0, "compiled": 0}
        self.network = models.build(settings("data=mnist5k").model).eval()
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)

        def compile_(network, mode, dynamic):
            assert (network, mode, dynamic) == (self.plain, TRIED_MODE, False)
            return lambda images: self.step("compiled", when_compiled, images)

        monkeypatch.setattr("torch.compile", compile_)
        self.plain = lambda images: self.step("plain", seconds, images)

    def step(self, way: str, seconds: float, images):
        self.now += seconds
        self.calls[way] += 1
        return self.network(images)

    def train(self, steps: int) -> Forward:
        forward = Forward(self.plain, "auto", steps, torch.device("cuda"))
        expected = self.network(IMAGES)
        for step in range(steps):
            if step == WARM_UP + 3:
                self.now += 1000  # an epoch ends, and is scored
            assert torch.equal(forward(IMAGES), expected)
        return forward


@pytest.mark.parametrize(
    ("seconds", "when_compiled", "chosen"),
    [(1.0, 0.4, TRIED_MODE), (1.0, 1.1, "none"), (0.001, 0.0001, "none")],
)
def test_auto_takes_what_its_own_steps_show(monkeypatch, seconds, when_compiled, chosen):
    clock = Clock(monkeypatch, seconds, when_compiled)
    steps = 200  # at a millisecond each not worth compiling
    assert clock.train(steps).chosen == chosen
    trial = WARM_UP + TRIED
    if chosen == TRIED_MODE:
        assert clock.calls == {"plain": trial, "compiled": steps - trial}
    else:
        compiled_calls = trial if seconds == 1.0 else 0
        assert clock.calls == {"plain": steps - compiled_calls, "compiled": compiled_calls}


def test_auto_off_cuda_is_the_network_itself(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda *a, **k: pytest.fail("compiled"))
    forward = Forward(lambda images: images + 1, "auto", 10**9, torch.device("cpu"))
    assert all(forward(IMAGES).eq(1).all() for _ in range(60)) and forward.chosen == "none"


def test_what_is_asked_for_is_used(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "torch.compile", lambda network, **how: asked.append(how) or (lambda images: images + 2)
    )
    forward = Forward(lambda images: images, "max-autotune", 5, torch.device("cpu"))
    assert forward(IMAGES).eq(2).all() and forward.chosen == "max-autotune"
    assert asked == [{"mode": "max-autotune", "dynamic": False}]


def fails(images):
    raise RuntimeError("no compiler\nfound")


def test_a_mode_that_does_not_work_is_an_error_where_it_was_asked_for(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda network, **how: fails)
    forward = Forward(lambda images: images, "default", 5, torch.device("cpu"))
    with pytest.raises(PlainError, match=r"compile=default .*no compiler found.*compile=none"):
        forward(IMAGES)


def test_and_no_error_where_it_was_not(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 0.1)
    monkeypatch.setattr("torch.compile", lambda network, **how: fails)
    assert clock.train(100).chosen == "none"
    assert clock.calls == {"plain": 100, "compiled": 0}


def test_modes_are_those_of_torch():
    known = {"none", *torch._inductor.list_mode_options()}
    assert set(compiled.MODES) <= known
