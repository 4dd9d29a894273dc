"""Checkpoints: what comes back, and what is refused."""

import pickle
import random

import pytest
import torch

from mnistcnn import checkpoint, files, models
from mnistcnn.errors import UsageError

from .conftest import same_weights, settings


@pytest.fixture
def saved(tmp_path):
    chosen = settings("model.channels=[4,4]")
    network = models.build(chosen.model)
    network.normalise_by(0.13, 0.31)
    path = tmp_path / "best.pt"
    checkpoint.save(path, network, chosen.model, "seed: 0\n", epoch=7)
    return path, network


def test_what_was_saved_comes_back(saved):
    path, network = saved
    loaded = checkpoint.load(path)
    assert same_weights(loaded.network.state_dict(), network.state_dict())
    assert (loaded.config, loaded.epoch) == ("seed: 0\n", 7)
    assert not loaded.network.training
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


def test_a_failed_save_keeps_the_one_before(saved, monkeypatch):
    path, network = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, network, settings("model.channels=[4,4]").model, "", 8)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        pickle.dumps({"format": 1}),
        pickle.dumps(Bomb()),
    ],
    ids=["empty", "text", "pickle", "code"],
)
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a checkpoint of mnistcnn"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "state",
    [
        {"weights": {}},
        [1, 2],
        {"format": 99, "model": {}, "weights": {}, "config": "", "epoch": 1},
        {"format": 1},
        {"format": 1, "model": {"name": "alexnet"}, "weights": {}, "config": "", "epoch": 1},
        {"format": 1, "model": {"name": "fcnet"}, "weights": {}, "config": "", "epoch": 1},
    ],
)
def test_other_peoples_checkpoints_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="not a checkpoint of mnistcnn"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_flipped_bit_in_a_weight_is_noticed(saved):
    path, network = saved
    content = path.read_bytes()
    weight = network.head.weight.detach().numpy().tobytes()[:16]
    place = content.index(weight) + 5
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.load(path)


def test_flipped_bits_are_noticed_or_change_nothing(saved):
    """The seed in the configuration, the epoch, the shape of the network: nothing is believed."""
    path, network = saved
    content = path.read_bytes()
    assert content.count(b"seed: 0") == 1
    path.write_bytes(content.replace(b"seed: 0", b"seed: 1"))
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.load(path)
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        place, bit = generator.randrange(len(content)), 1 << generator.randrange(8)
        path.write_bytes(
            content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        )
        try:
            loaded = checkpoint.load(path)
        except UsageError:
            refused += 1
            continue
        assert same_weights(loaded.network.state_dict(), network.state_dict())
        assert (loaded.config, loaded.epoch) == ("seed: 0\n", 7)
    assert refused > 200


def test_truncated_and_missing_files_are_refused(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.load(path)
    with pytest.raises(UsageError, match="No such file"):
        checkpoint.load(path.with_name("nowhere.pt"))
    with pytest.raises(UsageError, match="cannot be read"):
        checkpoint.load(path.parent)


def test_weights_of_another_shape_are_refused(saved):
    path, _ = saved
    state = torch.load(path, weights_only=True)
    state["model"]["channels"] = [5, 5]
    torch.save(state, path)
    with pytest.raises(UsageError, match="not a checkpoint.*size mismatch"):
        checkpoint.load(path)
