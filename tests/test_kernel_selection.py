"""Which kernels a run uses: those that are set, available, or used before a resume."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from mnistcnn import evaluate, train
from mnistcnn.kernels import loader, selection
from mnistcnn.kernels.conv_block import conv_blocks
from mnistcnn.kernels.loader import instruction_set, load_library
from mnistcnn.kernels.selection import NOT_BUILT, check_kernels, select_kernels
from mnistcnn.models.registry import create_model
from mnistcnn.runs.checkpoint import load_checkpoint
from mnistcnn.runs.directory import BEST, CONFIG, LAST, LOG, METRICS, PREDICTIONS
from mnistcnn.runs.identity import config_sha256
from mnistcnn.system import signals
from mnistcnn.system.errors import SettingError
from mnistcnn.training import trainer
from mnistcnn.training.step import training_step
from mnistcnn.training.train_run import train_run

from .conftest import TINY, same_weights, settings

CPU = torch.device("cpu")
needs_library = pytest.mark.skipif(load_library() is None, reason=NOT_BUILT)
RUN = [*TINY, "device=cpu", "pictures=false", "epochs=3", "aug=full"]


def read_metrics(run_dir: Path) -> dict:
    return json.loads((run_dir / METRICS).read_text())


@pytest.fixture
def no_library(monkeypatch) -> None:
    monkeypatch.setattr(selection, "load_library", lambda: None)


# Selection ---------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize(
    ("setting", "precision", "compile_mode", "expected"),
    [
        ("auto", "auto", "auto", "native"),
        ("auto", "float32", "none", "native"),
        ("native", "float32", "auto", "native"),
        ("auto", "bfloat16", "none", "torch"),
        ("auto", "float32", "default", "torch"),
        ("auto", "float32", "max-autotune", "torch"),
        ("torch", "float32", "none", "torch"),
    ],
)
def test_the_kernels_of_a_model_on_the_cpu(setting, precision, compile_mode, expected):
    model = create_model(settings().model)
    assert select_kernels(model, setting, precision, compile_mode) == expected
    assert [block.native for block in conv_blocks(model)] == [expected == "native"] * 2
    assert select_kernels(model, "torch", precision, compile_mode) == "torch"
    assert not any(block.native for block in conv_blocks(model))


@pytest.mark.parametrize("model", ["fcnet", "vgg16", "convnet"])
def test_a_model_without_blocks_is_computed_by_torch(model, caplog):
    overrides = {"vgg16": ["model.width=0.02"], "convnet": ["model.batch_norm=after_relu"]}
    created = create_model(settings(f"model={model}", *overrides.get(model, [])).model)
    with caplog.at_level("INFO"):
        assert select_kernels(created, "auto", "float32", "none") == "torch"
    assert caplog.text == ""


def test_the_cpu_is_required():
    with pytest.raises(SettingError, match="the device is cuda"):
        check_kernels("native", torch.device("cuda"), "float32", "none")
    check_kernels("auto", torch.device("cuda"), "float32", "none")


@pytest.mark.parametrize("override", ["precision=bfloat16", "compile=default"])
def test_native_kernels_are_refused_with_other_settings(command, tmp_path, override):
    code, out, err = command(train.main, *RUN, "kernels=native", override)
    assert (code, out) == (2, "")
    assert err == (
        f"mnistcnn: kernels=native is not allowed: it must be auto or torch: {override}\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("main", [train.main, evaluate.main])
def test_native_kernels_are_refused_without_the_library(command, tmp_path, main):
    arguments = RUN if main is train.main else ["ckpt=run"]
    code, out, err = command(main, *arguments, "device=cpu", "kernels=native")
    assert (code, out) == (2, "")
    assert err == (
        f"mnistcnn: kernels=native is not allowed: it must be auto or torch: {NOT_BUILT}\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_library")
def test_without_the_library_a_run_says_that_torch_computes(command, tmp_path):
    code, out, err = command(train.main, *RUN, "epochs=1", "hydra.run.dir=run")
    assert (code, err) == (0, "") and out.count(NOT_BUILT) == 1
    assert (
        f"kernels=torch: {NOT_BUILT}" in out and "on cpu, precision=float32, kernels=torch" in out
    )
    assert read_metrics(tmp_path / "run")["kernels"] == "torch"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("AVX512", "avx512"), ("AVX2", "avx2"), ("NO AVX", None), ("DEFAULT", None)],
)
def test_the_variant_is_one_that_the_processor_supports(monkeypatch, capability, expected):
    monkeypatch.setattr(loader.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert instruction_set() == expected


def test_equal_runs_may_have_other_kernels():
    hashes = {config_sha256(settings(f"kernels={each}")) for each in ("auto", "torch", "native")}
    assert len(hashes) == 1


# Resuming ----------------------------------------------------------------------------------------

STEPS = 8  # of six batches per epoch


def interrupted_run(run_dir: Path, *overrides: str) -> Path:
    """Return a run that was stopped in its second epoch, after STEPS steps."""
    batches = 0

    def step(*arguments) -> None:
        nonlocal batches
        batches += 1
        if batches > STEPS:
            raise signals.Stopped(signals.signal.SIGTERM)
        training_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "training_step", step)
        with pytest.raises(signals.Stopped):
            train_run(settings(*RUN, *overrides), run_dir)
    assert load_checkpoint(run_dir / LAST).step == STEPS
    return run_dir


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, Path]:
    """Return a run with torch's kernels and one with the C kernels, neither set explicitly."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_run(settings(*RUN), folder / "native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "load_library", lambda: None)
        train_run(settings(*RUN), folder / "torch")
    return {name: folder / name for name in ("native", "torch")}


