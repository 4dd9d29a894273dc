"""What Hydra and OmegaConf say of a wrong override, said in a line that helps."""

import difflib
import re
from collections.abc import Collection
from dataclasses import fields
from importlib.resources import files
from importlib.util import find_spec

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node, OmegaConf
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
    "int": "a whole number",
    "Float": "a number",
    "float": "a number",
    "Boolean": "true or false",
    "String": "text",
    "str": "text",
}
# Of each, one option is in force. Those of Hydra's come with plugins, which an extra installs.
PLUGINS = {"hydra/launcher": "launchers", "hydra/sweeper": "optuna"}
GROUPS = ("aug", *VARIANTS, *PLUGINS)


def explain(error: Exception) -> str:
    """One or two lines on an error of composing: which key, what is allowed, the nearest name."""
    message = str(error).splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, option = _split(error.missing_cfg_file)
        options = error.options or _options(group)
        return (
            f"{group}={option}: there is no such {group}{_nearest(option, options)}\n"
            f"It must be one of {', '.join(options)}."
        )
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override}: {_how_to_write(error.override or '')}"
    if found := re.match(r"Ambiguous value for argument '(.*)'", message):
        return f"{found[1]}: several values need -m, a list needs brackets"
    if found := re.match(r"Could not append to config. An item is already at '(.*)'", message):
        return f"there is a setting {found[1]} already: write {found[1]}=... without +"
    if found := re.match(r"Could not override '(.*)'\. No match in the defaults list", message):
        return f"there is no setting {found[1]}."
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause.full_key or str(cause.key), cause.parent_node)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given: {cause.full_key}=..."
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key}: {_wrong_type(cause)}"
    return message


def _split(file: str) -> tuple[str, str]:
    """Group and option of a configuration file: those of Hydra's groups have a slash in them."""
    parts = file.split("/")
    count = 2 if "/".join(parts[:2]) in PLUGINS else 1
    return "/".join(parts[:count]), "/".join(parts[count:])


def _options(group: str) -> list[str]:
    folder = files("mnistcnn.conf") / group
    own = (file.name.removesuffix(".yaml") for file in folder.iterdir())
    return sorted([*own, "basic"] if group in PLUGINS else own)


def _lacks_plugin(group: str, option: str) -> bool:
    """Whether what our ``option`` in a ``group`` of Hydra's configures is not installed."""
    file = files("mnistcnn.conf") / group / f"{option}.yaml"
    if not file.is_file():
        return False
    package = ".".join(OmegaConf.create(file.read_text())._target_.split(".")[:2])
    try:
        return find_spec(package) is None
    except ModuleNotFoundError:  # no plugin of anybody's
        return True


def _how_to_write(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return "settings are written key=value"
    if (key, value) != (key.strip(), value.strip()):
        return f"write it without spaces, {key.strip()}={value.strip()}"
    if value.count("[") != value.count("]"):
        return "a bracket is missing"
    return f"if the value is meant so, quote it: \"{key}='{value}'\""


def _wrong_type(error: ValidationError) -> str:
    message = str(error.msg).splitlines()[0]
    wanted = re.match(r"Value (.*) of type .* could not be converted to (\w+)", message)
    if wanted and wanted[2] in TYPES:
        return f"{wanted[1]} is not {TYPES[wanted[2]]}"
    wanted = re.match(r"Incompatible value 'None' for field of type '(\w+)'", message)
    if wanted and wanted[1] in TYPES:
        return f"null is not {TYPES[wanted[1]]}"
    if "is not a ListConfig" in message:
        return f"a list is wanted: {error.full_key}=[...]"
    if "is not a subclass of" in message or "is not Optional" in message:
        return f"set what is in it, {error.full_key}.<key>=..."
    return message


def _unknown_key(key: str, parent: Node | None) -> str:
    root = parent._get_root() if parent is not None else None
    known = [name for name in _keys(root) if not name.endswith(".name")]  # see refuse()
    group, _, last = key.rpartition(".")
    owners = [
        option
        for option, settings in VARIANTS.get(group, {}).items()
        if last in (field.name for field in fields(settings))
    ]
    if owners:
        return f"there is no setting {key} here: it belongs to {group}={','.join(owners)}"
    siblings = [name for name in known if group and name.rpartition(".")[0] == group]
    text = f"there is no setting {key}{_nearest(key, siblings or known)}\n"
    if siblings and group != "hydra":
        return text + f"It is one of {', '.join(siblings)}."
    return text + "--help lists all of them."


def _keys(config: Node | None, prefix: str = "") -> list[str]:
    """The full names of all settings in ``config``, groups included, Hydra's own left out."""
    if not isinstance(config, DictConfig):
        return []
    keys = []
    for key in config:
        if f"{prefix}{key}" != "hydra":
            keys.append(f"{prefix}{key}")
            keys += _keys(config._get_node(key), f"{prefix}{key}.")
    return keys


def _nearest(name: str, known: Collection[str]) -> str:
    """``; did you mean ...?`` where something like ``name`` is known, else a full stop.

    A name may be near a whole key or the last part of one: ``lr`` means ``optimizer.lr``. Within
    one group only the last parts tell keys apart.
    """
    whole = {key.lower(): key for key in known}
    last_parts = {key.lower().rpartition(".")[2]: key for key in known}
    tries = [(name.rpartition(".")[2], last_parts)]
    if "." not in name:
        tries.insert(0, (name, whole))
    for wanted, keys in tries:
        near = difflib.get_close_matches(wanted.lower(), keys, n=1, cutoff=NEAR)
        if near:
            return f"; did you mean {keys[near[0]]}?"
    return "."


def refuse(arguments: list[str]) -> None:
    """Raise UsageError for what Hydra would take and misunderstand, or refuse at length.

    That is a flag that it does not have, such as ``--epochs 3``; the removal of a setting; no
    option of a group; one whose plugin is not installed; and the name of a group's option, which
    tells what else is in the group and cannot be changed by itself.
    """
    _, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        raise UsageError(
            f"there is no flag {unknown[0]}; settings are written without dashes, as {name}=..."
        )
    for argument in arguments:
        if re.match(r"~\w", argument):
            raise UsageError(f"{argument}: no setting can be left out")
        group, _, value = argument.lstrip("+").partition("=")
        if group in GROUPS and re.fullmatch(r"null|true|false|\d*", value, re.IGNORECASE):
            raise UsageError(f"{argument}: it must be one of {', '.join(_options(group))}")
        if group in PLUGINS and _lacks_plugin(group, value):
            raise UsageError(
                f"{argument} needs a plugin that is not installed: "
                f'pip install "mnistcnn[{PLUGINS[group]}]"'
            )
        group, _, name = group.rpartition(".")
        if group in GROUPS and name == "name":
            raise UsageError(f"{argument}: to choose another {group}, write {group}={value}")
