"""Save and restore a network with the recipe that made it."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from mnistcnn import models, rundir
from mnistcnn.errors import UsageError
from mnistcnn.files import write_bytes

FORMAT = 1
SELECTED = {"best": rundir.BEST, "last": rundir.LAST}  # by the setting `select`


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode on the CPU, with what is known of it.

    ``config`` is the resolved configuration of the run as YAML, ``epoch`` counts from 1 (0: not
    trained yet).
    """

    network: models.Classifier
    config: str
    epoch: int


def save(
    path: Path,
    network: models.Classifier,
    settings: models.ModelSettings,
    config: str,
    epoch: int,
) -> None:
    """Write a checkpoint atomically: the weights, and all that it takes to use them."""
    state = {
        "format": FORMAT,
        "model": models.to_dict(settings),
        "weights": network.state_dict(),
        "config": config,
        "epoch": epoch,
    }
    content = io.BytesIO()
    torch.save(state | {"sha256": _sha256(state)}, content)
    write_bytes(path, content.getbuffer())


def _sha256(state: dict) -> str:
    """Of all that a checkpoint holds: torch itself does not notice a flipped bit."""
    digest = hashlib.sha256()
    for key in ("format", "model", "config", "epoch"):
        digest.update(repr((key, state[key])).encode())
    for name, tensor in state["weights"].items():
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load(path: Path) -> Checkpoint:
    """Rebuild a network from its checkpoint alone.

    Raises UsageError where the file cannot be read, is no checkpoint of this program's, or is
    damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"ckpt={path} cannot be read: {error.strerror or error}") from error
    foreign = f"ckpt={path} is not a checkpoint of mnistcnn"
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a foreign file
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen different types on a foreign file
        raise UsageError(f"{foreign}, or is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UsageError(foreign)
    if state["format"] != FORMAT:
        raise UsageError(f"{foreign} of this version: its format is {state['format']!r}")
    try:
        network = models.from_dict(state["model"])
        network.load_state_dict(state["weights"])
        intact = state["sha256"] == _sha256(state)
        checkpoint = Checkpoint(network.eval(), state["config"], state["epoch"])
    except Exception as error:  # whatever is missing or of the wrong shape
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{foreign}, or is damaged ({reason})") from error
    if not intact:
        raise UsageError(f"ckpt={path} is damaged: it does not hold what was saved")
    return checkpoint
