"""The precision of a run: its choice, and how it is recorded, resumed and compared."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mnistcnn import evaluate, train
from mnistcnn.config.load import read_settings
from mnistcnn.data.batches import to_float
from mnistcnn.evaluation.evaluate_run import evaluate_run
from mnistcnn.experiments.groups import group_runs, varying_keys
from mnistcnn.experiments.pairing import Collection, pair_groups
from mnistcnn.experiments.sweep_file import record_sweep, sort_as_typed
from mnistcnn.kernels.loader import load_library
from mnistcnn.kernels.selection import NOT_BUILT
from mnistcnn.models import precision
from mnistcnn.models.precision import select_precision
from mnistcnn.models.registry import create_model
from mnistcnn.runs.directory import CONFIG, HISTORY, LAST, METRICS
from mnistcnn.runs.identity import config_sha256
from mnistcnn.runs.store import find_runs
from mnistcnn.system import devices
from mnistcnn.system.errors import SettingError
from mnistcnn.training.train_run import train_run

from .conftest import TINY, evaluate_settings, settings
from .synthetic_runs import make_run, write_summary

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
LARGE = ["model=custom", "model.width=0.25"]


@pytest.fixture
def arithmetic(monkeypatch):
    """Set whether the processor has bfloat16 arithmetic."""

    def set_arithmetic(available: bool) -> None:
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda: available)

    set_arithmetic(True)
    return set_arithmetic


# The choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=custom"], BFLOAT16),
        (LARGE, BFLOAT16),
        (["model=custom", "model.width=0.0625"], FLOAT32),
        (["model=vgg16"], BFLOAT16),
        (["model=vgg16", "model.width=0.0625"], FLOAT32),
        (["model=resnet50"], FLOAT32),
        (["model=fcnet"], FLOAT32),
        (["model=convnet"], FLOAT32),
        (["model=convnet", "model.channels=[256,256]"], FLOAT32),
        (["model=convnet", "model.channels=[256,256]", "model.batch_norm=after_relu"], BFLOAT16),
    ],
)
def test_auto_depends_on_the_size_of_the_layers(arithmetic, overrides, expected):
    model = create_model(settings(*overrides).model)
    before = torch.get_rng_state()
    assert select_precision(model, "auto") == str(expected).removeprefix("torch.")
    assert model.precision == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_auto_is_float32_on_a_processor_without_bfloat16(arithmetic, caplog):
    arithmetic(False)
    model = create_model(settings(*LARGE).model)
    assert select_precision(model, "auto") == "float32"
    assert caplog.text == ""
    assert select_precision(model, "bfloat16") == "bfloat16"
    assert "precision=bfloat16 may be slow" in caplog.text


def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch):
    """Of two GPUs, only the second one has arithmetic for bfloat16."""
    current = []

    @contextlib.contextmanager
    def select(device: torch.device):
        current[:] = [device.index]
        yield

    monkeypatch.setattr(torch.cuda, "device", select)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current == [1])
    for index, available in ((0, False), (1, True)):
        device = torch.device("cuda", index)
        assert devices.has_bfloat16_arithmetic(device) == available
        assert devices.supports_bfloat16(device)


def test_a_device_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "supports_bfloat16", lambda device: False)
    model = create_model(settings("model=fcnet").model)
    assert select_precision(model, "auto") == "float32"
    with pytest.raises(SettingError, match=r"precision=bfloat16.*auto or float32 on this device"):
        select_precision(model, "bfloat16")


def test_the_precision_is_that_of_the_convolutions_and_not_of_the_weights():
    model = create_model(settings("model=convnet", "kernels=torch").model)
    select_precision(model, "bfloat16")
    dtypes = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    logits = model(to_float(torch.zeros(2, 28, 28, dtype=torch.uint8)))
    assert dtypes == [BFLOAT16, BFLOAT16] and logits.dtype == BFLOAT16
    assert {parameter.dtype for parameter in model.parameters()} == {FLOAT32}


# A run -------------------------------------------------------------------------------------------


@pytest.fixture
def bfloat16_for_all(monkeypatch):
    """Let ``precision=auto`` be bfloat16 for every network."""
    monkeypatch.setattr(precision, "_is_faster_in_bfloat16", lambda model: True)


def test_a_run_records_the_precision_and_keeps_the_setting(tmp_path, bfloat16_for_all):
    metrics = train_run(settings(*TINY), tmp_path / "run")
    assert (metrics["precision"], metrics["kernels"]) == ("bfloat16", "torch")
    stored = read_settings((tmp_path / "run" / CONFIG).read_text(), CONFIG)
    assert stored.precision == "auto"
    assert metrics["config_sha256"] == config_sha256(settings(*TINY))


@pytest.mark.parametrize("trained", ["bfloat16", "float32"])
def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch, trained):
    def choose(name: str) -> None:
        monkeypatch.setattr(precision, "_is_faster_in_bfloat16", lambda model: name == "bfloat16")

    choose(trained)
    expected = train_run(settings(*TINY, "epochs=2"), tmp_path / "uninterrupted")
    train_run(settings(*TINY), tmp_path / "run")
    choose("float32" if trained == "bfloat16" else "bfloat16")
    metrics = train_run(settings(*TINY, "epochs=2"), tmp_path / "run", resume=True)
    assert metrics["precision"] == trained
    assert metrics["test"] == expected["test"]
    last = [(tmp_path / name / LAST).read_bytes() for name in ("run", "uninterrupted")]
    assert last[0] == last[1]


def test_a_run_in_bfloat16_is_not_resumed_on_a_device_without_it(
    tmp_path, bfloat16_for_all, command, monkeypatch
):
    run_dir = tmp_path / "run"
    train_run(settings(*TINY), run_dir)
    before = (run_dir / HISTORY).read_bytes(), (run_dir / METRICS).read_bytes()
    monkeypatch.setattr("mnistcnn.training.train_run.supports_bfloat16", lambda device: False)
    code, _, err = command(train.main, f"resume={run_dir}", "epochs=2")
    assert code == 2
    assert err == (
        f"mnistcnn: {run_dir} was trained with precision=bfloat16, which cpu does not have: "
        "choose another device\n"
    )
    assert before == ((run_dir / HISTORY).read_bytes(), (run_dir / METRICS).read_bytes())


def test_an_evaluation_keeps_the_precision_of_the_run(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(precision, "_is_faster_in_bfloat16", lambda model: True)
        trained = train_run(settings(*TINY), tmp_path / "run")
    options = [tmp_path / "run", "tsne.samples=20"]
    same = evaluate_run(evaluate_settings(*options), tmp_path / "same")
    assert same["precision"] == "bfloat16" and same["test"] == trained["test"]
    other = evaluate_run(evaluate_settings(*options, "precision=auto"), tmp_path / "other")
    assert other["precision"] == "float32"


# The C kernels, which compute in float32 ---------------------------------------------------------


def test_kernels_native_is_ignored_by_a_network_that_has_no_block(tmp_path, arithmetic):
    overrides = ["model=custom", "model.width=0.2", "data.fraction=0.02", "kernels=native"]
    metrics = train_run(settings(*TINY, *overrides), tmp_path / "run")
    assert (metrics["precision"], metrics["kernels"]) == ("bfloat16", "torch")


@pytest.mark.skipif(load_library() is None, reason=NOT_BUILT)
def test_a_run_in_bfloat16_cannot_be_resumed_with_the_c_kernels(
    tmp_path, bfloat16_for_all, command
):
    run_dir = tmp_path / "run"
    train_run(settings(*TINY), run_dir)
    before = (run_dir / METRICS).read_bytes()
    code, _, err = command(train.main, f"resume={run_dir}", "epochs=2", "kernels=native")
    assert code == 2
    assert err == (
        "mnistcnn: kernels=native is not allowed: it must be auto or torch: precision=bfloat16\n"
    )
    assert (run_dir / METRICS).read_bytes() == before
    code, _, err = command(evaluate.main, f"ckpt={run_dir}", "kernels=native")
    assert code == 2 and "precision=bfloat16" in err


# Tables ------------------------------------------------------------------------------------------


def collection(path: Path) -> Collection:
    return Collection(path, path.name, find_runs(path), {})


def test_groups_of_different_precisions_are_told_apart(tmp_path):
    runs = [
        make_run(tmp_path / f"{name}-{seed}", f"seed={seed}", precision=name)
        for name in ("bfloat16", "float32")
        for seed in (0, 1)
    ]
    groups = group_runs(runs)
    assert [group.settings["precision"] for group in groups] == ["bfloat16", "float32"]
    assert [group.seeds for group in groups] == [[0, 1], [0, 1]]
    assert varying_keys(runs) == ["seed", "precision"]
    text = write_summary(tmp_path)
    assert "bfloat16" in text and "float32" in text


def test_a_run_that_did_not_begin_shows_no_other_precision(tmp_path):
    runs = [
        make_run(tmp_path / "complete", precision="bfloat16"),
        make_run(tmp_path / "failed", "seed=1", status="failed", precision="auto"),
        make_run(tmp_path / "killed", "seed=2", status="interrupted", precision="auto"),
    ]
    assert varying_keys(runs) == ["seed"]


def test_a_precision_that_the_network_decides_is_not_shown(tmp_path):
    runs = [
        make_run(tmp_path / "convnet", "model=convnet", precision="float32"),
        make_run(tmp_path / "custom", "model=custom", precision="bfloat16"),
    ]
    assert varying_keys(runs) == ["optimizer.name", "model.name"]


def test_groups_of_a_sweep_over_the_precision_are_in_the_order_as_typed(tmp_path):
    jobs = [settings(f"precision={name}") for name in ("float32", "auto")]
    record_sweep(tmp_path, ["python"], ["precision"], jobs)
    for name, chosen in (("auto", "bfloat16"), ("float32", "float32")):
        make_run(tmp_path / name, f"precision={name}", precision=chosen)
    runs = sort_as_typed(find_runs(tmp_path), tmp_path)
    assert [run.settings["precision"] for run in runs] == ["float32", "bfloat16"]


def test_the_same_command_on_two_devices_is_compared(tmp_path):
    for device, chosen in (("cpu", "float32"), ("gpu", "bfloat16")):
        for seed in (0, 1):
            path = tmp_path / device
            make_run(path / f"convnet-{seed}", f"seed={seed}", precision=chosen)
            make_run(path / f"custom-{seed}", "model=custom", f"seed={seed}", precision="bfloat16")
    collections = [collection(tmp_path / name) for name in ("cpu", "gpu")]
    pairing = pair_groups(collections, None)
    pairs = [(pair.a.settings, pair.b.settings) for pair in pairing.pairs]
    assert [(a["model.name"], b["model.name"]) for a, b in pairs] == [
        ("convnet", "convnet"),
        ("custom", "custom"),
    ]
    assert [(a["precision"], b["precision"]) for a, b in pairs] == [
        ("float32", "bfloat16"),
        ("bfloat16", "bfloat16"),
    ]


def test_a_directory_with_both_precisions_is_compared_by_the_precision(tmp_path):
    for device in ("first", "second"):
        for chosen in ("float32", "bfloat16"):
            make_run(tmp_path / device / chosen, precision=chosen)
    collections = [collection(tmp_path / name) for name in ("first", "second")]
    pairing = pair_groups(collections, None)
    assert len(pairing.pairs) == 2
    for pair in pairing.pairs:
        assert pair.a.settings["precision"] == pair.b.settings["precision"]


def test_a_run_and_one_with_the_precision_typed_are_one_group(tmp_path):
    runs = [
        make_run(tmp_path / "typed", "precision=bfloat16", precision="bfloat16"),
        make_run(tmp_path / "auto", "seed=1", precision="bfloat16"),
    ]
    assert [group.seeds for group in group_runs(runs)] == [[0, 1]]
    assert json.loads((tmp_path / "auto" / METRICS).read_text())["precision"] == "bfloat16"
