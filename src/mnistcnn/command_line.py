"""The frame around a command: Hydra inside, plain lines and an exit code outside.

Exit codes: 0 done, 1 something went wrong while running, 2 what was asked for is not possible,
130, 143 and 138 stopped by Ctrl-C, SIGTERM and SIGUSR1.
"""

import contextlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mnistcnn import console, device, override_errors, resume, rundir, signals, sweep
from mnistcnn.config import (
    OF_THE_COMMAND,
    EvaluateSettings,
    TrainSettings,
    fingerprint,
    flat,
    to_settings,
)
from mnistcnn.errors import PlainError, UsageError
from mnistcnn.multirun import Multirun

CONF = "pkg://mnistcnn.conf"
SETTINGS = {"train": TrainSettings, "evaluate": EvaluateSettings}
USAGE = 2  # exit code
HASH_LENGTH = 10  # hexadecimal digits in a directory's name


def _run_name(*, _root_: DictConfig) -> str:
    """The directory of a job: what varies, as a person would name it, and what it is known by.

    In characters that a later override can hold without quotes, and short enough for any file
    system. Jobs with the same name are the same job.
    """
    settings = to_settings(SETTINGS[_root_.hydra.job.config_name], _root_)
    varies = rundir.slug(_root_.hydra.job.override_dirname) or "run"
    return f"{varies}-{fingerprint(settings)[:HASH_LENGTH]}"


def _run_dir(resume: Any, new: str) -> str:
    """The directory of a run: that of the run to go on with, or a new one."""
    return new if resume is None else os.path.expanduser(str(resume))


def _resumed(composed: DictConfig) -> Path | None:
    """The directory of the run to go on with. Raises UsageError for what names none."""
    value = composed.get("resume")
    if value is None:
        return None
    if not isinstance(value, str):  # as Hydra reads a number, true or a list
        raise UsageError(f"resume={value} is no name: quote it, as in resume=\"'{value}'\"")
    if not value or "${" in value:
        raise UsageError(f"resume={value}: name the directory of a run, and one without ${{")
    return Path(_run_dir(value, ""))


OmegaConf.register_new_resolver("slug", rundir.slug, replace=True)
OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


class _Refused(BaseException):
    """Carries an error out of a Hydra callback: Hydra turns callbacks' Exceptions into warnings."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


class CheckFirst(Callback):
    """Checks a run before Hydra makes its directory, so that a refused run leaves none.

    Of a multirun, all jobs are checked before the first one starts.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _settings(config, kwargs["config_name"], config.hydra.overrides.task)
            resumed = _resumed(config)
            if resumed is None:
                rundir.create(Path(config.hydra.run.dir), "hydra.run.dir")
            elif Path(config.hydra.run.dir) != resumed:
                raise UsageError("resume goes on in its own directory: leave hydra.run.dir out")
        except Exception as error:
            raise _Refused(error) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _COMMAND.get().multirun = _plan(config, kwargs["config_name"])
        except Exception as error:
            raise _Refused(error) from error


