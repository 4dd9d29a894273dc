"""Save and load checkpoints: a model with its configuration, and the state of its training.

A checkpoint is the zip archive that ``torch.save`` writes, with a comment at its end that holds
the format's number and the SHA-256 of everything before it. Nothing else in a file is parsed before
the hash has been verified. The hash does not detect a forged file, but such a file cannot run code
(``weights_only``) or allocate more memory than its own size.
"""

import hashlib
import io
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from mnistcnn.config.load import FORMAT, check_format
from mnistcnn.config.schema import ModelSettings
from mnistcnn.models.classifier import DTYPES, Classifier
from mnistcnn.models.registry import create_model_from_dict
from mnistcnn.runs.directory import BEST, LAST
from mnistcnn.system import signals
from mnistcnn.system.atomic_files import open_atomically
from mnistcnn.system.errors import CorruptFileError, UsageError

SELECTED_FILE = {"best": BEST, "last": LAST}  # by the setting `select`

SEAL = "mnistcnn checkpoint {format:06d} sha256 {digest}"
SEAL_PATTERN = re.compile(rb"mnistcnn checkpoint (\d{6}) sha256 ([0-9a-f]{64})")
SEAL_LENGTH = len(SEAL.format(format=FORMAT, digest="0" * 64))
COMMENT_LENGTH_BYTES = 2  # bytes of the field before a zip archive's comment


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode on the CPU, with its precision, and the state when it was saved.

    ``config`` is the content of the run's ``config.yaml``, ``epoch`` the number of completed
    epochs and ``step`` the number of optimizer steps. ``training`` is the state needed to resume,
    as passed to :func:`save_checkpoint`, or None.
    """

    model: Classifier
    config: str
    epoch: int
    step: int
    training: dict[str, Any] | None


def save_checkpoint(
    path: Path,
    weights: Mapping[str, Tensor],
    settings: ModelSettings,
    precision: str,
    config: str,
    epoch: int,
    step: int,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically.

    ``weights`` is the state dict of a model with ``settings`` and ``precision`` (``float32`` or
    ``bfloat16``). ``training`` holds plain values and tensors. A checkpoint takes less than 64 KB
    in addition to weights and optimizer state, for models of up to about 300 tensors. A stop signal
    is raised after the file has been written. Raises WriteError.
    """
    state = {
        "model": asdict(settings),
        "precision": precision,
        "weights": _pack_tensors(weights),
        "config": config,
        "epoch": epoch,
        "step": step,
        "training": training,
    }
    # torch would replace a Stopped that is raised while it calls the file
    with signals.deferred(), open_atomically(path) as file:
        sealed = _SealedFile(file)
        torch.save(_without_shared_objects(state), cast(BinaryIO, sealed))
        sealed.finish()


def _without_shared_objects(value: Any) -> Any:
    """Return a copy in which equal strings are one object and no container occurs twice.

    Pickle stores references to shared objects: without this, a resumed training would not write
    the same bytes as an uninterrupted one.
    """
    if isinstance(value, dict):
        return {
            _without_shared_objects(key): _without_shared_objects(element)
            for key, element in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(map(_without_shared_objects, value))
    return sys.intern(value) if isinstance(value, str) else value


def _pack_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, as views of one storage per dtype.

    Each storage is one file in the zip.
    """
    packed: dict[str, Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        group = {name: t.detach().cpu() for name, t in tensors.items() if t.dtype == dtype}
        storage = torch.cat([tensor.reshape(-1) for tensor in group.values()])
        parts = storage.split([tensor.numel() for tensor in group.values()])
        for (name, tensor), part in zip(group.items(), parts, strict=True):
            packed[name] = part.view(tensor.shape)
    return {name: packed[name] for name in tensors}


# The seal: format and SHA-256 --------------------------------------------------------------------


class _SealedFile:
    """A file to which ``torch.save`` writes a zip archive, and which adds the seal as its comment.

    The content is hashed while it is written: the archive is not built in memory.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()
        self.end = b""  # the last two bytes: at the end, the length of the archive's comment
        self.error: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        """Write to the file; keep an OSError for :meth:`finish`, since torch would replace it."""
        self._append(self.end)
        self._append(content[:-COMMENT_LENGTH_BYTES])
        self.end = bytes(content[-COMMENT_LENGTH_BYTES:])
        return len(content)

    def flush(self) -> None:
        """Do nothing: torch calls it before :meth:`finish`."""

    def finish(self) -> None:
        """Write the seal. Raises OSError if the file could not be written."""
        assert self.end == bytes(COMMENT_LENGTH_BYTES)  # an archive without a comment
        comment = SEAL.format(format=FORMAT, digest=self.digest.hexdigest()).encode()
        self._append(struct.pack("<H", len(comment)) + comment)
        if self.error is not None:
            raise self.error

    def _append(self, content: bytes | memoryview) -> None:
        self.digest.update(content)
        try:
            if self.error is None:
                self.file.write(content)
        except OSError as error:
            self.error = error


def _read_sealed(path: Path) -> bytes:
    """Return the content of a file with a valid seal; see :func:`load_checkpoint` for errors."""
    try:
        if path.exists() and not path.is_file():  # a directory, a pipe, a device
            raise UsageError(f"{path} is not a file")
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - SEAL_LENGTH))
            seal = SEAL_PATTERN.fullmatch(file.read())
            if seal is None:
                raise CorruptFileError(
                    f"{path} is not a checkpoint of mnistcnn, or is truncated: "
                    f"choose a {BEST} or {LAST} written by a run"
                )
            check_format(int(seal[1]), path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        kind = CorruptFileError if isinstance(error, FileNotFoundError) else UsageError
        raise kind(f"{path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(memoryview(content)[: -SEAL_LENGTH - COMMENT_LENGTH_BYTES]).hexdigest()
    if digest.encode() != seal[2]:
        raise CorruptFileError(
            f"{path} is corrupt: its SHA-256 does not match. Use another checkpoint of the run, "
            "or repeat the run"
        )
    return content


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild a model from its checkpoint.

    Raises UsageError if the file cannot be read or has another format, and CorruptFileError if it
    is missing, corrupt or not a checkpoint of mnistcnn.
    """
    content = _read_sealed(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(content):
                raise ValueError("compressed, which checkpoints never are")
        with warnings.catch_warnings(action="ignore"):  # torch warns about foreign files
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        model = _rebuild_model(state["model"], state["weights"])
        model.precision = DTYPES[state["precision"]]
        config, epoch, step = str(state["config"]), int(state["epoch"]), int(state["step"])
        return Checkpoint(model.eval(), config, epoch, step, state["training"])
    except Exception as error:  # torch raises a dozen types for a foreign file
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise CorruptFileError(
            f"{path} has a valid SHA-256 but is not a checkpoint of mnistcnn ({reason})"
        ) from error


def _rebuild_model(settings: dict[str, Any], weights: dict[str, Tensor]) -> Classifier:
    """Build a model with these weights; no memory is allocated except for those in the file."""
    with torch.device("meta"):
        model = create_model_from_dict(settings)
    for name, empty in model.state_dict().items():
        if weights[name].dtype != empty.dtype or not weights[name].is_contiguous():
            raise ValueError(f"{name} has an unexpected dtype or layout")
    model.load_state_dict(weights, assign=True)
    return model
