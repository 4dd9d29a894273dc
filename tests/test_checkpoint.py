"""Checkpoints: what comes back, and what is refused."""

import hashlib
import io
import os
import pickle
import random
import struct
import zipfile

import pytest
import torch

from mnistcnn import checkpoint, files, models, optim
from mnistcnn.errors import UsageError, WriteError

from .conftest import same_weights, settings

FOREIGN = "is not a checkpoint of mnistcnn, or has lost its end"
FORGED = "has the seal of a checkpoint of mnistcnn and is none"
OVERHEAD = 64 * 1024  # bytes that a checkpoint may take beside weights and optimizer state


@pytest.fixture
def saved(tmp_path):
    chosen = settings("model.channels=[4,4]")
    network = models.build(chosen.model)
    network.normalise_by(0.13, 0.31)
    path = tmp_path / "best.pt"
    checkpoint.save(path, network, chosen.model, "seed: 0\n", epoch=7, step=70)
    return path, network


def seal(content: bytes) -> bytes:
    """What a forger does: ``content`` with a whole seal."""
    if not content.endswith(b"\0\0"):  # of a zip archive: the length of its comment
        content += b"\0\0"
    stream = io.BytesIO(content)
    checkpoint._seal(stream)
    return stream.getvalue()


def sealed(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return seal(stream.getvalue())


def test_what_was_saved_comes_back(saved):
    path, network = saved
    loaded = checkpoint.load(path)
    assert same_weights(loaded.network.state_dict(), network.state_dict())
    assert (loaded.config, loaded.epoch, loaded.step) == ("seed: 0\n", 7, 70)
    assert loaded.training is None and not loaded.network.training
    assert all(p.requires_grad for p in loaded.network.parameters())
    assert os.listdir(path.parent) == ["best.pt"]


def test_torch_reads_it_too(saved):
    path, network = saved
    state = torch.load(path, weights_only=True)
    assert same_weights(state["weights"], network.state_dict())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"mnistcnn checkpoint 000002 sha256 ")


def test_loading_draws_no_random_number(saved):
    before = torch.get_rng_state()
    checkpoint.load(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_failed_save_keeps_the_one_before(saved, monkeypatch):
    path, network = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(WriteError, match="disk full"):
        checkpoint.save(path, network, settings("model.channels=[4,4]").model, "", 8, 80)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["best.pt"]


# The optimizer -----------------------------------------------------------------------------------

OPTIMIZERS = ["adadelta", "adam", "adamax", "adamw", "rmsprop", "sgd"]


def stepped(network: models.Classifier, chosen: optim.OptimizerSettings) -> torch.optim.Optimizer:
    optimizer = optim.optimizer(chosen, network.parameters())
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter).normal_(generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [False, True])
def test_an_optimizer_goes_on_to_the_bit(tmp_path, name, momentum):
    if momentum and name not in ("rmsprop", "sgd"):
        pytest.skip("has none to set")
    chosen = settings(
        "model=custom", "model.width=0.02", f"optimizer={name}",
        *(["optimizer.momentum=0.9"] if momentum else []),
    )  # fmt: skip
    network = models.build(chosen.model).to(memory_format=torch.channels_last)
    optimizer = stepped(network, chosen.optimizer)
    training = {"optimizer": checkpoint.optimizer_state(optimizer)}
    checkpoint.save(tmp_path / "last.pt", network, chosen.model, "", 1, 3, training)

    loaded = checkpoint.load(tmp_path / "last.pt")
    again = models.build(chosen.model).to(memory_format=torch.channels_last)
    again.load_state_dict(loaded.network.state_dict())
    other = optim.optimizer(chosen.optimizer, again.parameters())
    checkpoint.restore_optimizer(other, loaded.training["optimizer"])
    for one, two in zip(
        optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        assert one.keys() == two.keys()
        for kind in one:
            assert torch.equal(one[kind], two[kind]) and one[kind].stride() == two[kind].stride()
    assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]
    for parameters in (network.parameters(), again.parameters()):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    other.step()
    assert same_weights(network.state_dict(), again.state_dict())


def test_an_optimizer_that_has_not_stepped_yet():
    network = models.build(settings().model)
    optimizer = optim.optimizer(settings().optimizer, network.parameters())
    state = checkpoint.optimizer_state(optimizer)
    assert state["state"] == {}
    checkpoint.restore_optimizer(optimizer, state)
    assert optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("name", ["convnet", "custom", "fcnet", "resnet50", "vgg16"])
def test_a_checkpoint_takes_little_beside_weights_and_optimizer_state(tmp_path, name):
    width = [] if name in ("convnet", "fcnet") else ["model.width=0.1"]
    chosen = settings(f"model={name}", *width, "optimizer=adam")
    network = models.build(chosen.model)
    optimizer = stepped(network, chosen.optimizer)

    def size(state: dict) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())

    weights = size(network.state_dict())
    of_optimizer = sum(size(state) for state in optimizer.state_dict()["state"].values())
    assert of_optimizer > 1.9 * size(dict(network.named_parameters()))
    best, last = tmp_path / "best.pt", tmp_path / "last.pt"
    training = {
        "optimizer": checkpoint.optimizer_state(optimizer),
        "generators": {"cpu": torch.get_rng_state()},
    }
    checkpoint.save(best, network, chosen.model, "x" * 2000, 1, 3)
    checkpoint.save(last, network, chosen.model, "x" * 2000, 1, 3, training)
    assert weights < best.stat().st_size < weights + OVERHEAD
    assert weights + of_optimizer < last.stat().st_size < weights + of_optimizer + OVERHEAD


# What is refused ---------------------------------------------------------------------------------


