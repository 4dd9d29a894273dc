"""Save and restore a network with the recipe that made it, and a training where it was.

A checkpoint is what ``torch.save`` writes, sealed: the zip archive's comment names the format and
the SHA-256 of everything before it. Nothing in a file is looked at before its seal was found whole.
A seal is no signature: who forges one still gets no code executed (``weights_only``), and no more
memory allocated than the file is long.
"""

import hashlib
import io
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from mnistcnn import models, rundir
from mnistcnn.errors import DamagedError, UsageError
from mnistcnn.files import write_bytes

FORMAT = 2
SELECTED = {"best": rundir.BEST, "last": rundir.LAST}  # by the setting `select`

SEAL = "mnistcnn checkpoint {format:06d} sha256 {digest}"
SEAL_PATTERN = re.compile(rb"mnistcnn checkpoint (\d{6}) sha256 ([0-9a-f]{64})")
SEAL_LENGTH = len(SEAL.format(format=FORMAT, digest="0" * 64))
COMMENT_LENGTH = 2  # bytes before a zip archive's comment, and the last ones where it has none


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode on the CPU, with what is known of it.

    ``config`` is the resolved configuration of the run as YAML, ``epoch`` the number of whole
    epochs (0: none yet), ``step`` that of the optimizer's steps. ``training`` is what it takes to
    go on, as :func:`save` was given it, or None.
    """

    network: models.Classifier
    config: str
    epoch: int
    step: int
    training: dict[str, Any] | None


def save(
    path: Path,
    network: models.Classifier,
    settings: models.ModelSettings,
    config: str,
    epoch: int,
    step: int,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically: the weights, and all that it takes to use them.

    ``training`` holds plain values and tensors. Beside weights and optimizer state a checkpoint
    takes less than 64 KB for networks of up to some 300 tensors. Raises errors.WriteError.
    """
    content = io.BytesIO()
    state = {
        "model": models.to_dict(settings),
        "weights": _packed(network.state_dict()),
        "config": config,
        "epoch": epoch,
        "step": step,
        "training": training,
    }
    torch.save(_canonical(state), content)
    _seal(content)
    write_bytes(path, content.getbuffer())


def _canonical(value: Any) -> Any:
    """The same, with equal strings in one object and no container in two places.

    A pickle tells objects apart: without this, a training that went on would write other bytes.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_canonical, value))
    return sys.intern(value) if isinstance(value, str) else value


def _packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same on the CPU, in one storage per type: each storage is a file of the archive."""
    packed = dict.fromkeys(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        same = {name: t.detach().cpu() for name, t in tensors.items() if t.dtype == dtype}
        storage = torch.cat([tensor.reshape(-1) for tensor in same.values()])
        parts = storage.split([tensor.numel() for tensor in same.values()])
        for (name, tensor), part in zip(same.items(), parts, strict=True):
            packed[name] = part.view(tensor.shape)
    return packed


# The state of an optimizer -----------------------------------------------------------------------


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """What ``optimizer.state_dict()`` holds, with one tensor for all parameters of each kind."""
    state = optimizer.state_dict()
    kinds: dict[str, list[Tensor]] = {}
    for of_parameter in state["state"].values():
        for kind, tensor in of_parameter.items():
            kinds.setdefault(kind, []).append(tensor.detach().cpu().reshape(-1))
    return state | {"state": {kind: torch.cat(tensors) for kind, tensors in kinds.items()}}


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Take an optimizer of the same parameters to where :func:`optimizer_state` found it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = {kind: _split(joined, parameters) for kind, joined in state["state"].items()}
    of_parameters = (
        dict(zip(kinds, tensors, strict=True)) for tensors in zip(*kinds.values(), strict=True)
    )
    optimizer.load_state_dict(state | {"state": dict(enumerate(of_parameters))})


def _split(joined: Tensor, parameters: Sequence[Parameter]) -> list[Tensor]:
    """One tensor for each parameter: of its shape and layout in memory, or a single number."""
    if joined.numel() == len(parameters):
        return list(joined)
    parts = joined.split([parameter.numel() for parameter in parameters])
    return [
        torch.empty_like(p, requires_grad=False).copy_(part.view(p.shape))
        for p, part in zip(parameters, parts, strict=True)
    ]


# The seal ----------------------------------------------------------------------------------------


def _seal(content: io.BytesIO) -> None:
    """Put a comment at the end of a zip archive that has none yet."""
    end = content.seek(-COMMENT_LENGTH, io.SEEK_END)
    digest = hashlib.sha256(content.getbuffer()[:end]).hexdigest()
    comment = SEAL.format(format=FORMAT, digest=digest).encode()
    content.write(struct.pack("<H", len(comment)) + comment)


def _read(path: Path) -> bytes:
    """The content of a file whose seal is whole. Raises UsageError, as :func:`load` does."""
    try:
        if path.exists() and not path.is_file():  # a directory, a pipe, a device
            raise UsageError(f"{path} is not a file")
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - SEAL_LENGTH))
            seal = SEAL_PATTERN.fullmatch(file.read())
            if seal is None:
                raise DamagedError(
                    f"{path} is not a checkpoint of mnistcnn, or has lost its end: "
                    f"name a {rundir.BEST} or {rundir.LAST} that a run wrote"
                )
            if int(seal[1]) != FORMAT:
                age = "a newer" if int(seal[1]) > FORMAT else "an older"
                raise UsageError(
                    f"{path} was written by {age} version of mnistcnn (format {int(seal[1])}, "
                    f"and this one reads {FORMAT}): use that version"
                )
            file.seek(0)
            content = file.read()
    except OSError as error:
        kind = DamagedError if isinstance(error, FileNotFoundError) else UsageError
        raise kind(f"{path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(memoryview(content)[: -SEAL_LENGTH - COMMENT_LENGTH]).hexdigest()
    if digest.encode() != seal[2]:
        raise DamagedError(
            f"{path} is damaged: it does not hold what was saved. Use another checkpoint of "
            "the run, or train it again"
        )
    return content


def load(path: Path) -> Checkpoint:
    """Rebuild a network from its checkpoint alone.

    Raises UsageError where the file cannot be read or is of another version, and DamagedError
    where it is damaged, gone or no checkpoint of this program's.
    """
    content = _read(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(content):
                raise ValueError("it is compressed, which a checkpoint never is")
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a foreign file
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        network = _rebuilt(state["model"], state["weights"])
        config, epoch, step = str(state["config"]), int(state["epoch"]), int(state["step"])
        return Checkpoint(network.eval(), config, epoch, step, state["training"])
    except Exception as error:  # torch raises a dozen different types on a foreign file
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DamagedError(
            f"{path} has the seal of a checkpoint of mnistcnn and is none ({reason})"
        ) from error


def _rebuilt(model: dict, weights: dict[str, Tensor]) -> models.Classifier:
    """A network with these weights. Nothing is allocated for weights that are not there."""
    with torch.device("meta"):
        network = models.from_dict(model)
    for name, empty in network.state_dict().items():
        if weights[name].dtype != empty.dtype or not weights[name].is_contiguous():
            raise ValueError(f"{name} is not as a checkpoint has it")
    network.load_state_dict(weights, assign=True)
    return network
