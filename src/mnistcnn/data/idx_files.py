"""Recognise files in the IDX format that belong to another dataset than MNIST."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

# Bytes per element, by the type in the magic number: (un)signed bytes, short, int, float, double.
ELEMENT_BYTES = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}
MAX_BYTES = 1 << 30  # of an archive's contents that are decompressed
CHUNK_BYTES = 1 << 20

# SHA-256 of the decompressed files of Fashion-MNIST
FASHION_MNIST = {
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",  # training images
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",  # training labels
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",  # test images
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",  # test labels
}


def describe_foreign_file(path: Path, expected_sha256: str) -> str | None:
    """Describe a complete IDX file, or an archive of one, with other contents than expected.

    Return None if the contents are the expected ones or no complete IDX file. gzip stores a
    checksum, so a corrupt archive is not mistaken for that of another dataset. A file that is not
    compressed may be either. Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_archive else path.open("rb") as file:
            shape, sha256 = _read_idx(cast(BinaryIO, file))
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error):
        return None
    if sha256 == expected_sha256:
        return None
    if sha256 in FASHION_MNIST:
        return "it is a file of Fashion-MNIST"
    size = " x ".join(f"{length:,}" for length in shape)
    kind = "it belongs to another dataset" if is_archive else "another dataset, or damaged"
    return f"{kind}: {size} elements in IDX format"


def _read_idx(file: BinaryIO) -> tuple[tuple[int, ...], str]:
    """Return the shape of the array in an IDX file, and the SHA-256 of the file.

    Raises ValueError if it is not a complete IDX file, and the errors of gzip.
    """
    magic = file.read(4)
    if len(magic) < 4 or any(magic[:2]) or magic[2] not in ELEMENT_BYTES:
        raise ValueError("not an IDX file")
    element_bytes, dimensions = ELEMENT_BYTES[magic[2]], magic[3]
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError("the header is incomplete")
    shape = struct.unpack(f">{dimensions}I", header)
    remaining = math.prod(shape) * element_bytes
    if not 0 < remaining <= MAX_BYTES:
        raise ValueError("empty, or too large")
    digest = hashlib.sha256(magic + header)
    while remaining and (chunk := file.read(min(remaining, CHUNK_BYTES))):
        remaining -= len(chunk)
        digest.update(chunk)
    if remaining or file.read(1):  # gzip verifies its checksum at the end
        raise ValueError("the size is not that of the header")
    return shape, digest.hexdigest()
