"""Let Hydra run all combinations of values, or pairs of them: ``hydra/sweeper=grid``.

Hydra finds sweepers only in the namespace ``hydra_plugins``, and imports them at every start: this
module imports nothing that takes time.
"""

import time
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override


class GridSweeper(BasicSweeper):
    """Hydra's sweeper with ``pairs``, as ``conf/hydra/sweeper/grid.yaml`` says."""

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        pairs: Any = None,
    ):
        super().__init__(max_batch_size, params)
        self.pairs = pairs

    def split_arguments(  # type: ignore[override]  # a static method in the base class
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of each job, in batches."""
        from mnistcnn.cli.sweep_jobs import read_pairs, sweep_jobs

        jobs = sweep_jobs(overrides, read_pairs(self.pairs))
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the command has checked all jobs."""
        time.sleep(0.001)  # Hydra divides by the duration of this call
