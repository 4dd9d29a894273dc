"""Show a progress bar, and estimate a run's duration after a few seconds of training."""

import logging
import time
from collections.abc import Iterator

from tqdm import tqdm

from mnistcnn.config.schema import CustomSettings, TrainSettings, Vgg16Settings
from mnistcnn.data.batches import steps_per_epoch, steps_per_pass
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.system.logs import format_duration

log = logging.getLogger(__name__)

ESTIMATE_AFTER = 3.0  # seconds of training
LONG_RUN = 600.0  # seconds: a longer estimate is followed by suggestions
CPU_WIDTH = 0.25  # a width at which a CPU can train the large networks


class ProgressReporter:
    """Shows a bar if stderr is a terminal, and logs one estimate of the remaining time.

    Work is counted in training images; scoring an image, which has no backward pass, counts as a
    third. ``steps_taken`` steps were taken before the run was resumed.
    """

    def __init__(self, settings: TrainSettings, splits: DatasetSplits, steps_taken: int = 0):
        count = len(splits.train)
        steps = steps_per_epoch(settings, count)
        passes = steps / steps_per_pass(settings, count)  # per epoch
        self.settings = settings
        self.on_cpu = splits.train.labels.device.type == "cpu"
        self.scored_per_epoch = count + len(splits.validation)
        self.epochs_left = settings.epochs - steps_taken / steps
        self.work_left = self.epochs_left * (passes * count + self.scored_per_epoch / 3)
        self.work_done = 0.0
        self.start = time.perf_counter()
        self.warmed_up = False
        self.estimated = False
        self.bar = tqdm(
            total=settings.epochs * steps,
            initial=steps_taken,
            unit="batch",
            dynamic_ncols=True,
            leave=False,
            disable=None,  # hidden unless stderr is a terminal
        )

    def __enter__(self) -> "ProgressReporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def on_batch(self, samples: int) -> None:
        """Count a training batch."""
        self.bar.update()
        if self.estimated:
            return
        self.work_done += samples
        seconds = time.perf_counter() - self.start
        if seconds >= ESTIMATE_AFTER:
            self._log_estimate(seconds / self.work_done * self.work_left)
        elif not self.warmed_up:  # the first batch is slow: start measuring after it
            self.warmed_up, self.work_done, self.start = True, 0.0, time.perf_counter()

    def on_scored(self) -> None:
        """Count the scoring at the end of an epoch."""
        self.work_done += self.scored_per_epoch / 3

    def _log_estimate(self, seconds: float) -> None:
        self.estimated = True
        log.info("estimated time: %s for %.3g epochs", format_duration(seconds), self.epochs_left)
        if seconds > LONG_RUN:
            log.info("for a shorter run: %s", ", ".join(_suggestions(self.settings, self.on_cpu)))


def _suggestions(settings: TrainSettings, on_cpu: bool) -> Iterator[str]:
    """Yield changes that make a run shorter, the most effective first."""
    model = settings.model
    if isinstance(model, CustomSettings | Vgg16Settings) and model.width > CPU_WIDTH:
        share = (CPU_WIDTH / model.width) ** 2  # work grows with inputs times outputs
        yield f"model.width={CPU_WIDTH} ({100 * share:.0f}% of the work)"
    if settings.steps is not None:
        yield f"steps={max(1, settings.steps // settings.epochs // 4) * settings.epochs}"
    else:
        if settings.data.fraction > 0.25:
            yield "data.fraction=0.25"
        if settings.epochs > 3:
            yield "epochs=3"
    if settings.data.name == "mnist":
        yield "data=mnist5k"
    if on_cpu:
        yield "a GPU"
