"""Check the settings and directories of a run or a sweep before it starts."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from mnistcnn.cli.composition import compose_settings
from mnistcnn.cli.hydra_arguments import sweep_overrides
from mnistcnn.cli.parallelism import (
    concurrent_jobs,
    job_slots,
    limit_slots,
    limit_threads,
    threads_per_job,
)
from mnistcnn.cli.sweep_jobs import read_pairs, sweep_jobs
from mnistcnn.config.load import flatten, to_dict, to_settings, without_command_keys
from mnistcnn.config.schema import EvaluateSettings, TrainSettings
from mnistcnn.data.batches import steps_per_epoch
from mnistcnn.data.dataset import training_count
from mnistcnn.experiments.disk_space import log_disk_space
from mnistcnn.experiments.multirun import Multirun
from mnistcnn.experiments.sweep_file import record_sweep
from mnistcnn.kernels.selection import check_kernels
from mnistcnn.models.precision import check_precision
from mnistcnn.runs.directory import (
    HASH_LENGTH,
    MAX_SLUG_LENGTH,
    RUN_DIR_KEY,
    SWEEP,
    create_run_dir,
    refuse_existing_run,
    slugify,
)
from mnistcnn.runs.identity import NON_IDENTITY_KEYS, config_sha256
from mnistcnn.runs.store import find_runs
from mnistcnn.system.devices import resolve_device
from mnistcnn.system.errors import UsageError
from mnistcnn.system.quoting import override
from mnistcnn.training.logger import check_logger
from mnistcnn.training.optim import check_steps
from mnistcnn.training.resume import resumed_settings

log = logging.getLogger(__name__)

# by the configuration's name
SCHEMAS: dict[str, type[TrainSettings | EvaluateSettings]] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
}


# Resolvers of the configuration files ------------------------------------------------------------


def _run_name(*, _root_: DictConfig) -> str:
    """Name the directory of a job after the settings that vary, and a hash of all its settings."""
    settings = to_settings(TrainSettings, _root_)
    slug = slugify(_root_.hydra.job.override_dirname) or "run"
    return f"{slug}-{config_sha256(settings)[:HASH_LENGTH]}"


def _run_dir(resume: Any, new: str) -> str:
    """Return the directory of the run to resume, or else ``new``."""
    if resume is None:
        return new
    # Path.expanduser would raise RuntimeError for an unknown user
    return os.path.expanduser(str(resume))  # noqa: PTH111


def _sweep_dir(default: str, *, _root_: DictConfig) -> str:
    """Return the directory of an experiment's sweep, or ``default`` if no experiment is chosen.

    It is named after the experiment and the overrides that make other runs: the same command
    resumes the sweep, another command has another directory.
    """
    experiment = _root_.hydra.runtime.choices.get("experiment")
    if experiment is None:
        return default
    typed = OverridesParser.create().parse_overrides(list(_root_.hydra.overrides.task))
    excluded = ("experiment", "logger", *NON_IDENTITY_KEYS)
    parts = [str(each.input_line) for each in typed if each.key_or_group not in excluded]
    text = ",".join([experiment, *sorted(parts)])
    name = slugify(text)
    # truncated, or with lists, whose brackets are not in the name
    if len(name) == MAX_SLUG_LENGTH or re.search(r"[^\w.,=()+-]", text):
        name += f"-{hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]}"
    return f"outputs/experiments/{name}"


OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, replace=True)


def resume_dir(composed: DictConfig) -> Path | None:
    """Return the directory of the run to resume, or None.

    Raises UsageError if ``resume`` is not a valid name.
    """
    value = composed.get("resume")
    if value is None:
        return None
    if not isinstance(value, str):  # Hydra has read a number, true or a list
        raise UsageError(f"resume={value} is not a name: quote it, as in resume=\"'{value}'\"")
    if not value:
        raise UsageError("resume= is empty: give the directory of a run, or omit it")
    if "${" in value:
        raise UsageError(f"resume={value}: the name of a directory cannot contain ${{")
    return Path(_run_dir(value, ""))


# One run -----------------------------------------------------------------------------------------


def job_settings(composed: DictConfig, config_name: str, overrides: Sequence[str]) -> Any:
    """Return the checked settings of a composed configuration; ``overrides`` are the job's."""
    run_dir = resume_dir(composed)
    if run_dir is None:
        settings = to_settings(SCHEMAS[config_name], composed)
    else:
        settings = resumed_settings(run_dir, _explicit_settings(composed, config_name, overrides))
    _check_machine(settings)
    return settings


def _check_machine(settings: TrainSettings | EvaluateSettings) -> None:
    """Raise UsageError if this machine lacks the device, precision, kernels or logger set."""
    device = resolve_device(settings.device)
    compile_mode = settings.compile if isinstance(settings, TrainSettings) else "none"
    precision = settings.precision or "auto"
    check_precision(precision, device)
    check_kernels(settings.kernels, device, precision, compile_mode)
    if isinstance(settings, TrainSettings):
        check_logger(settings.logger.name)


