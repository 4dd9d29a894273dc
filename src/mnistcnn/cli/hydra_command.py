"""Run a command configured by Hydra: one run, or the jobs of a sweep."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from mnistcnn.cli import hydra_arguments, messages, planning
from mnistcnn.cli.app import report_interrupt, run_cli, wants_traceback
from mnistcnn.config.load import to_yaml
from mnistcnn.experiments.documents import plain_text
from mnistcnn.experiments.job_process import Job, Task
from mnistcnn.experiments.multirun import FailedFast, Multirun
from mnistcnn.experiments.summary import summarise
from mnistcnn.runs.directory import CONFIG, missing_directories, remove_empty_directories
from mnistcnn.system.errors import MnistcnnError, UsageError, report_error
from mnistcnn.system.logs import setup_logging
from mnistcnn.system.quoting import format_command, override, quote_argument

log = logging.getLogger(__name__)

CONFIG_PATH = "pkg://mnistcnn.conf"


@dataclass
class HydraCommand:
    """The command of this process; launchers copy it to other processes to run jobs there."""

    config_name: str
    task: Task
    show_traceback: bool
    arguments: list[str] = field(default_factory=lambda: sys.argv[1:])  # as typed
    multirun: Multirun | None = None
    exit_code: int = 0
    new_directories: list[Path] = field(default_factory=list)  # to remove if they stay empty

    def run(self) -> int:
        """Let Hydra compose the configuration and call this object; return the exit code."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing them
        try:
            arguments = hydra_arguments.parse_arguments(self.arguments)
            hydra_arguments.check_overrides(arguments, self.config_name)
            if hydra_arguments.shows_resumed_run(arguments):
                print(_resumed_config(arguments, self.config_name), end="")
                return 0
            sys.argv[1:] = hydra_arguments.flags_first(arguments)
            main = hydra.main(
                version_base="1.3", config_path=CONFIG_PATH, config_name=self.config_name
            )
            main(self)()
        except ConfigRejected as rejected:
            remove_empty_directories(self.new_directories)
            self._report(rejected.error)
            return UsageError.exit_code
        except NothingToRun:
            pass
        except FailedFast as stop:
            log.error("%s", stop)
            self.exit_code = 1
        except KeyboardInterrupt as stop:
            self.exit_code = report_interrupt(stop)
        except Exception as error:  # of the command line or of a launcher, not of a job
            self._report(error)
            self.exit_code = UsageError.exit_code if self.multirun is None else 1
        if self.multirun is not None:
            self._finish_multirun(self.multirun)
        return self.exit_code

    def run_jobs(
        self, compose_each: Sequence[Callable[[], DictConfig]], first: int
    ) -> list[JobReturn]:
        """Run the jobs of a sweep, numbered from ``first``.

        ``compose_each`` returns the configuration of each job.
        """
        assert self.multirun is not None  # planned before the launcher is called
        jobs = self._jobs(compose_each, first)
        results = self.multirun.run_jobs(self.task, jobs, self.show_traceback)
        if None in results.values():
            self.exit_code = 1
        return [
            JobReturn(status=JobStatus.COMPLETED, _return_value=results.get(number))
            for number in range(first, first + len(compose_each))
        ]

    def _jobs(self, compose_each: Sequence[Callable[[], DictConfig]], first: int) -> Iterator[Job]:
        for number, compose_job in enumerate(compose_each, first):
            try:
                config = compose_job()
                with open_dict(config.hydra.job):  # which names the directory
                    config.hydra.job.num, config.hydra.job.id = number, str(number)
                run_dir = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
                overrides = config.hydra.overrides.task
                settings = planning.job_settings(config, self.config_name, overrides)
            except Exception as error:  # of this job; the others run
                self._report(error)
                self.exit_code = 1
                if self.multirun is not None and self.multirun.fail_fast:
                    raise FailedFast from error
                continue
            yield Job(number, settings, run_dir)

    def __call__(self, composed: DictConfig) -> float | None:
        """Run one job. Errors are reported and not raised, so that other jobs still run."""
        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        try:
            settings = planning.job_settings(
                composed, self.config_name, hydra_config.overrides.task
            )
            if self.multirun is not None:
                setup_logging()  # the process may be a launcher's worker
                number = hydra_config.job.num
                return self.multirun.run_job(
                    self.task, settings, run_dir, number, self.show_traceback
                )
            options = {} if planning.resume_dir(composed) is None else {"resume": True}
            self.task(settings, run_dir, **options)
        except KeyboardInterrupt as stop:
            if self.multirun is not None:
                raise
            remove_empty_directories(self.new_directories)
            self.exit_code = report_interrupt(stop)
            self._print_resume_command(run_dir)
        except Exception as error:
            remove_empty_directories(self.new_directories)
            self.exit_code = self._report(error)
            if not isinstance(error, MnistcnnError) or error.retryable:
                self._print_resume_command(run_dir)
        return None

    def _report(self, error: Exception) -> int:
        if isinstance(error, HydraException | OmegaConfBaseException):
            explained = UsageError(messages.explain(error))
            explained.__cause__ = error
            error = explained
        return report_error(error, self.show_traceback)

    def _print_resume_command(self, run_dir: Path) -> None:
        if self.config_name == "train" and (run_dir / CONFIG).is_file():
            command = format_command("mnistcnn.train", [override("resume", run_dir)])
            print(f"to resume: {command}", file=sys.stderr)

    def _finish_multirun(self, multirun: Multirun) -> None:
        """Print the summary of a sweep and the next command, then write the summary's files."""
        missing = 0
        try:
            missing = multirun.count_incomplete()
            summary = summarise(multirun.directory)
            is_study = self.config_name == "train" and not multirun.jobs
            best = summary.best("Best trial" if is_study else "Lowest validation error")
            text = [plain_text(summary.text), f"Results: {multirun.directory}", best]
            if best:
                compare = format_command("mnistcnn.compare", [str(multirun.directory)])
                text.append(f"To compare the groups: {compare}")
            with contextlib.suppress(BrokenPipeError):
                print("\n" + "\n\n".join(filter(None, text)), flush=True)
            summary.write()
        except Exception as error:
            self._report(error)
            self.exit_code = self.exit_code or 1  # the command line was valid
        if missing:
            line = f"mnistcnn: {missing} run{' is' if missing == 1 else 's are'} not complete"
            if not_started := multirun.count_not_started():
                line += f" ({not_started} not started)"
            if multirun.jobs:  # else the next command may choose other settings
                directory = quote_argument(override("hydra.sweep.dir", multirun.directory))
                line += f"; to run only the missing ones, repeat the command with {directory}"
            print(line, file=sys.stderr)
            self.exit_code = self.exit_code or 1


