"""What Hydra and OmegaConf say of a wrong override, said in a line that helps."""

import difflib
import re
from collections.abc import Collection, Iterable

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mnistcnn.errors import UsageError

TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "String": "text",
}


def explain(error: Exception) -> str:
    """One or two lines on an error of composing: which key, what is allowed, the nearest name."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return (
            f"{group}={option}: there is no such {group}{_nearest(option, error.options)}\n"
            f"It must be one of {', '.join(error.options)}."
        )
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: settings are written key=value"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause.full_key or str(cause.key), cause.parent_node)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given: {cause.full_key}=..."
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key}: {_wrong_type(cause)}"
    return str(error).splitlines()[0]


def _wrong_type(error: ValidationError) -> str:
    message = str(error.msg).splitlines()[0]
    wanted = re.match(r"Value (.*) of type .* could not be converted to (\w+)", message)
    if wanted and wanted[2] in TYPES:
        return f"{wanted[1]} is not {TYPES[wanted[2]]}"
    return message


def _unknown_key(key: str, parent: Node | None) -> str:
    root = parent._get_root() if parent is not None else None
    known = [name for name in _keys(root) if not name.startswith("hydra.")]
    group = key.rpartition(".")[0]
    siblings = [name for name in known if group and name.rpartition(".")[0] == group]
    text = f"there is no setting {key}{_nearest(key, known)}\n"
    if siblings:
        return text + f"It is one of {', '.join(siblings)}."
    return text + "--help lists all of them."


def _keys(config: Node | None, prefix: str = "") -> list[str]:
    """The full names of all settings in ``config``, groups included."""
    if not isinstance(config, DictConfig):
        return []
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        keys += _keys(config._get_node(key), f"{prefix}{key}.")
    return keys


def _nearest(name: str, known: Collection[str]) -> str:
    """``; did you mean ...?`` where something like ``name`` is known, else a full stop.

    A name may be near a whole key or the last part of one: ``lr`` means ``optimizer.lr``.
    """
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        by_last_part = {key.rpartition(".")[2]: key for key in known}
        last_part = name.rpartition(".")[2]
        near = [by_last_part[part] for part in difflib.get_close_matches(last_part, by_last_part, 1)]
    return f"; did you mean {near[0]}?" if near else "."


def refuse_dashes(arguments: Iterable[str], known: Collection[str]) -> None:
    """Raise UsageError for ``--epochs 3`` or ``--epochs=3``, which Hydra would not understand."""
    for argument in arguments:
        name = re.match(r"--?([\w-]+)", argument)
        if name and (key := name[1].replace("-", "_")) in known:
            raise UsageError(f"{argument}: settings are written without dashes, as {key}=...")