def check_run(config: DictConfig, config_name: str) -> None:
    """Check the settings, the data and the directory of a single run."""
    settings = job_settings(config, config_name, config.hydra.overrides.task)
    run_dir = Path(config.hydra.run.dir)
    resumed_dir = resume_dir(config)
    if resumed_dir is None:
        refuse_existing_run(run_dir, RUN_DIR_KEY)
        if (run_dir / SWEEP).exists():
            raise UsageError(f"{RUN_DIR_KEY}={run_dir} holds a sweep: choose another directory")
        if isinstance(settings, TrainSettings):
            check_data([settings])
        create_run_dir(run_dir, RUN_DIR_KEY)
    elif run_dir != resumed_dir:
        raise UsageError("resume continues in the run's own directory: omit hydra.run.dir")


def check_data(settings: Iterable[TrainSettings]) -> None:
    """Check the data of runs, and what depends on the number of training images.

    Missing files are downloaded. Raises UsageError.
    """
    counts: dict[str, int] = {}  # the runs of a sweep have few different datasets
    for each in settings:
        key = repr(each.data)
        if key not in counts:
            counts[key] = training_count(each.data)
        check_steps(each.scheduler, each.epochs * steps_per_epoch(each, counts[key]))


def _explicit_settings(
    composed: DictConfig, config_name: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Return, by full name, the settings in ``overrides`` and those not at their defaults."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = tuple(f"{override.key_or_group}." for override in parsed)
    values, defaults = (_flat_settings(each) for each in (composed, compose(config_name)))
    return {
        **{key: value for key, value in values.items() if f"{key}.".startswith(named)},
        **{key: value for key, value in values.items() if defaults.get(key, ...) != value},
    }


def _flat_settings(composed: DictConfig) -> dict[str, Any]:
    return flatten(to_dict(without_command_keys(composed)))


# A sweep -----------------------------------------------------------------------------------------


def plan_multirun(config: DictConfig, config_name: str, typed: Sequence[str]) -> Multirun:
    """Check all jobs of a sweep that are known before it starts, and return the Multirun.

    ``typed`` are the command's arguments.
    """
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    overrides = sweep_overrides(config)
    if any(each.key_or_group == "resume" for each in overrides):
        raise UsageError(
            "resume is for one run, without -m: to resume a sweep, repeat its command with the "
            "same hydra.sweep.dir"
        )
    if sweeper._target_.endswith(".GridSweeper"):
        jobs = sweep_jobs(overrides, read_pairs(sweeper.pairs))
        settings = compose_settings(config_name, SCHEMAS[config_name], jobs)
        total = len(settings)
    else:  # the sweeper chooses the settings of each job
        settings, total = [], sweeper.get("n_trials")
    for each in settings:
        _check_machine(each)
    examples = settings or [to_settings(SCHEMAS[config_name], config)]
    slots = job_slots(launcher, examples, len(settings) or sweeper.get("n_jobs", 1))
    concurrent = concurrent_jobs(launcher, sweeper, len(settings), len(slots))
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    existing = find_runs(sweep_dir) if sweep_dir.is_dir() else []
    if config_name != "train" and existing:
        raise UsageError(
            f"hydra.sweep.dir={sweep_dir} already holds runs: choose another directory"
        )
    by_hash = {config_sha256(each): each for each in settings if isinstance(each, TrainSettings)}
    complete = {run.config_sha256 for run in existing if run.complete}
    missing = [each for key, each in by_hash.items() if key not in complete]
    _log_number_of_runs(sweep_dir, len(by_hash) or total, len(by_hash) - len(missing))
    if config_name == "train":
        check_data(missing if settings else [to_settings(TrainSettings, config)])
    create_run_dir(sweep_dir, "hydra.sweep.dir")
    command = ["python", "-m", f"mnistcnn.{config_name}", *typed]
    keys = [each.key_or_group for each in overrides]
    threads = threads_per_job(launcher, concurrent)
    stored = record_sweep(sweep_dir, command, keys, settings, threads)
    threads = limit_threads(stored) if threads else None  # another machine has its own default
    slots = limit_slots(slots[:concurrent], launcher, threads)
    log_disk_space(sweep_dir, missing, concurrent)
    _set_for_jobs(config, sweep_dir, [o for o in overrides if not o.is_sweep_override()])
    return Multirun(
        sweep_dir,
        jobs=by_hash,
        total=total,
        threads=threads,
        slots=slots,
        fail_fast=launcher.get("fail_fast", False),
        defers_locked_jobs=bool(settings),
    )


def _log_number_of_runs(sweep_dir: Path, total: int | None, complete: int) -> None:
    line = "the sweep has " + ("1 run" if total == 1 else f"{total} runs")
    if complete:
        line += f", {complete} of them already complete"
    log.info("%s: %s", line, sweep_dir)


def _set_for_jobs(config: DictConfig, sweep_dir: Path, shared: list[Override]) -> None:
    """Set the directory of the sweep for all jobs, whose overrides are not those typed.

    Also omit overrides shared by all jobs from ``override_dirname``, which names directories.
    """
    keys = ",".join(each.key_or_group for each in shared)
    with open_dict(config):
        config.hydra.overrides.hydra += [
            override("hydra.sweep.dir", sweep_dir),
            f"hydra.job.config.override_dirname.exclude_keys=[{keys}]",
        ]
