"""Convert a composed Hydra configuration to checked settings, and settings to YAML and back."""

import re
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from mnistcnn.config.constraints import check
from mnistcnn.config.schema import GROUP_SCHEMAS, EvaluateSettings, TrainSettings
from mnistcnn.system.errors import SettingError, UsageError

Settings = TypeVar("Settings", bound=TrainSettings | EvaluateSettings)

# The version of config.yaml, metrics.json and checkpoints. Increment it if the format of any of
# these files changes.
FORMAT = 8
COMMAND_KEYS = ("hydra", "resume")  # keys of the command's configuration that are not settings


def to_settings(schema: type[Settings], composed: DictConfig) -> Settings:
    """Convert a composed configuration to checked settings of the dataclass ``schema``.

    Raises SettingError if a value is not allowed, and OmegaConf's errors if a key is unknown or a
    value has the wrong type.
    """
    return checked_settings(schema, merge_with_schema(schema, composed))


def merge_with_schema(schema: type[Settings], composed: DictConfig) -> DictConfig:
    """Return a composed configuration, without the command's keys, with the types of ``schema``.

    Raises OmegaConf's errors if a key is unknown or a value has the wrong type.
    """
    values = without_command_keys(composed)
    return cast(DictConfig, OmegaConf.merge(_structured(schema, values), values))


def checked_settings(schema: type[Settings], merged: DictConfig) -> Settings:
    """Convert the result of :func:`merge_with_schema` to settings.

    Raises SettingError if a value is not allowed.
    """
    settings = cast(Settings, OmegaConf.to_object(merged))
    assert isinstance(settings, schema)
    check(settings)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", settings.device):
        raise SettingError("device", settings.device, "auto, cpu, mps, cuda or cuda:N")
    return settings


def without_command_keys(composed: DictConfig) -> DictConfig:
    """Return a composed configuration without the keys of the command."""
    keys = [key for key in map(str, composed) if key not in COMMAND_KEYS]
    return OmegaConf.masked_copy(composed, keys)


def to_dict(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as nested dicts, lists and values, with interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _structured(schema: type, composed: DictConfig) -> DictConfig:
    """Return the structured configuration of ``schema`` with the options chosen in ``composed``."""
    structured: DictConfig = OmegaConf.structured(schema)
    if schema is TrainSettings:
        for group, schemas in GROUP_SCHEMAS.items():
            name = OmegaConf.select(composed, f"{group}.name")
            if name not in schemas:
                raise SettingError(f"{group}.name", name, "one of " + ", ".join(schemas))
            structured[group] = OmegaConf.structured(schemas[name])
    return structured


def to_yaml(settings: TrainSettings) -> str:
    """Return the content of ``config.yaml``: the format's number, then every setting."""
    return f"format: {FORMAT}\n" + OmegaConf.to_yaml(OmegaConf.structured(settings))


def check_format(number: object, source: Path) -> None:
    """Check that ``number`` is the FORMAT of this version. Raises UsageError if it is not."""
    if number is None:
        raise UsageError(
            f"{source} has no format number: it was written by another program, "
            "or by another version of mnistcnn"
        )
    if number != FORMAT:
        raise UsageError(
            f"{source} was written by another version of mnistcnn "
            f"(format {number!r}; this version reads format {FORMAT})"
        )


def parse_config(text: str, source: Path) -> dict[str, Any]:
    """Return the settings in the text of a ``config.yaml`` as nested dicts, not checked yet.

    ``source`` is the file to name in an error. Raises UsageError if the text is not YAML or has
    another format.
    """
    try:
        values = parse_yaml(text)
    except Exception as error:  # OmegaConf and the YAML parser raise many types
        raise _unreadable(source, error) from error
    check_format(values.pop("format", None) if isinstance(values, dict) else None, source)
    return values


def read_settings(text: str, source: Path) -> TrainSettings:
    """Return the checked settings in the text of a ``config.yaml``.

    Raises UsageError, with the name of the file ``source``, if the text is not valid.
    """
    values = parse_config(text, source)
    try:
        return to_settings(TrainSettings, OmegaConf.create(values))
    except Exception as error:  # SettingError, or one of many types of OmegaConf
        raise _unreadable(source, error) from error


def _unreadable(source: Path, error: Exception) -> UsageError:
    return UsageError(f"{source} is not a valid configuration ({str(error).splitlines()[0]})")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as OmegaConf does, 30 times as fast with libyaml."""

    # types of plain text: 1e-3 is a number, a date is text
    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raise an error if a key occurs twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, "duplicate key", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> dict[str, Any]:
    """Parse YAML to dicts, lists and values."""
    return cast(dict[str, Any], yaml.load(text, _Loader) or {})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict by full name, such as ``model.width``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