class Bomb:
    """Leaves a canary where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("way", ["pickle", "torch", "weights"])
def test_code_in_a_file_is_not_run(tmp_path, forged, way):
    canary, path = tmp_path / "canary", tmp_path / "best.pt"
    if way == "pickle":
        content = pickle.dumps(Bomb(canary))
    else:
        stream = io.BytesIO()
        torch.save(Bomb(canary) if way == "torch" else {"weights": Bomb(canary)}, stream)
        content = stream.getvalue()
    path.write_bytes(seal(content) if forged else content)
    with pytest.raises(UsageError, match=FORGED if forged else FOREIGN):
        checkpoint.load(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()  # it sings


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a checkpoint", bytes(100_000), pickle.dumps({"format": 1})]
)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "foreign.pt").write_bytes(content)
    with pytest.raises(UsageError, match=FOREIGN):
        checkpoint.load(tmp_path / "foreign.pt")


def test_other_peoples_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": models.build(settings().model).state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=FOREIGN):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize(("number", "age"), [(99, "a newer"), (1, "an older")])
def test_other_formats_are_refused(saved, number, age):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content.replace(b"checkpoint 000002", b"checkpoint %06d" % number))
    said = rf"written by {age} version of mnistcnn \(format {number}, and this one reads 2\)"
    with pytest.raises(UsageError, match=said):
        checkpoint.load(path)


def as_saved(path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "alexnet"}},
        {"model": {"name": "fcnet"}},
        {"model": {"name": "fcnet", "hidden": 20, "dropout": 0.5}},  # the weights are another's
        {"model": {"name": "fcnet", "hidden": 10**12, "dropout": 0.5}},
        {"model": []},
        {"weights": {}},
        {"weights": [1, 2]},
        {"weights": None},
        {"epoch": "seven"},
        {"training": ...},
    ],
    ids=str,
)
def test_forged_contents_are_refused(saved, change):
    path, _ = saved
    state = as_saved(path) | change
    if state["training"] is ...:
        del state["training"]
    path.write_bytes(sealed(state))
    with pytest.raises(UsageError, match=FORGED):
        checkpoint.load(path)


def test_forged_weights_of_no_size_on_disk_are_refused(saved):
    """An expanded tensor takes one number in the file, and as much memory as it says elsewhere."""
    path, _ = saved
    state = as_saved(path)
    state["model"] = {"name": "fcnet", "hidden": 65_536, "dropout": 0.5}
    network = models.from_dict(state["model"] | {"hidden": 16})
    state["weights"] = {
        name: torch.zeros(()).expand([65_536 if n == 16 else n for n in tensor.shape])
        for name, tensor in network.state_dict().items()
    }
    path.write_bytes(sealed(state))
    assert path.stat().st_size < 10_000
    with pytest.raises(UsageError, match="is not as a checkpoint has it"):
        checkpoint.load(path)


def test_an_archive_bomb_is_not_unpacked(saved):
    path, _ = saved
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
        with bomb.open("best/data/1", "w") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
    path.write_bytes(seal(packed.getvalue()))
    assert path.stat().st_size < 300_000
    with pytest.raises(UsageError, match="it is compressed, which a checkpoint never is"):
        checkpoint.load(path)


def test_what_is_no_file_is_refused(saved):
    path, _ = saved
    loop, pipe = path.with_name("loop.pt"), path.with_name("pipe.pt")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for other, said in [
        (path.parent, "is not a file"),
        (pipe, "is not a file"),  # and nobody waits for who might write to it
        (loop, "symbolic links"),
        (path.with_name("nowhere.pt"), "No such file"),
        (path / "below.pt", "Not a directory"),
    ]:
        with pytest.raises(UsageError, match=said):
            checkpoint.load(other)


def mutations(content: bytes, count: int, seed: int = 0):
    """Damaged copies: a bit flipped, a part zeroed, cut out, put in twice, the end lost."""
    draw = random.Random(seed)
    for number in range(count):
        place = draw.randrange(len(content))
        length = min(len(content) - place, 1 + draw.randrange(2000))
        damaged = bytearray(content)
        match number % 6:
            case 0 | 1:
                damaged[place] ^= 1 << draw.randrange(8)
            case 2:
                damaged[place : place + length] = bytes(length)
            case 3:
                del damaged[place : place + length]
            case 4:
                damaged[place:place] = damaged[place : place + length]
            case 5:
                del damaged[place:]
        if damaged != content:
            yield bytes(damaged)


def test_mutated_checkpoints_are_refused(saved):
    """Of 600, not one is believed, and each is answered in one or two lines."""
    path, _ = saved
    refused = 0
    for damaged in mutations(path.read_bytes(), 600):
        path.write_bytes(damaged)
        with pytest.raises(UsageError) as refusal:
            checkpoint.load(path)
        assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2
        refused += 1
    assert refused > 550


def test_mutated_checkpoints_with_a_whole_seal_make_no_trouble(saved):
    """What only a forger can do: an error in a line, or a network, and never anything else."""
    path, _ = saved
    content = path.read_bytes()[: -checkpoint.SEAL_LENGTH - checkpoint.COMMENT_LENGTH]
    content += struct.pack("<H", 0)
    for damaged in mutations(content, 300, seed=1):
        path.write_bytes(seal(damaged))
        try:
            assert isinstance(checkpoint.load(path).network, models.Classifier)
        except UsageError as refusal:
            assert len(str(refusal).splitlines()) == 1


def test_the_seal_is_of_all_before_it(saved):
    content = saved[0].read_bytes()
    body = content[: -checkpoint.SEAL_LENGTH - checkpoint.COMMENT_LENGTH]
    assert content.endswith(hashlib.sha256(body).hexdigest().encode())
