"""Downloads: unreliable mirrors, processes that download at the same time, killed processes."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from mnistcnn.data import download, mnist
from mnistcnn.runs.directory import METRICS
from mnistcnn.system.atomic_files import TEMPORARY_SUFFIX
from mnistcnn.system.errors import UsageError

from .mirror_server import MirrorServer, serve
from .small_mnist import IMAGES_PER_DIGIT, load_mnist_splits, small_mnist

UNREACHABLE = "http://127.0.0.1:1"  # a mirror that refuses every connection
ARCHIVE_NAMES = [
    f"{file.name}.gz"
    for file in (mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS, mnist.TEST_IMAGES, mnist.TEST_LABELS)
]


@pytest.fixture
def archives() -> Iterator[dict[str, bytes]]:
    with small_mnist() as contents:
        yield contents


@pytest.fixture
def server(archives) -> Iterator[MirrorServer]:
    with serve(archives) as running:
        yield running


def files_except_locks(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


# Mirrors -----------------------------------------------------------------------------------------


def test_missing_archives_are_downloaded_once(server, archives, tmp_path):
    splits = load_mnist_splits(tmp_path, [server.url("good")])
    assert torch.bincount(splits.test.labels).tolist() == [IMAGES_PER_DIGIT] * 10
    assert server.requests == {f"/good/{name}": 1 for name in archives}
    folder = tmp_path / "MNIST" / "raw"
    assert files_except_locks(folder) == set(archives)
    load_mnist_splits(tmp_path, [server.url("good")])
    assert server.requests.total() == 4  # no more requests for the second load
    (tmp_path / "ordinary").write_text("")
    for name in archives:
        assert (folder / name).stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("behaviour", ["wrong", "truncated", "missing", "long"])
def test_next_mirror_is_used_after_a_bad_one(server, archives, tmp_path, behaviour):
    splits = load_mnist_splits(tmp_path, [server.url(behaviour), server.url("good")])
    assert len(splits.test) == 10 * IMAGES_PER_DIGIT
    assert server.requests == {
        f"/{mirror}/{name}": 1 for mirror in (behaviour, "good") for name in archives
    }


@pytest.mark.parametrize("behaviour", ["wrong", "truncated", "missing", "long"])
def test_failed_download_leaves_no_file(server, tmp_path, behaviour):
    with pytest.raises(UsageError, match="data=mnist5k") as refusal:
        load_mnist_splits(tmp_path, [server.url(behaviour)])
    assert "train-images-idx3-ubyte.gz" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_download_whose_directory_was_removed_starts_again(server, tmp_path, monkeypatch):
    """Another process removes the directories that it has created after its download failed."""
    folder = tmp_path / "MNIST" / "raw"

    class RemovedOnce(FileLock):
        def acquire(self, *arguments, **options):
            monkeypatch.setattr(download, "FileLock", FileLock)
            shutil.rmtree(tmp_path / "MNIST")
            return super().acquire(*arguments, **options)

    monkeypatch.setattr(download, "FileLock", RemovedOnce)
    load_mnist_splits(tmp_path, [server.url("good")])
    assert len(files_except_locks(folder)) == 4


@pytest.mark.parametrize("behaviour", ["silent", "slow"])
def test_slow_mirror_is_abandoned(server, tmp_path, monkeypatch, behaviour):
    assert download.SOCKET_TIMEOUT + download.STALL_TIMEOUT <= 30
    monkeypatch.setattr(download, "SOCKET_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.5)
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"timed out|too slow"):
        load_mnist_splits(tmp_path, [server.url(behaviour)])
    assert time.monotonic() - start < 10


def test_error_without_a_usable_mirror(archives, tmp_path):
    with pytest.raises(UsageError, match=r"data\.mirrors is empty"):
        load_mnist_splits(tmp_path)
    with pytest.raises(UsageError, match="not-a-url"):
        load_mnist_splits(tmp_path, ["not-a-url"])


@pytest.mark.full_mnist
def test_real_archives_can_be_downloaded(mnist_dir, tmp_path):
    source = Path(mnist_dir) / "MNIST" / "raw"
    names = [f"{f.name}.gz" for f in (mnist.TRAIN_LABELS, mnist.TEST_LABELS, mnist.TEST_IMAGES)]
    if not all((source / name).exists() for name in names):
        pytest.skip("MNISTCNN_DATA_DIR has no archives")
    with serve({name: (source / name).read_bytes() for name in names}) as server:
        content = mnist._read_idx(mnist.TEST_IMAGES, tmp_path, (server.url("good"),))
    assert hashlib.sha256(content).hexdigest() == mnist.TEST_IMAGES.raw_sha256
    shutil.rmtree(tmp_path)


# Several processes -------------------------------------------------------------------------------


def test_threads_that_start_together_download_once(server, archives, tmp_path):
    def read(_: int) -> bytes:
        folder = tmp_path / "MNIST" / "raw"
        return mnist._read_idx(mnist.TRAIN_LABELS, folder, (server.url("good"),))

    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(read, range(8)))
    assert contents == {gzip.decompress(archives["train-labels-idx1-ubyte.gz"])}
    assert server.requests.total() == 1


@pytest.mark.full_mnist
def test_eight_runs_that_start_together_download_once(mnist_dir, tmp_path):
    source = Path(mnist_dir) / "MNIST" / "raw"
    if not all((source / name).exists() for name in ARCHIVE_NAMES):
        pytest.skip("MNISTCNN_DATA_DIR has no archives")
    archives = {name: (source / name).read_bytes() for name in ARCHIVE_NAMES}
    data_dir, mirrors = tmp_path / "data", ["truncated", "page", "slow", "good"]
    run_dirs = [tmp_path / f"run-{number}" for number in range(8)]
    # the file that is read first is the slow one: all eight runs wait for it
    with serve(archives, slow_name=ARCHIVE_NAMES[0]) as server, contextlib.ExitStack() as stack:
        urls = [server.url(mirror) for mirror in mirrors]
        processes = [stack.enter_context(start_run(run, data_dir, urls)) for run in run_dirs]
        deadline = time.monotonic() + 240
        codes = [process.wait(deadline - time.monotonic()) for process in processes]
        outputs = [Path(f"{run}.txt").read_text() for run in run_dirs]
        assert codes == [0] * 8, outputs
        assert server.requests == {
            f"/{mirror}/{name}": 1 for mirror in mirrors for name in ARCHIVE_NAMES
        }
    scores = [json.loads((run / METRICS).read_text())["test"] for run in run_dirs]
    assert scores == [scores[0]] * 8
    assert sum(map(sum, scores[0]["confusion_matrix"])) == 10_000
    folder = data_dir / "MNIST" / "raw"
    assert files_except_locks(folder) == set(archives)
    assert all((folder / name).read_bytes() == content for name, content in archives.items())


@contextlib.contextmanager
def start_run(run_dir: Path, data_dir: Path, urls: list[str]) -> Iterator[subprocess.Popen]:
    """Start a short run on all of MNIST in another process; kill it when the context ends."""
    mirrors = ",".join(f'"{url}"' for url in urls)
    with Path(f"{run_dir}.txt").open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mnistcnn.train",
                "data=mnist",
                f"data.dir={data_dir}",
                f"data.mirrors=[{mirrors}]",
                "data.fraction=0.01",
                "epochs=1",
                "device=cpu",
                "tsne.samples=60",
                "tsne.perplexity=10",
                "neighbours.targets=1",
                f"hydra.run.dir={run_dir}",
            ],
            cwd=run_dir.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


LABELS = struct.pack(">BBBBi", 0, 0, 8, 1, 1000) + bytes(range(10)) * 100
LABELS_ARCHIVE = gzip.compress(LABELS, mtime=0)
LABELS_FILE = mnist.IdxFile(
    "train-labels-idx1-ubyte",
    hashlib.sha256(LABELS_ARCHIVE).hexdigest(),
    hashlib.sha256(LABELS).hexdigest(),
    (1000,),
)

# Download an archive, but be killed just before the complete temporary file is renamed.
KILLED_DOWNLOAD = """
import os, signal, sys
from pathlib import Path
from mnistcnn.data.download import download
from mnistcnn.system import atomic_files

