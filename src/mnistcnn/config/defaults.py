"""Find the settings that differ from the defaults, and the command that repeats a run."""

from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mnistcnn.config.load import COMMAND_KEYS, flatten
from mnistcnn.config.schema import TrainSettings
from mnistcnn.system.quoting import format_command, override

# The directory of the data and the places it is downloaded from belong to a machine, not to a run.
LOCATION_KEYS = ("data.dir", "data.mirrors")
DEFAULT_OPTION = {"aug": "none"}  # whose values are the defaults of an option without a file


def changed_settings(settings: TrainSettings) -> dict[str, tuple[Any, Any]]:
    """Return the value and the default of each setting that differs from its default.

    Names are full, such as ``model.width``. The defaults are those of the chosen options: with
    ``model=custom``, those in ``conf/model/custom.yaml`` and of its optimizer. LOCATION_KEYS are
    left out.
    """
    values = flatten(asdict(settings))
    groups = _default_groups(settings.model.name)
    defaults = _base_values() | {f"{group}.name": option for group, option in groups.items()}
    for group in groups:
        defaults |= _option_values(group, values[f"{group}.name"])
    return {
        key: (value, defaults.get(key))
        for key, value in values.items()
        if key not in LOCATION_KEYS and (key not in defaults or defaults[key] != value)
    }


def repeat_command(settings: TrainSettings) -> str:
    """Return the command that repeats a run, without directories."""
    changed = changed_settings(settings)
    groups = _default_groups(settings.model.name)
    options = []
    for group in groups:
        name, _ = changed.pop(f"{group}.name", (None, None))
        if name in _options(group):
            options.append(override(group, name))
        elif name is not None:  # an option of the user's: all of its values at once
            keys = [key for key in changed if key.startswith(f"{group}.")]
            values = {key.removeprefix(f"{group}."): changed.pop(key)[0] for key in keys}
            options.append(f"{group}={format_value({'name': name, **values})}")
    others = [f"{key}={format_value(value)}" for key, (value, _) in changed.items()]
    return format_command("mnistcnn.train", [*options, *others])


def format_value(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{format_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return override("", value)[1:] if isinstance(value, str) else repr(value)


# The files in conf/ ------------------------------------------------------------------------------


def _conf() -> Path:
    # the package is not imported: it would search Hydra's plugins
    spec = find_spec("mnistcnn.conf")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@cache
def _options(group: str) -> frozenset[str]:
    return frozenset(file.stem for file in (_conf() / group).glob("*.yaml"))


def _option_file(group: str, option: str) -> Path:
    return _conf() / group / f"{option}.yaml"


@cache
def _read(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _base_values() -> dict[str, Any]:
    """Return the default values of the settings outside of the groups."""
    values: dict[str, Any] = {}
    for name in ("artifacts.yaml", "train.yaml"):
        content = _read(_conf() / name)
        omitted = ("defaults", *COMMAND_KEYS)
        values |= flatten({key: value for key, value in content.items() if key not in omitted})
    return values


def _default_groups(model: str) -> dict[str, str]:
    """Return the default option of each group of settings; the optimizer is that of the model."""
    groups = {}
    for entry in _read(_conf() / "train.yaml")["defaults"]:
        if isinstance(entry, dict):
            ((group, option),) = entry.items()
            if (_conf() / group).is_dir() and option is not None:
                groups[group] = option
    for entry in _read(_option_file("model", model)).get("defaults", []):
        if isinstance(entry, dict):
            ((key, option),) = entry.items()
            groups[key.removeprefix("override /").partition("@")[0]] = option
    return groups


def _option_values(group: str, option: str) -> dict[str, Any]:
    """Return the values of an option by full name, with those of the options it is based on."""
    if option not in _options(group):
        return _option_values(group, DEFAULT_OPTION[group]) if group in DEFAULT_OPTION else {}
    content = _read(_option_file(group, option))
    values: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            values |= _option_values(group, entry)
    own = {key: value for key, value in content.items() if key != "defaults"}
    # the name that is chosen is compared with the default option of the group
    return values | {
        key: value for key, value in flatten(own, f"{group}.").items() if key != f"{group}.name"
    }