def _plan(config: DictConfig, config_name: str) -> Multirun:
    """Check all jobs of a multirun, as far as they are known before it starts."""
    if _resumed(config) is not None:
        raise UsageError(
            "resume goes on with one run, without -m: to go on with a sweep, type its command with "
            "the same hydra.sweep.dir"
        )
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    typed = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides(
        [*typed, *config.hydra.overrides.task]  # what is typed later wins
    )
    if sweeper._target_.endswith(".BasicSweeper"):
        batches = BasicSweeper.split_arguments(overrides, None)
        jobs = [_settings(compose(config_name, job), config_name, job) for job in batches[0]]
        total = len(jobs)
    else:
        jobs, total = [], sweeper.get("n_trials")
    directory = rundir.create(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
    if config_name != "train" and sweep.find(directory):
        raise UsageError(f"hydra.sweep.dir={directory} holds runs already: name another directory")
    _name_by_what_varies(config, overrides)
    fingerprints = [fingerprint(job) for job in jobs if isinstance(job, TrainSettings)]
    return Multirun(directory, fingerprints, total, _threads(launcher, sweeper, len(jobs)))


def _threads(launcher: DictConfig, sweeper: DictConfig, jobs: int) -> int | None:
    """Each job's share of the cores where a launcher starts several and leaves that to us."""
    if not launcher._target_.endswith(".LocalLauncher"):  # of submitit
        return None
    if "OMP_NUM_THREADS" in os.environ:  # who typed it has decided
        return None
    batch = min(jobs, sweeper.get("max_batch_size") or jobs) or sweeper.get("n_jobs", 1)
    return max(1, (os.cpu_count() or 1) // batch)


def _name_by_what_varies(config: DictConfig, overrides: list[Override]) -> None:
    """Leave what all jobs share out of ``override_dirname``, after which directories are named."""
    shared = [o.key_or_group for o in overrides if not o.is_sweep_override()]
    with open_dict(config):
        config.hydra.overrides.hydra.append(
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]"
        )


def _settings(composed: DictConfig, config_name: str, overrides: Sequence[str]) -> Any:
    """What a composed configuration asks for, checked. ``overrides`` are what was typed."""
    resumed = _resumed(composed)
    if resumed is None:
        settings = to_settings(SETTINGS[config_name], composed)
    else:
        typed = _typed(composed, config_name, overrides)
        settings = resume.settings(resumed, typed)
    device.resolve(settings.device)  # whether there is such a device here
    return settings


def _typed(composed: DictConfig, config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that were named, and then those that are not as they are by default."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = tuple(f"{override.key_or_group}." for override in parsed)
    now, default = (_flat(config) for config in (composed, compose(config_name)))
    return {
        **{key: value for key, value in now.items() if f"{key}.".startswith(named)},
        **{key: value for key, value in now.items() if default.get(key, ...) != value},
    }


def _flat(composed: DictConfig) -> dict[str, Any]:
    own = OmegaConf.masked_copy(composed, [key for key in composed if key not in OF_THE_COMMAND])
    return flat(OmegaConf.to_container(own, resolve=True))


@dataclass
class _Command:
    """What Hydra calls for each job; launchers take it along to other processes."""

    config_name: str
    task: str
    tell: Callable[[Exception], int]
    multirun: Multirun | None = None
    exit_code: int = 0

    def __call__(self, composed: DictConfig) -> float | None:
        """Nothing that goes wrong goes further: a multirun's other jobs go on."""
        hydra_config = HydraConfig.get()
        out = Path(hydra_config.runtime.output_dir)
        try:
            settings = _settings(composed, self.config_name, hydra_config.overrides.task)
            if self.multirun is not None:
                console.take_hold()
                number = hydra_config.job.num
                return self.multirun.job(self.tell, self.task, settings, out, number)
            go_on = {} if _resumed(composed) is None else {"go_on": True}
            resolve_name(self.task)(settings, out, **go_on)
        except KeyboardInterrupt as stop:
            if self.multirun is not None:
                raise
            with contextlib.suppress(OSError):
                out.rmdir()
            self.exit_code = _tell_of(stop)
            self._tell_how_to_go_on(out)
        except Exception as error:
            with contextlib.suppress(OSError):
                out.rmdir()  # Hydra's, and still empty where the task did not begin
            self.exit_code = self.tell(error)
            if getattr(error, "may_pass", True):
                self._tell_how_to_go_on(out)
        return None

    def _tell_how_to_go_on(self, out: Path) -> None:
        if self.config_name == "train" and (out / rundir.CONFIG).is_file():
            typed = shlex.quote(f"resume={_in_overrides(str(out))}")
            print(f"to go on: python -m mnistcnn.train {typed}", file=sys.stderr)


def _in_overrides(text: str) -> str:
    """A value as Hydra's grammar of overrides reads it back."""
    if re.fullmatch(r"[\w/.+@%-]+", text, re.ASCII):
        return text
    # a backslash is one of two only before a quote
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text)
    return f"'{quoted}'"


_COMMAND: ContextVar[_Command] = ContextVar("command")  # that of this process


def run_app(config_name: str, task: str) -> None:
    """Compose ``conf/<config_name>.yaml`` with the overrides of the command line and run ``task``.

    ``task`` names a function that takes the settings and the run's directory, as
    ``mnistcnn.training:run``. Returns where all went well; else says what did not and exits with a
    code.
    """
    tell = partial(_tell, with_traceback=os.environ.get("HYDRA_FULL_ERROR") == "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through: they are told here
    console.take_hold()
    signals.listen()
    command = _Command(config_name, task, tell)
    _COMMAND.set(command)
    try:
        _run(command)
        if command.multirun is not None:
            _conclude(command, command.multirun)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        command.exit_code = _tell_of(stop)
    except OSError:  # nobody reads any more: say nothing about it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if command.exit_code:
        sys.exit(command.exit_code)


def _run(command: _Command) -> None:
    """Let Hydra compose and call; whatever comes of it is told, and in the exit code."""
    try:
        override_errors.refuse(sys.argv[1:])
        main = hydra.main(version_base="1.3", config_path=CONF, config_name=command.config_name)
        main(command)()
    except _Refused as refused:
        command.tell(refused.error)
        command.exit_code = USAGE
    except KeyboardInterrupt as stop:
        command.exit_code = _tell_of(stop)
    except Exception as error:  # not a job's: of what was typed, or of a launcher that gave up
        command.tell(error)
        command.exit_code = USAGE if command.multirun is None else 1


def _tell_of(stop: KeyboardInterrupt) -> int:
    print(f"mnistcnn: {str(stop) or 'interrupted'}", file=sys.stderr)
    return signals.exit_code(stop)


def _conclude(command: _Command, multirun: Multirun) -> None:
    """The answer of a multirun, also of one that was cut short."""
    try:
        text = sweep.summarise(multirun.directory)
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more
            print("\n" + "\n\n".join(filter(None, [text, f"all of it is in {multirun.directory}"])))
    except Exception as error:
        command.exit_code = command.exit_code or command.tell(error)
    missing = multirun.not_complete()
    if missing:
        line = f"mnistcnn: {missing} run{' is' if missing == 1 else 's are'} not complete"
        if multirun.fingerprints:  # else there is no telling what the same command would do
            line += f"; the same command with hydra.sweep.dir={multirun.directory} does only "
            line += "this one" if missing == 1 else "these"
        print(line, file=sys.stderr)
        command.exit_code = command.exit_code or 1


def _tell(error: Exception, with_traceback: bool) -> int:
    """Print an error; return the exit code that it stands for."""
    if with_traceback:
        traceback.print_exception(error)
    print(f"mnistcnn: {_plain(error)}", file=sys.stderr)
    if isinstance(error, PlainError):
        return error.exit_code
    return USAGE if isinstance(error, HydraException | OmegaConfBaseException) else 1


def _plain(error: Exception) -> str:
    """One or two lines for a person."""
    if isinstance(error, PlainError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return override_errors.explain(error)
    first = next(iter(str(error).splitlines()), "")  # CUDA's have many
    return f"{type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows where)"
