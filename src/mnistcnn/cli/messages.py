"""Explain Hydra's and OmegaConf's errors about the command line in one or two lines."""

import difflib
import re
from collections.abc import Collection
from dataclasses import fields
from importlib.resources import files

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mnistcnn.config.schema import GROUP_SCHEMAS
from mnistcnn.system import quoting

MIN_SIMILARITY = 0.7  # of a name worth suggesting, in [0, 1]

TYPE_NAMES = {
    "Integer": "a whole number",
    "int": "a whole number",
    "Float": "a number",
    "float": "a number",
    "str": "text",
}
# Hydra's groups, and the extra of our package that installs the plugins of their options
PLUGIN_EXTRAS = {"hydra/launcher": "launchers", "hydra/sweeper": "optuna"}
# What to write for settings without a default.
REQUIRED = {"ckpt": "RUN, where RUN is the directory of a run or a checkpoint file"}
GROUPS = ("aug", "logger", *GROUP_SCHEMAS, *PLUGIN_EXTRAS)


def explain(error: Exception) -> str:
    """Return a message with the key of the error, the allowed values and the most similar name."""
    message = str(error).splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, option = _split_file(error.missing_cfg_file)
        options = error.options or group_options(group)
        return (
            f"{group}={option}: {group} has no option {option}{_suggestion(option, options)}\n"
            f"It must be one of {', '.join(options)}."
        )
    if isinstance(error, OverrideParseException):
        return f"cannot parse {error.override}: {_syntax_hint(error.override or '')}"
    if match := re.match(r"Ambiguous value for argument '(.*)'", message):
        return f"{match[1]}: several values need -m, a list needs brackets"
    if match := re.match(r"Could not append to config. An item is already at '(.*)'", message):
        return f"the setting {match[1]} already exists: write {match[1]}=... without +"
    if match := re.match(r"Could not override '(.*)'\. No match in the defaults list", message):
        return f"there is no setting {match[1]}."
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause.full_key or str(cause.key), cause.parent_node)
    if isinstance(cause, MissingMandatoryValue):
        key = cause.full_key
        return f"{key} is required: write {key}={REQUIRED.get(key or '', '...')}"
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key}: {_wrong_type(cause)}"
    return message


def _split_file(file: str) -> tuple[str, str]:
    """Return the group and option of a configuration file; Hydra's groups contain a slash."""
    parts = file.split("/")
    count = 2 if "/".join(parts[:2]) in PLUGIN_EXTRAS else 1
    return "/".join(parts[:count]), "/".join(parts[count:])


def group_options(group: str) -> list[str]:
    """Return the names of a group's options, sorted."""
    folder = files("mnistcnn.conf") / group
    options = [file.name.removesuffix(".yaml") for file in folder.iterdir()]
    return sorted(options)


def _syntax_hint(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return "write settings as key=value"
    if (key, value) != (key.strip(), value.strip()):
        return f"write it without spaces, {key.strip()}={value.strip()}"
    if value.count("[") != value.count("]"):
        return "a bracket is missing"
    typed = quoting.quote_argument(quoting.override(key, value))
    return f"if this is the intended value, quote it: {typed}"


def _wrong_type(error: ValidationError) -> str:
    message = str(error.msg).splitlines()[0]
    match = re.match(r"Value (.*) of type .* could not be converted to (\w+)", message)
    if match and match[2] in TYPE_NAMES:
        return f"{match[1]} is not {TYPE_NAMES[match[2]]}"
    match = re.match(r"Incompatible value 'None' for field of type '(\w+)'", message)
    if match and match[1] in TYPE_NAMES:
        return f"null is not {TYPE_NAMES[match[1]]}"
    if match := re.match("Value (.*) is not a valid bool", message):
        return f"{match[1]} is not true or false"
    if "is not a ListConfig" in message:
        return f"it must be a list: {error.full_key}=[...]"
    if "is not a subclass of" in message or "is not Optional" in message:
        return f"it is a group of settings: {error.full_key}.<key>=..."
    return message


def _unknown_key(key: str, parent: Node | None) -> str:
    root = parent._get_root() if parent is not None else None
    known_keys = [name for name in _all_keys(root) if not name.endswith(".name")]
    group, _, last = key.rpartition(".")
    owners = [
        option
        for option, schema in GROUP_SCHEMAS.get(group, {}).items()
        if last in (field.name for field in fields(schema))
    ]
    if owners:
        options = f"{group}={','.join(owners)}"
        return f"{key} is a setting of {options}, not of the chosen {group}"
    siblings = [name for name in known_keys if group and name.rpartition(".")[0] == group]
    text = f"there is no setting {key}{_suggestion(key, siblings or known_keys)}\n"
    if siblings and group != "hydra":
        return text + f"It must be one of {', '.join(siblings)}."
    return text + "--help lists all settings."


def _all_keys(config: Node | None, prefix: str = "") -> list[str]:
    """Return the full names of all settings and groups in ``config``, except Hydra's own."""
    if not isinstance(config, DictConfig):
        return []
    keys = []
    for key in map(str, config):
        if f"{prefix}{key}" != "hydra":
            keys.append(f"{prefix}{key}")
            keys += _all_keys(config._get_node(key), f"{prefix}{key}.")
    return keys


def _suggestion(name: str, known: Collection[str]) -> str:
    """Return ``; did you mean ...?`` if a known name is similar, else a full stop.

    A name is compared with whole keys and with their last parts (``lr`` finds ``optimizer.lr``);
    within a group only the last parts differ.
    """
    whole = {key.lower(): key for key in known}
    last_parts = {key.lower().rpartition(".")[2]: key for key in known}
    candidates = [(name.rpartition(".")[2], last_parts)]
    if "." not in name:
        candidates.insert(0, (name, whole))
    for typed, keys in candidates:
        similar = difflib.get_close_matches(typed.lower(), keys, n=1, cutoff=MIN_SIMILARITY)
        if similar:
            return f"; did you mean {keys[similar[0]]}?"
    return "."
