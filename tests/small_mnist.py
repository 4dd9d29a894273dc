"""Four small archives in place of MNIST's, for tests that read and download them."""

import contextlib
import gzip
import hashlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mnistcnn.data import mnist
from mnistcnn.data.dataset import DatasetSplits, load_splits

from .conftest import settings

IMAGES_PER_DIGIT = 20  # in the training set and in the test set


def idx_file(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    shape = struct.pack(f">{array.ndim}i", *array.shape)
    return header + shape + array.astype(np.uint8).tobytes()


@contextlib.contextmanager
def small_mnist() -> Iterator[dict[str, bytes]]:
    """Make ``data.mnist`` expect small archives; return their contents by file name."""
    rng = np.random.default_rng(0)
    archives = {}
    with pytest.MonkeyPatch.context() as patch:
        for constant in ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS"):
            file = getattr(mnist, constant)
            shape = (10 * IMAGES_PER_DIGIT, *file.shape[1:])
            labels = np.repeat(np.arange(10), IMAGES_PER_DIGIT)
            raw = idx_file(labels if len(shape) == 1 else rng.integers(0, 256, shape))
            archive = gzip.compress(raw, mtime=0)
            small_file = mnist.IdxFile(
                file.name,
                hashlib.sha256(archive).hexdigest(),
                hashlib.sha256(raw).hexdigest(),
                shape,
            )
            patch.setattr(mnist, constant, small_file)
            archives[f"{file.name}.gz"] = archive
        patch.setattr(mnist, "LABEL_ERRORS", ())
        yield archives
    mnist.load_mnist.cache_clear()


def load_mnist_splits(root: Path, mirrors: Sequence[str] = ()) -> DatasetSplits:
    """Load data=mnist from ``root`` or from the mirrors, without the cache."""
    mnist.load_mnist.cache_clear()
    quoted = ",".join(f'"{mirror}"' for mirror in mirrors)
    run_settings = settings("data=mnist", f"data.dir={root}", f"data.mirrors=[{quoted}]")
    return load_splits(run_settings.data, seed=0)