_current_command: ContextVar[HydraCommand] = ContextVar("current_command")


def run_hydra_command(config_name: str, task: Task) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command-line overrides, and run ``task``.

    ``task`` takes the settings and a directory, and is called for each job of a sweep. It must be
    a module-level function, since each job runs in its own process. Exits unless the exit code is
    0.
    """
    command = HydraCommand(config_name, task, show_traceback=wants_traceback())
    _current_command.set(command)
    run_cli(command.run)


class ConfigRejected(BaseException):
    """Carries an error out of a Hydra callback: Hydra turns an Exception into a warning."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


class NothingToRun(BaseException):
    """Ends a sweep whose runs are all complete before Hydra starts its jobs."""


class ValidateCallback(Callback):
    """Checks the configuration of a run, or of all jobs of a sweep, before Hydra starts it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run. Raises ConfigRejected."""
        try:
            hydra_arguments.check_hydra_settings(config)
            _current_command.get().new_directories = missing_directories(Path(config.hydra.run.dir))
            planning.check_run(config, kwargs["config_name"])
        except Exception as error:
            raise ConfigRejected(error) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the jobs of a sweep and plan the sweep. Raises ConfigRejected."""
        command = _current_command.get()
        try:
            hydra_arguments.check_hydra_settings(config)
            command.new_directories = missing_directories(Path(config.hydra.sweep.dir))
            command.multirun = planning.plan_multirun(
                config, kwargs["config_name"], command.arguments
            )
            is_complete = command.multirun.is_complete()
        except Exception as error:
            raise ConfigRejected(error) from error
        if is_complete:  # Hydra would compose the configuration of each job
            raise NothingToRun


def _resumed_config(arguments: argparse.Namespace, config_name: str) -> str:
    """Return the configuration of the run to resume, with the settings in ``arguments`` changed."""
    overrides = arguments.overrides
    with initialize_config_module("mnistcnn.conf", version_base="1.3"):
        composed = compose(config_name, overrides)
        settings = planning.job_settings(composed, config_name, overrides)
    return to_yaml(settings)
