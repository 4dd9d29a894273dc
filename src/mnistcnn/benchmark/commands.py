"""Sections measured with fresh processes: start, artifacts and scaling."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from subprocess import DEVNULL, PIPE

from mnistcnn.benchmark import baselines
from mnistcnn.benchmark.baselines import LIGHTNING
from mnistcnn.benchmark.context import MNISTCNN, Context, Section
from mnistcnn.benchmark.timing import Spread, alternate, ratios, spread
from mnistcnn.runs.directory import LAST, METRICS
from mnistcnn.runs.history import read_history
from mnistcnn.system.errors import MnistcnnError
from mnistcnn.system.quoting import join_arguments, override

IMPORT_TORCH = '`python -c "import torch"`'
SMALL_TSNE = ["tsne.samples=100", "tsne.perplexity=10"]
QUICK_RUN = ["epochs=1", "data.fraction=0.1", *SMALL_TSNE]


@dataclass(frozen=True)
class TimedRun:
    """The measurements of one ``mnistcnn.train`` process."""

    command_seconds: float
    phases: dict[str, float]  # seconds
    epoch_seconds: float  # all epochs
    training_seconds: float  # all epochs, without scoring
    peak_megabytes: float


def run_python(*arguments: str) -> str:
    """Return the output of ``python ARGUMENTS``. Raises MnistcnnError if it fails."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if result.returncode:
        reason = " ".join(result.stderr.splitlines()[-3:])
        raise MnistcnnError(f"{join_arguments(['python', *arguments])} failed: {reason}")
    return result.stdout


def command_seconds(*arguments: str) -> float:
    """Return the wall time of ``python ARGUMENTS`` in seconds. Raises MnistcnnError if it fails."""
    start = time.perf_counter()
    run_python(*arguments)
    return time.perf_counter() - start


def timed_run(context: Context, *overrides: str) -> TimedRun:
    """Run ``python -m mnistcnn.train OVERRIDES``. Raises MnistcnnError if it fails."""
    run_dir = context.new_dir()
    seconds = command_seconds(
        *_train_arguments(context, *overrides, override("hydra.run.dir", run_dir))
    )
    metrics, history = json.loads((run_dir / METRICS).read_text()), read_history(run_dir)
    images = metrics["data"]["train"]
    return TimedRun(
        command_seconds=seconds,
        phases=metrics["seconds"],
        epoch_seconds=sum(row["seconds"] for row in history),
        training_seconds=sum(images / row["samples_per_second"] for row in history),
        peak_megabytes=metrics["peak_memory_bytes"] / 1e6,
    )


def seconds_to_first_batch(context: Context) -> float:
    """Return the seconds from the start of ``python -m mnistcnn.train`` to its first batch.

    The first checkpoint is written immediately before that batch; its time is included. The
    process is then killed. Raises MnistcnnError if it ends earlier.
    """
    run_dir = context.new_dir()
    command = [sys.executable, *_train_arguments(context, override("hydra.run.dir", run_dir))]
    start = time.time()
    with subprocess.Popen(command, stdout=DEVNULL, stderr=PIPE, text=True) as process:
        try:
            while not (run_dir / LAST).exists():
                if process.poll() is not None:
                    raise MnistcnnError(f"the run has no first batch: {process.communicate()[1]}")
                time.sleep(0.01)
            return (run_dir / LAST).stat().st_mtime - start
        finally:
            process.kill()


def _train_arguments(context: Context, *overrides: str) -> list[str]:
    quick = QUICK_RUN if context.quick else []
    return ["-m", "mnistcnn.train", *context.overrides, *quick, *overrides]


def start(context: Context) -> Section:
    """Measure the seconds from the start of a command to its first batch."""
    section = Section(["", "seconds", f"as a multiple of {IMPORT_TORCH}"])
    measurements = {
        IMPORT_TORCH: partial(command_seconds, "-c", "import torch"),
        MNISTCNN: partial(seconds_to_first_batch, context),
    }
    if baselines.is_installed(LIGHTNING, context.device):
        root, device = str(context.raw_files), str(context.device)
        code = f"baselines.exit_at_first_lightning_batch({root!r}, {device!r})"
        code = f"from mnistcnn.benchmark import baselines; {code}"
        measurements[LIGHTNING] = partial(command_seconds, "-c", code)
    seconds = alternate(measurements, context.rounds + 1)
    for name, (_, *values) in seconds.items():  # the first round fills the system's file cache
        multiple = "" if name == IMPORT_TORCH else ratios(values, seconds[IMPORT_TORCH][1:])
        section.rows.append([name, spread(values), multiple])
    if not baselines.is_installed(LIGHTNING, context.device):
        section.rows.append([LIGHTNING, "not installed", ""])
    return section


def artifacts(context: Context) -> Section:
    """Measure the seconds of each phase of one default run, and its peak memory."""
    run = timed_run(context)
    rows: list[list[str | Spread]] = [
        [f"`{name}`", f"{seconds:.3f}"] for name, seconds in run.phases.items()
    ]
    written = sum(run.phases[n] for n in set(run.phases) - {"total", "data", "fit", "checkpoints"})
    note = (
        f"One run. `fit` includes `checkpoints` and {run.epoch_seconds:.2f} s of epochs; test and "
        f"artifacts take {written:.2f} s, the command {run.command_seconds:.2f} s. Peak memory "
        f"{run.peak_megabytes:,.0f} MB."
    )
    return Section(["phase", "seconds"], rows, [note])


def scaling(context: Context) -> Section:
    """Measure time and memory of runs with several numbers of images and epochs and batch sizes."""
    columns = ["epoch_seconds", "training_seconds", "peak_megabytes"]
    section = Section(["", *(name.replace("_", " ") for name in columns)])
    values = {
        "data.fraction": (0.05, 0.1) if context.quick else (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1),
        "epochs": (1, 2) if context.quick else (1, 2, 4, 8),
        "batch_size": (32, 128) if context.quick else (32, 64, 128, 256, 512),
    }
    overrides = [*SMALL_TSNE, "epochs=1" if context.quick else "epochs=4"]
    measurements = {
        f"{key}={value:g}": partial(timed_run, context, *overrides, f"{key}={value}")
        for key in values
        for value in values[key]
    }
    for name, runs in alternate(measurements, context.rounds).items():
        cells = [spread(getattr(run, column) for run in runs) for column in columns]
        section.rows.append([name, *cells])
    return section
