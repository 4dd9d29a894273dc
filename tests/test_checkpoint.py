"""Checkpoints: saving and loading, resuming an optimizer, and refusing foreign or corrupt files."""

import hashlib
import io
import os
import pickle
import random
import signal
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mnistcnn.config.load import FORMAT
from mnistcnn.config.schema import OptimizerSettings
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.registry import create_model, create_model_from_dict
from mnistcnn.runs import checkpoint
from mnistcnn.runs.checkpoint import load_checkpoint, save_checkpoint
from mnistcnn.system import atomic_files, signals
from mnistcnn.system.errors import UsageError, WriteError
from mnistcnn.training.flat_parameters import flatten_parameters
from mnistcnn.training.optim import build_optimizer

from .conftest import same_weights, settings

FOREIGN = "is not a checkpoint of mnistcnn, or is truncated"
FORGED = "has a valid SHA-256 but is not a checkpoint of mnistcnn"
MAX_OVERHEAD = 64 * 1024  # bytes in addition to weights and optimizer state


@pytest.fixture
def saved(tmp_path) -> tuple[Path, Classifier]:
    """Return a checkpoint file and the model in it."""
    model_settings = settings("model.channels=[4,4]").model
    model = create_model(model_settings)
    model.set_normalization(0.13, 0.31)
    path = tmp_path / "best.pt"
    save_checkpoint(
        path, model.state_dict(), model_settings, "float32", "seed: 0\n", epoch=7, step=70
    )
    return path, model


def with_seal(content: bytes) -> bytes:
    """Return ``content`` with a valid format and SHA-256, as in a forged file."""
    if not content.endswith(b"\0\0"):  # the length of the comment of a zip archive without one
        content += b"\0\0"
    stream = io.BytesIO()
    sealed = checkpoint._SealedFile(stream)
    sealed.write(content)
    sealed.finish()
    return stream.getvalue()


def forged_checkpoint(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return with_seal(stream.getvalue())


def test_load_returns_what_was_saved(saved):
    path, model = saved
    loaded = load_checkpoint(path)
    assert same_weights(loaded.model.state_dict(), model.state_dict())
    assert (loaded.config, loaded.epoch, loaded.step) == ("seed: 0\n", 7, 70)
    assert loaded.training is None and not loaded.model.training
    assert all(p.requires_grad for p in loaded.model.parameters())
    assert list(path.parent.iterdir()) == [path]


def test_torch_can_load_a_checkpoint(saved):
    path, model = saved
    state = torch.load(path, weights_only=True)
    assert same_weights(state["weights"], model.state_dict())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"mnistcnn checkpoint %06d sha256 " % FORMAT)


def test_loading_uses_no_random_numbers(saved):
    path, _ = saved
    state = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_failed_save_keeps_the_previous_file(saved, monkeypatch):
    path, model = saved
    content = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic_files.os, "fsync", fail)
    with pytest.raises(WriteError, match="disk full"):
        save_checkpoint(
            path, model.state_dict(), settings("model.channels=[4,4]").model, "float32", "", 8, 80
        )
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_stop_signal_while_a_checkpoint_is_written_is_raised_after_it(saved, monkeypatch):
    path, model = saved
    append = checkpoint._SealedFile._append

    def stop_and_append(self, content) -> None:
        if len(content) > 10_000:  # the weights, which torch writes at once
            os.kill(os.getpid(), signal.SIGTERM)
        append(self, content)

    monkeypatch.setattr(checkpoint._SealedFile, "_append", stop_and_append)
    monkeypatch.setattr(signals, "_handler", signals._StopHandler())
    previous = signal.signal(signal.SIGTERM, signals._handler)
    weights, model_settings = model.state_dict(), settings("model.channels=[4,4]").model
    try:
        with pytest.raises(signals.Stopped):
            save_checkpoint(path, weights, model_settings, "float32", "", 8, 80)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert load_checkpoint(path).step == 80


# Optimizer state ---------------------------------------------------------------------------------

OPTIMIZERS = ["adadelta", "adam", "adamax", "adamw", "rmsprop", "sgd"]