def assert_same_results(run_dir: Path, expected: Path) -> None:
    for name in (LAST, BEST, PREDICTIONS):
        assert (run_dir / name).read_bytes() == (expected / name).read_bytes()


@needs_library
def test_the_two_kernels_round_differently(uninterrupted):
    weights = [load_checkpoint(each / LAST).model.state_dict() for each in uninterrupted.values()]
    assert not same_weights(*weights)


@needs_library
def test_a_run_of_the_c_kernels_is_resumed_with_them(command, tmp_path, uninterrupted):
    run_dir = interrupted_run(tmp_path / "run")
    assert read_metrics(run_dir)["kernels"] == "native"
    code, out, err = command(train.main, f"resume={run_dir}")
    assert (code, err) == (0, "") and "on cpu, precision=float32, kernels=native" in out
    assert_same_results(run_dir, uninterrupted["native"])


@needs_library
def test_a_run_of_torch_is_resumed_with_torch(command, monkeypatch, tmp_path, uninterrupted):
    with monkeypatch.context() as patch:
        patch.setattr(selection, "load_library", lambda: None)
        run_dir = interrupted_run(tmp_path / "run")
    code, out, err = command(train.main, f"resume={run_dir}", "kernels=auto")
    assert (code, err) == (0, "") and "on cpu, precision=float32, kernels=torch" in out
    assert_same_results(run_dir, uninterrupted["torch"])


@needs_library
def test_a_run_that_is_killed_in_its_first_epoch_keeps_its_kernels(monkeypatch, tmp_path):
    """Also if it is killed again before the end of an epoch."""
    run_dir = tmp_path / "run"
    monkeypatch.setattr(selection, "load_library", lambda: None)
    kernels = []

    def read(*_) -> None:  # what metrics.json would say if the process were killed here
        kernels.append(read_metrics(run_dir)["kernels"])
        raise signals.Stopped(signals.signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "_run_epoch", read)
    with pytest.raises(signals.Stopped):
        train_run(settings(*RUN), run_dir)
    monkeypatch.undo()
    monkeypatch.setattr("mnistcnn.training.train_run.load_splits", read)
    with pytest.raises(signals.Stopped):
        train_run(settings(*RUN), run_dir, resume=True)
    assert kernels == ["torch", "torch"]


@needs_library
def test_without_the_library_a_run_of_the_c_kernels_is_not_resumed(command, monkeypatch, tmp_path):
    run_dir = interrupted_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    monkeypatch.setattr(selection, "load_library", lambda: None)
    code, _, err = command(train.main, f"resume={run_dir}")
    assert code == 2
    reason, _, typed = err.rstrip("\n").partition(". To resume it with torch: ")
    assert reason == f"mnistcnn: {run_dir} was trained with kernels=native, but {NOT_BUILT}"
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before
    python, option, module, *arguments = shlex.split(typed)
    assert (python, option, module) == ("python", "-m", "mnistcnn.train")
    code, out, err = command(train.main, *arguments)
    assert (code, err) == (0, "") and "on cpu, precision=float32, kernels=torch" in out
    metrics = read_metrics(run_dir)
    assert (metrics["status"], metrics["kernels"]) == ("finished", "torch")
    assert "\nkernels: torch" in (run_dir / CONFIG).read_text()


@needs_library
@pytest.mark.parametrize(("first", "second"), [("torch", "native"), ("native", "torch")])
def test_kernels_that_are_typed_are_used(command, tmp_path, first, second):
    run_dir = interrupted_run(tmp_path / "run", f"kernels={first}")
    assert read_metrics(run_dir)["kernels"] == first
    assert command(train.main, f"resume={run_dir}", f"kernels={second}")[0] == 0
    assert read_metrics(run_dir)["kernels"] == second
    lines = [line for line in (run_dir / LOG).read_text().splitlines() if "parameters on" in line]
    assert [line.rpartition("=")[2] for line in lines] == [first, second]


@needs_library
def test_an_evaluation_that_cannot_use_the_c_kernels_creates_no_directory(
    command, tmp_path, uninterrupted
):
    arguments = [f"ckpt={uninterrupted['native']}", f"hydra.run.dir={tmp_path / 'new'}"]
    code, _, err = command(evaluate.main, *arguments, "kernels=native", "precision=bfloat16")
    assert code == 2 and "kernels=native is not allowed: it must be auto or torch" in err
    assert not (tmp_path / "new").exists()
