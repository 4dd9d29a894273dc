"""The frame around a command: Hydra inside, plain lines and an exit code outside.

Exit codes: 0 done, 1 something went wrong while running, 2 what was asked for is not possible,
130 interrupted from the keyboard.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from mnistcnn import device, override_errors, rundir
from mnistcnn.config import EvaluateSettings, TrainSettings, to_settings
from mnistcnn.errors import PlainError

CONF = "pkg://mnistcnn.conf"
SETTINGS = {"train": TrainSettings, "evaluate": EvaluateSettings}
USAGE, INTERRUPTED = 2, 130  # exit codes

# A job's directory may be named after its overrides, in characters that a later override can
# hold without quotes, and short enough for any file system.
OmegaConf.register_new_resolver("slug", rundir.slug, replace=True)


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
            _settings(config, kwargs["config_name"])
            rundir.create(Path(config.hydra.run.dir), "hydra.run.dir")
        except Exception as error:
            raise _Refused(error) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            for overrides in _jobs(config):
                _settings(compose(kwargs["config_name"], overrides), kwargs["config_name"])
            rundir.create(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
        except Exception as error:
            raise _Refused(error) from error


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a multirun, where they are known before it starts."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def _settings(composed: DictConfig, config_name: str) -> Any:
    own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    settings = to_settings(SETTINGS[config_name], own)
    device.resolve(settings.device)  # whether there is such a device here
    return settings


def run_app(config_name: str, task: Callable[[Any, Path], object]) -> None:
    """Compose ``conf/<config_name>.yaml`` with the overrides of the command line and run ``task``.

    ``task`` takes the settings and the run's directory. Returns where all went well; else says
    what did not and exits with a code.
    """
    with_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through: they are told here
    _take_hold_of_output()
    exit_codes: list[int] = []  # and not the errors, whose tracebacks hold networks and data

    def fail(error: Exception, exit_code: int) -> None:
        exit_codes.append(exit_code)
        if with_traceback:
            traceback.print_exception(error)
        print(f"mnistcnn: {_plain(error)}", file=sys.stderr)

    def job(composed: DictConfig) -> None:
        out = Path(HydraConfig.get().runtime.output_dir)
        try:
            task(_settings(composed, config_name), out)
        except Exception as error:  # goes no further: a multirun's other jobs go on
            with contextlib.suppress(OSError):
                out.rmdir()  # Hydra's, and still empty where the task did not begin
            fail(error, _exit_code(error))

    try:
        override_errors.refuse(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)(job)()
    except _Refused as refused:
        fail(refused.error, USAGE)
    except KeyboardInterrupt:
        print("mnistcnn: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:  # not a job's: nothing could be made of the command line
        fail(error, USAGE)
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads any more: say nothing about it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if len(exit_codes) > 1:
        print(f"mnistcnn: {len(exit_codes)} runs failed", file=sys.stderr)
    if exit_codes:
        sys.exit(exit_codes[0])


def _exit_code(error: Exception) -> int:
    if isinstance(error, PlainError):
        return error.exit_code
    return USAGE if isinstance(error, HydraException | OmegaConfBaseException) else 1


def _plain(error: Exception) -> str:
    """One or two lines for a person."""
    if isinstance(error, PlainError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return override_errors.explain(error)
    return f"{type(error).__name__}: {error} (HYDRA_FULL_ERROR=1 shows where)"


class _Console(logging.StreamHandler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _take_hold_of_output() -> None:
    """Log to the console, and let nothing about a terminal, or its absence, end a run."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called
            setattr(sys, name, open(os.devnull, "w"))
        with contextlib.suppress(AttributeError):  # a stand-in that takes any character
            getattr(sys, name).reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # a closed pipe or a full disk is no reason for tracebacks
    logger = logging.getLogger("mnistcnn")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Hydra has handlers of its own on the root logger
    handler = _Console(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    logger.handlers = [handler]
