"""Let Hydra run the jobs of a sweep in parallel: ``hydra/launcher=local``.

Hydra finds launchers only in the namespace ``hydra_plugins``, and imports them at every start: this
module imports nothing that takes time.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ParallelLauncher(Launcher):
    """Passes the jobs to the command; ``conf/hydra/launcher/local.yaml`` has the settings."""

    def __init__(self, **_: Any):  # mnistcnn.cli reads the settings from the configuration
        self.context: HydraContext | None = None
        self.command: Any = None
        self.config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store what :meth:`launch` needs."""
        self.context, self.command, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs with these overrides; each return value is a validation error."""
        assert self.context is not None and self.config is not None  # set by setup
        load = self.context.config_loader.load_sweep_config
        compose = [partial(load, self.config, list(each)) for each in job_overrides]
        return self.command.run_jobs(compose, initial_job_idx)
