"""What Hydra and OmegaConf say of a wrong override, said in a line that helps."""

import difflib
import re
from collections.abc import Collection

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mnistcnn.config import VARIANTS
from mnistcnn.errors import UsageError

NEAR = 0.7  # likeness of a name that is worth suggesting, of 1

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
    if str(error).startswith("Ambiguous value"):
        override = str(error).split("'")[1]
        return f"{override}: several values need -m, a list needs brackets"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override}: {_how_to_write(error.override or '')}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause.full_key or str(cause.key), cause.parent_node)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given: {cause.full_key}=..."
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key}: {_wrong_type(cause)}"
    return str(error).splitlines()[0]


def _how_to_write(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return "settings are written key=value"
    return f"a value with other than letters, digits and . / _ - wants quotes: \"{key}='{value}'\""


def _wrong_type(error: ValidationError) -> str:
    message = str(error.msg).splitlines()[0]
    wanted = re.match(r"Value (.*) of type .* could not be converted to (\w+)", message)
    if wanted and wanted[2] in TYPES:
        return f"{wanted[1]} is not {TYPES[wanted[2]]}"
    if "is not a ListConfig" in message:
        return f"a list is wanted: {error.full_key}=[...]"
    return message


def _unknown_key(key: str, parent: Node | None) -> str:
    root = parent._get_root() if parent is not None else None
    known = [name for name in _keys(root) if not name.startswith("hydra.")]
    group = key.rpartition(".")[0]
    known = [name for name in known if not name.endswith(".name")]  # see refuse()
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
    whole = {key.lower(): key for key in known}
    last_parts = {key.lower().rpartition(".")[2]: key for key in known}
    for wanted, keys in ((name, whole), (name.rpartition(".")[2], last_parts)):
        near = difflib.get_close_matches(wanted.lower(), keys, n=1, cutoff=NEAR)
        if near:
            return f"; did you mean {keys[near[0]]}?"
    return "."


def refuse(arguments: list[str]) -> None:
    """Raise UsageError for what Hydra would take and misunderstand, or refuse at length.

    That is a flag that it does not have, such as ``--epochs 3``, and the name of a group's
    option, which tells what else is in the group and cannot be changed by itself.
    """
    _, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        raise UsageError(
            f"there is no flag {unknown[0]}; settings are written without dashes, as {name}=..."
        )
    for argument in arguments:
        renamed = re.match(r"\+*(\w+)\.name=(.*)", argument)
        if renamed and renamed[1] in VARIANTS:
            raise UsageError(
                f"{argument}: to choose another {renamed[1]}, write {renamed[1]}={renamed[2]}"
            )