def optimizer_after_three_steps(
    model: Classifier, optimizer_settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Return the optimizer of the model's flat parameters."""
    parts = flatten_parameters(model)
    optimizer = build_optimizer(optimizer_settings, parts)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for part in parts:
            part.grad.normal_(generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [False, True])
def test_restored_optimizer_takes_identical_steps(tmp_path, name, momentum):
    if momentum and name not in ("rmsprop", "sgd"):
        pytest.skip("the optimizer has no momentum setting")
    run_settings = settings(
        "model=custom",
        "model.width=0.02",
        f"optimizer={name}",
        *(["optimizer.momentum=0.9"] if momentum else []),
    )
    model = create_model(run_settings.model)
    optimizer = optimizer_after_three_steps(model, run_settings.optimizer)
    training = {"optimizer": optimizer.state_dict()}
    save_checkpoint(
        tmp_path / "last.pt", model.state_dict(), run_settings.model, "float32", "", 1, 3, training
    )

    loaded = load_checkpoint(tmp_path / "last.pt")
    restored_model = create_model(run_settings.model)
    restored = build_optimizer(run_settings.optimizer, flatten_parameters(restored_model))
    restored_model.load_state_dict(loaded.model.state_dict())
    restored.load_state_dict(loaded.training["optimizer"])
    (expected,) = optimizer.state_dict()["state"].values() or [{}]
    (actual,) = restored.state_dict()["state"].values() or [{}]
    assert same_weights(actual, expected)
    assert restored.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for each in (optimizer, restored):
        for part in each.param_groups[0]["params"]:
            part.grad.fill_(1)
    optimizer.step()
    restored.step()
    assert same_weights(restored_model.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["convnet", "custom", "fcnet", "resnet50", "vgg16"])
def test_checkpoint_is_hardly_larger_than_weights_and_optimizer_state(tmp_path, name):
    width = [] if name in ("convnet", "fcnet") else ["model.width=0.1"]
    run_settings = settings(f"model={name}", *width, "optimizer=adam")
    model = create_model(run_settings.model)
    optimizer = optimizer_after_three_steps(model, run_settings.optimizer)

    def size(state: dict) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())

    weights_size = size(model.state_dict())
    optimizer_size = sum(size(state) for state in optimizer.state_dict()["state"].values())
    assert optimizer_size > 1.9 * 4 * model.trained_parameter_count()
    best, last = tmp_path / "best.pt", tmp_path / "last.pt"
    training = {
        "optimizer": optimizer.state_dict(),
        "generators": {"cpu": torch.get_rng_state()},
    }
    save_checkpoint(best, model.state_dict(), run_settings.model, "float32", "x" * 2000, 1, 3)
    save_checkpoint(
        last, model.state_dict(), run_settings.model, "float32", "x" * 2000, 1, 3, training
    )
    assert weights_size < best.stat().st_size < weights_size + MAX_OVERHEAD
    total_size = weights_size + optimizer_size
    assert total_size < last.stat().st_size < total_size + MAX_OVERHEAD


# Files that are refused --------------------------------------------------------------------------


class MakeDirectory:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("saved_with", ["pickle", "torch", "torch, as weights"])
def test_code_in_a_file_is_not_run(tmp_path, forged, saved_with):
    created, path = tmp_path / "created", tmp_path / "best.pt"
    code = MakeDirectory(created)
    if saved_with == "pickle":
        content = pickle.dumps(code)
    else:
        stream = io.BytesIO()
        torch.save(code if saved_with == "torch" else {"weights": code}, stream)
        content = stream.getvalue()
    path.write_bytes(with_seal(content) if forged else content)
    with pytest.raises(UsageError, match=FORGED if forged else FOREIGN):
        load_checkpoint(path)
    assert not created.exists()
    pickle.loads(pickle.dumps(code))
    assert created.exists()  # the code does run if it is unpickled


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a checkpoint", bytes(100_000), pickle.dumps({"format": 1})]
)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "foreign.pt").write_bytes(content)
    with pytest.raises(UsageError, match=FOREIGN):
        load_checkpoint(tmp_path / "foreign.pt")


