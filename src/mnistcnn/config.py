"""The schema: composes the settings that the rooms declare, and checks them.

Values live in ``conf/``; types and ranges in the dataclasses of the rooms and in this file.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mnistcnn import augment, compiled, data, embedding, models, optim
from mnistcnn.errors import SettingError, UsageError
from mnistcnn.settings import check, choice, number

PRECISIONS = ("auto", "float32", "bfloat16")
OF_THE_COMMAND = ("hydra", "resume")  # beside the settings of a run
# Settings that make no other experiment of a run: where and how it computes, and how often it is
# saved.
ELSEWHERE = ("device", "compile", "data.dir", "data.mirrors", "checkpoint.minutes")


@dataclass
class EarlyStopping:
    patience: int | None = number(1)  # epochs


@dataclass
class CheckpointSettings:
    minutes: float = number(0)  # between two checkpoints of a long epoch


@dataclass
class TrainSettings:
    """Everything that decides a run. The groups with several schemas are told apart by name."""

    data: Any  # data.MnistSettings | data.Mnist5kSettings
    aug: augment.AugmentSettings
    optimizer: Any  # optim.OptimizerSettings
    scheduler: Any  # optim.ScheduleSettings
    model: Any  # models.ModelSettings
    tsne: embedding.TsneSettings
    neighbours: embedding.NeighbourSettings
    early_stopping: EarlyStopping
    checkpoint: CheckpointSettings
    seed: int = number(0, 2**63 - 1)
    loss: str = choice(*optim.LOSSES)
    epochs: int = number(1, 1_000_000)
    steps: int | None = number(1, 1_000_000_000)  # of the optimizer; null: whole epochs
    batch_size: int = number(1, 1_000_000)
    device: str
    precision: str = choice(*PRECISIONS)
    compile: str = choice("auto", *compiled.MODES)
    select: str = choice("best", "last")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.batch_size == 1 and isinstance(self.model, models.ResNet50Settings):
            yield "batch_size", "at least 2 for resnet50: it normalises over a batch"
        if self.steps is not None and self.steps % self.epochs:
            below = self.steps - self.steps % self.epochs
            near = [steps for steps in (below, below + self.epochs) if steps]
            yield "steps", f"a multiple of epochs={self.epochs}, as {' or '.join(map(str, near))}"


@dataclass
class SourceSettings:
    """Where the archives of data=mnist are, if no longer where the training found them."""

    dir: str | None


@dataclass
class EvaluateSettings:
    ckpt: str
    data: SourceSettings
    device: str
    tsne: embedding.TsneSettings
    neighbours: embedding.NeighbourSettings
    precision: str | None = choice(*PRECISIONS)


# The groups in which the option's name decides what else there is to set.
VARIANTS = {
    "data": data.SETTINGS,
    "model": {name: settings for name, (settings, _) in models.MODELS.items()},
    "optimizer": {name: settings for name, (settings, _) in optim.OPTIMIZERS.items()},
    "scheduler": optim.SCHEDULES,
}


def _schema(root: type, composed: DictConfig) -> DictConfig:
    """The structured configuration that ``composed`` must fit."""
    schema = OmegaConf.structured(root)
    if root is TrainSettings:
        for group, variants in VARIANTS.items():
            name = OmegaConf.select(composed, f"{group}.name")
            if name not in variants:
                raise SettingError(f"{group}.name", name, "one of " + ", ".join(variants))
            schema[group] = OmegaConf.structured(variants[name])
    return schema


def to_settings(root: type, composed: DictConfig) -> Any:
    """Turn a composed configuration into checked dataclasses of the type ``root``.

    Raises SettingError for a value that is not allowed, and OmegaConf's errors for a key that
    the schema does not know and for a value of the wrong type.
    """
    own = OmegaConf.masked_copy(composed, [key for key in composed if key not in OF_THE_COMMAND])
    if root is TrainSettings and "compile" not in own:  # of a run before there was a choice
        own["compile"] = "none"
    settings: Any = OmegaConf.to_object(OmegaConf.merge(_schema(root, own), own))
    check(settings)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", settings.device):
        raise SettingError("device", settings.device, "auto, cpu, mps, cuda or cuda:N")
    return settings


def to_yaml(settings: TrainSettings) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def fingerprint(settings: TrainSettings) -> str:
    """What tells a run from others: SHA-256 (hex) of its settings, but for ELSEWHERE."""
    values = {k: v for k, v in flat(dataclasses.asdict(settings)).items() if k not in ELSEWHERE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested settings by its full name, as ``model.width``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def plain(text: str) -> dict[str, Any]:
    """YAML as dicts, lists and values."""
    return OmegaConf.to_container(OmegaConf.create(text))  # type: ignore[return-value]


def from_yaml(text: str) -> TrainSettings:
    """The settings that :func:`to_yaml` wrote."""
    return to_settings(TrainSettings, OmegaConf.create(text))


def read_yaml(text: str, source: Path) -> TrainSettings:
    """The same, where ``text`` may be anything: raises UsageError, which names ``source``."""
    try:
        return from_yaml(text)
    except Exception as error:  # not YAML, not ours, or of another version
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{source} holds no configuration that this version can read ({reason})"
        ) from error
