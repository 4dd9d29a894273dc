"""Save and restore a network with the recipe that made it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mnistcnn import models, rundir
from mnistcnn.errors import UsageError

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
    training: dict | None = None,
) -> None:
    """Write a checkpoint atomically; ``training`` is the state that further epochs would need."""
    state = {
        "format": FORMAT,
        "model": models.to_dict(settings),
        "weights": network.state_dict(),
        "config": config,
        "epoch": epoch,
    }
    if training is not None:
        state["training"] = training
    rundir.write_atomically(path, lambda file: torch.save(state, file))


def load(path: Path) -> Checkpoint:
    """Rebuild a network from its checkpoint alone.

    Raises UsageError where there is no such file, or it is no checkpoint of this program's.
    """
    if not path.exists():
        raise UsageError(f"ckpt={path}: there is no such file")
    foreign = f"ckpt={path} is not a checkpoint of mnistcnn"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen different types on a foreign file
        raise UsageError(f"{foreign}, or is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UsageError(foreign)
    if state["format"] != FORMAT:
        raise UsageError(f"{foreign} of this version: its format is {state['format']!r}")
    try:
        network = models.from_dict(state["model"])
        network.load_state_dict(state["weights"])
        checkpoint = Checkpoint(network.eval(), state["config"], state["epoch"])
    except Exception as error:  # whatever is missing or of the wrong shape
        reason = str(error).splitlines()[0]
        raise UsageError(f"{foreign}, or is damaged ({reason})") from error
    return checkpoint
