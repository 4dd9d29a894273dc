"""Parse and check the arguments of a command configured by Hydra, before and after composing."""

import argparse
import difflib
import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from mnistcnn.cli.arguments import CommandParser
from mnistcnn.cli.messages import GROUPS, PLUGIN_EXTRAS, group_options
from mnistcnn.runs.directory import CONFIG
from mnistcnn.system.errors import SettingError, UsageError
from mnistcnn.system.quoting import format_command, override, quote_argument

MODES = ("run", "multirun", "cfg", "info", "shell_completion")  # flags that exclude each other
# Settings that Hydra ignores in a single run, and in a sweep.
SWEEP_ONLY = (
    "hydra/launcher=",
    "hydra/sweeper",
    "hydra.launcher.",
    "hydra.sweeper.",
    "hydra.sweep.",
)
RUN_ONLY = ("hydra.run.",)
# Numbers, at least 1, that the plugins do not check.
COUNTS = (
    "sweeper.max_batch_size",
    "sweeper.n_trials",
    "sweeper.n_jobs",
    "launcher.array_parallelism",
    "launcher.jobs",
    "launcher.jobs_per_gpu",
)
OTHER_VALUES = {"max_batch_size": None, "jobs": "auto"}  # that are no counts


# Flags -------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return Hydra's flags, which may stand anywhere in ``arguments``, and the list ``overrides``.

    Raises UsageError if there is an unknown flag such as ``--epochs 3``, or if the flags contradict
    each other.
    """
    parser = CommandParser(parents=[get_args_parser()], add_help=False)
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    for argument in (*unknown, *parsed.overrides):
        if argument.startswith("-"):
            _refuse_flag(argument, parser._option_string_actions)
    modes = [f"--{name.replace('_', '-')}" for name in MODES if getattr(parsed, name)]
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} cannot be used together: omit one of them")
    if parsed.resolve and not (parsed.cfg or parsed.help):
        raise UsageError("--resolve has an effect only with --cfg, as in --cfg job --resolve")
    if parsed.package and not parsed.cfg:
        raise UsageError("--package has an effect only with --cfg, as in --cfg job --package model")
    return parsed


def _refuse_flag(argument: str, flags: Iterable[str]) -> NoReturn:
    flag, _, _ = argument.partition("=")
    similar = difflib.get_close_matches(flag.lower(), flags, n=1, cutoff=0.8)
    if similar:
        raise UsageError(f"there is no flag {argument}; did you mean {similar[0]}?")
    raise UsageError(
        f"there is no flag {argument}; write settings without dashes, as {flag.lstrip('-')}=..."
    )


def shows_resumed_run(parsed: argparse.Namespace) -> bool:
    """Return whether the arguments ask for the configuration of a run to resume.

    Raises UsageError for another option than ``--cfg job``: the others would show the defaults.
    """
    resume = [each for each in parsed.overrides if re.match(r"\+*resume=(?!null$)", each)]
    if not (parsed.cfg and resume):
        return False
    if parsed.cfg != "job" or parsed.package:
        raise UsageError(f"{resume[-1]}: only --cfg job shows the configuration of a run to resume")
    return True


def flags_first(parsed: argparse.Namespace) -> list[str]:
    """Return the arguments in an order that Hydra's own parser accepts."""
    flags = []
    for name, value in vars(parsed).items():
        if name != "overrides" and value not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            flags.append(flag if value is True else f"{flag}={value}")
    return [*flags, *parsed.overrides]


# Overrides ---------------------------------------------------------------------------------------


def check_overrides(parsed: argparse.Namespace, config_name: str) -> None:
    """Refuse overrides that Hydra would misunderstand or explain badly.

    Raises UsageError for the name of a directory without a key, the removal of a setting, a group
    without a valid option or with several, an option whose plugin is not installed, the ``name`` of
    a group, another configuration than the command's, and several experiments. Raises
    OverrideParseException if an override cannot be parsed.
    """
    if parsed.config_name not in (None, config_name):
        raise UsageError(
            f"--config-name={parsed.config_name}: this command has one configuration, {config_name}"
        )
    for argument in parsed.overrides:
        _check_group(argument)
        if "=" not in argument:
            _suggest_key(argument, config_name)
    overrides = OverridesParser.create().parse_overrides(parsed.overrides)
    for each in overrides:
        if each.key_or_group in GROUPS and isinstance(each.value(), list):
            raise UsageError(
                f"{each.input_line}: choose one option, without brackets (several need -m, as in "
                f"-m {each.key_or_group}={','.join(_option_names(each))})"
            )
    _check_experiments(parsed, overrides)


def _suggest_key(argument: str, config_name: str) -> None:
    if config_name == "evaluate":
        typed = quote_argument(override("ckpt", argument))
        raise UsageError(f"{argument}: to evaluate this run or checkpoint, write {typed}")
    if (Path(argument) / CONFIG).is_file():
        typed = quote_argument(override("resume", argument))
        raise UsageError(f"{argument}: to resume this run, write {typed}")