def test_checkpoints_of_other_programs_are_refused(tmp_path):
    torch.save({"state_dict": create_model(settings().model).state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=FOREIGN):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("number", [FORMAT + 1, FORMAT - 1])
def test_other_formats_are_refused(saved, number):
    path, _ = saved
    content = path.read_bytes()
    old, new = b"checkpoint %06d" % FORMAT, b"checkpoint %06d" % number
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(UsageError) as refusal:
        load_checkpoint(path)
    assert str(refusal.value) == (
        f"{path} was written by another version of mnistcnn "
        f"(format {number}; this version reads format {FORMAT})"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "alexnet"}},
        {"model": {"name": "fcnet"}},
        {"model": {"name": "fcnet", "hidden": 20, "dropout": 0.5}},  # has other weights
        {"model": {"name": "fcnet", "hidden": 10**12, "dropout": 0.5}},
        {"model": []},
        {"weights": {}},
        {"weights": [1, 2]},
        {"weights": None},
        {"epoch": "seven"},
        {"training": ...},  # removed
    ],
    ids=str,
)
def test_forged_contents_are_refused(saved, change):
    path, _ = saved
    state = torch.load(path, weights_only=True) | change
    if state["training"] is ...:
        del state["training"]
    path.write_bytes(forged_checkpoint(state))
    with pytest.raises(UsageError, match=FORGED):
        load_checkpoint(path)


def test_expanded_weights_are_refused(saved):
    """An expanded tensor is one number in the file, but may need any amount of memory."""
    path, _ = saved
    state = torch.load(path, weights_only=True)
    state["model"] = {"name": "fcnet", "hidden": 65_536, "dropout": 0.5}
    small_model = create_model_from_dict(state["model"] | {"hidden": 16})
    state["weights"] = {
        name: torch.zeros(()).expand([65_536 if n == 16 else n for n in tensor.shape])
        for name, tensor in small_model.state_dict().items()
    }
    path.write_bytes(forged_checkpoint(state))
    assert path.stat().st_size < 10_000
    with pytest.raises(UsageError, match="has an unexpected dtype or layout"):
        load_checkpoint(path)


def test_decompression_bomb_is_not_unpacked(saved):
    path, _ = saved
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
        with bomb.open("best/data/1", "w") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
    path.write_bytes(with_seal(stream.getvalue()))
    assert path.stat().st_size < 300_000
    with pytest.raises(UsageError, match="compressed, which checkpoints never are"):
        load_checkpoint(path)


def test_paths_that_are_not_files_are_refused(saved):
    path, _ = saved
    loop, pipe = path.with_name("loop.pt"), path.with_name("pipe.pt")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for other, message in [
        (path.parent, "is not a file"),
        (pipe, "is not a file"),  # opening it would wait for a writer
        (loop, "symbolic links"),
        (path.with_name("nowhere.pt"), "No such file"),
        (path / "below.pt", "Not a directory"),
    ]:
        with pytest.raises(UsageError, match=message):
            load_checkpoint(other)


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield up to ``count`` corrupt copies.

    In turn: a bit flipped (twice), a range zeroed, removed or repeated, the file truncated.
    """
    rng = random.Random(seed)
    for number in range(count):
        start = rng.randrange(len(content))
        length = min(len(content) - start, 1 + rng.randrange(2000))
        corrupt = bytearray(content)
        match number % 6:
            case 0 | 1:
                corrupt[start] ^= 1 << rng.randrange(8)
            case 2:
                corrupt[start : start + length] = bytes(length)
            case 3:
                del corrupt[start : start + length]
            case 4:
                corrupt[start:start] = corrupt[start : start + length]
            case 5:
                del corrupt[start:]
        if corrupt != content:
            yield bytes(corrupt)


def test_corrupt_checkpoints_are_refused(saved):
    """Each of 600 is refused with a message of one or two lines."""
    path, _ = saved
    refused = 0
    for corrupt in mutations(path.read_bytes(), 600):
        path.write_bytes(corrupt)
        with pytest.raises(UsageError) as refusal:
            load_checkpoint(path)
        assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2
        refused += 1
    assert refused > 550


def without_seal(content: bytes) -> bytes:
    return content[: -checkpoint.SEAL_LENGTH - checkpoint.COMMENT_LENGTH_BYTES]


def test_corrupt_checkpoints_with_a_valid_sha256_are_refused_or_loaded(saved):
    """Only forged files are like this: either a one-line error or a model, never a crash."""
    path, _ = saved
    content = without_seal(path.read_bytes()) + struct.pack("<H", 0)
    for corrupt in mutations(content, 300, seed=1):
        path.write_bytes(with_seal(corrupt))
        try:
            assert isinstance(load_checkpoint(path).model, Classifier)
        except UsageError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017  refusing it is optional


def test_sha256_covers_everything_before_the_seal(saved):
    path, _ = saved
    content = path.read_bytes()
    assert content.endswith(hashlib.sha256(without_seal(content)).hexdigest().encode())
