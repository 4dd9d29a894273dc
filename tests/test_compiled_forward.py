"""The forward pass in training: compiled by ``torch.compile`` only if the settings ask for it."""

import pytest
import torch

from mnistcnn.config.schema import COMPILE_MODES
from mnistcnn.models.registry import create_model
from mnistcnn.system.errors import MnistcnnError
from mnistcnn.training.compiled_forward import compiled_forward, resolve_compile_mode

from .conftest import settings

IMAGES = torch.zeros(2, 1, 28, 28)


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_auto_and_none_do_not_compile(monkeypatch, mode):
    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("compiled"))
    model = create_model(settings("data=mnist5k").model)
    assert compiled_forward(model, mode) is model
    assert resolve_compile_mode(mode) == "none"


def test_a_mode_is_passed_to_torch_compile(monkeypatch):
    calls = []

    def fake_compile(model, **options):
        calls.append(options)
        return lambda images: images + 2

    monkeypatch.setattr("torch.compile", fake_compile)
    forward = compiled_forward(torch.nn.Identity(), "max-autotune")
    assert forward(IMAGES).eq(2).all() and forward(IMAGES).eq(2).all()
    assert resolve_compile_mode("max-autotune") == "max-autotune"
    assert calls == [{"mode": "max-autotune", "dynamic": False}]


def test_a_mode_that_does_not_work_is_an_error(monkeypatch):
    def fail(images):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr("torch.compile", lambda model, **options: fail)
    forward = compiled_forward(torch.nn.Identity(), "default")
    with pytest.raises(MnistcnnError, match=r"compile=default .*no compiler found.*compile=none"):
        forward(IMAGES)


def test_modes_are_those_of_torch():
    assert set(COMPILE_MODES) <= {"auto", "none", *torch._inductor.list_mode_options()}