atomic_files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
archive, sha256, mirror = sys.argv[1:]
download(Path(archive), sha256, 10_000, (mirror,))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_temporary_file_of_a_killed_download_is_removed_by_the_next_one(tmp_path):
    archive = tmp_path / f"{LABELS_FILE.name}.gz"
    # The temporary file of another archive, which has its own lock, must not be removed.
    other = tmp_path / f".{mnist.TEST_LABELS.name}.gz.abc{TEMPORARY_SUFFIX}"
    other.write_bytes(b"incomplete")
    with serve({archive.name: LABELS_ARCHIVE}) as server:
        url = server.url("good")
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_DOWNLOAD, archive, LABELS_FILE.gz_sha256, url],
            env=os.environ | {"no_proxy": "127.0.0.1"},
            timeout=120,
        )
        assert killed.returncode == -signal.SIGKILL
        (temporary,) = files_except_locks(tmp_path) - {other.name}
        assert temporary.startswith(f".{archive.name}.")
        assert (tmp_path / temporary).read_bytes() == LABELS_ARCHIVE
        assert mnist._read_idx(LABELS_FILE, tmp_path, (url,)) == LABELS
        assert server.requests == {f"/good/{archive.name}": 2}
    assert files_except_locks(tmp_path) == {archive.name, other.name}


def test_temporary_file_of_a_running_download_is_not_removed(tmp_path):
    archive = tmp_path / f"{LABELS_FILE.name}.gz"
    temporary = tmp_path / f".{archive.name}.abc{TEMPORARY_SUFFIX}"
    temporary.write_bytes(LABELS_ARCHIVE)
    contents = []
    reader = threading.Thread(
        target=lambda: contents.append(mnist._read_idx(LABELS_FILE, tmp_path, (UNREACHABLE,))),
        daemon=True,
    )
    with FileLock(archive.with_suffix(".lock")):  # held by the running download
        reader.start()
        reader.join(0.5)
        assert reader.is_alive() and temporary.exists()
        temporary.rename(archive)
    reader.join(20)
    assert contents == [LABELS]
    assert files_except_locks(tmp_path) == {archive.name}