def _check_group(argument: str) -> None:
    if argument.startswith("~"):
        raise UsageError(f"{argument}: settings cannot be removed")
    group, _, value = argument.lstrip("+").partition("=")
    if group in GROUPS and re.fullmatch(r"null|true|false|\d*", value, re.IGNORECASE):
        raise UsageError(f"{argument}: it must be one of {', '.join(group_options(group))}")
    if argument in ("hydra/launcher=joblib", "hydra/launcher=basic"):
        raise UsageError(
            f"{argument}: sweeps run their jobs in parallel without it: omit it, and set their "
            "number by hydra.launcher.jobs=N"
        )
    if argument == "hydra/sweeper=basic":
        raise UsageError(f"{argument}: omit it, sweeps run all combinations of values")
    if group in PLUGIN_EXTRAS and _lacks_plugin(group, value):
        raise UsageError(
            f"{argument} needs a plugin that is not installed: "
            f'pip install "mnistcnn[{PLUGIN_EXTRAS[group]}]"'
        )
    group, _, name = group.rpartition(".")
    if group in GROUPS and name == "name":
        raise UsageError(f"{argument}: to choose another {group}, write {group}={value}")


def _lacks_plugin(group: str, option: str) -> bool:
    """Return whether an option of a plugin group needs a package that is not installed."""
    file = files("mnistcnn.conf") / group / f"{option}.yaml"
    if not file.is_file():
        return False
    package = ".".join(OmegaConf.create(file.read_text())._target_.split(".")[:2])
    return find_spec(package) is None


def _check_experiments(parsed: argparse.Namespace, overrides: list[Override]) -> None:
    """Refuse several experiments if one has settings of Hydra: a job cannot change the sweep."""
    chosen = [each for each in overrides if each.key_or_group == "experiment"]
    names = list(dict.fromkeys(name for each in chosen for name in _option_names(each)))
    if len(names) < 2:
        return
    is_sweep = parsed.multirun and len(chosen) == 1 and chosen[0].is_sweep_override()
    if is_sweep and not any(_has_hydra_settings(name, parsed.config_dir) for name in names):
        return
    flags = ["-m"] if parsed.multirun else []
    others = [each.input_line or "" for each in overrides if each.key_or_group != "experiment"]
    commands = [
        format_command("mnistcnn.train", [*flags, f"experiment={name}", *others]) for name in names
    ]
    raise UsageError(
        f"experiment={','.join(names)}: each experiment needs its own command: "
        f"{' && '.join(commands)}"
    )


def _option_names(each: Override) -> list[str]:
    """Return the options that an override of a group chooses."""
    value: Any = each.value()
    if isinstance(value, Glob):
        return list(value.filter(group_options(each.key_or_group)))
    if each.is_sweep_override():
        return [str(name) for name in each.sweep_string_iterator()]
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _has_hydra_settings(experiment: str, config_dir: str | None) -> bool:
    folders = [files("mnistcnn.conf"), *([Path(config_dir)] if config_dir else [])]
    found = [folder / "experiment" / f"{experiment}.yaml" for folder in folders]
    return any("hydra" in OmegaConf.create(file.read_text()) for file in found if file.is_file())


# Hydra's settings --------------------------------------------------------------------------------


def check_hydra_settings(config: DictConfig) -> None:
    """Check the composed settings of Hydra that decide what is run, and where.

    Raises UsageError if the directory is empty, if a typed setting has no effect, or if a sweep has
    no jobs.
    """
    is_sweep = config.hydra.mode.name == "MULTIRUN"
    directory, needed = ("sweep", "without -m") if is_sweep else ("run", "with -m")
    if config.get("resume") is None and not str(config.hydra[directory].dir).strip():
        raise UsageError(
            f"hydra.{directory}.dir is empty: give the name of a directory, or omit it"
        )
    for typed in config.hydra.overrides.hydra:
        if typed.lstrip("+").startswith(RUN_ONLY if is_sweep else SWEEP_ONLY):
            raise UsageError(f"{typed} has an effect only {needed}")
    if is_sweep:
        _check_sweep(config)


def _check_sweep(config: DictConfig) -> None:
    for section in ("launcher", "sweeper"):
        if not isinstance(config.hydra[section], DictConfig):
            raise UsageError(
                f"hydra.{section}={config.hydra[section]}: choose one by hydra/{section}=..., of "
                f"{', '.join(group_options(f'hydra/{section}'))}"
            )
    for section, _, name in (key.partition(".") for key in COUNTS):
        value = config.hydra[section].get(name, 1)
        is_count = type(value) is int and value >= 1
        other = OTHER_VALUES.get(name, ...)
        if not is_count and value != other:
            allowed = (
                "auto or a whole number from 1" if other == "auto" else "a whole number from 1"
            )
            raise SettingError(f"hydra.{section}.{name}", value, allowed)
    fail_fast = config.hydra.launcher.get("fail_fast", False)
    if not isinstance(fail_fast, bool):
        raise SettingError("hydra.launcher.fail_fast", fail_fast, "true or false")
    if config.hydra.job.env_set:
        raise UsageError(
            "hydra.job.env_set has no effect: set environment variables before the command"
        )
    for each in {each.key_or_group: each for each in sweep_overrides(config)}.values():
        if each.is_sweep_override() and each.is_discrete_sweep() and not _has_values(each):
            raise UsageError(f"{each.input_line} has no values: there is nothing to run")


def sweep_overrides(config: DictConfig) -> list[Override]:
    """Return the overrides of a sweep: the sweeper's, then those typed, which take precedence."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # for glob()
    return parser.parse_overrides([*params, *config.hydra.overrides.task])


def _has_values(each: Override) -> bool:
    try:
        return next(iter(each.sweep_string_iterator()), None) is not None
    except ValueError:  # a step of 0
        return False
