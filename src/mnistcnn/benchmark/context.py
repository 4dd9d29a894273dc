"""Share the dataset, models and table format among the sections of the benchmark."""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from mnistcnn.benchmark.baselines import write_raw_files
from mnistcnn.benchmark.timing import RateMeter, Spread, matrix_product_rate
from mnistcnn.config.load import to_settings
from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.batches import training_batches
from mnistcnn.data.dataset import DatasetSplits, load_splits
from mnistcnn.experiments.documents import markdown_table
from mnistcnn.kernels.selection import kernels_obstacle, select_kernels
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.precision import select_precision
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.training.step import TrainMetrics
from mnistcnn.training.trainer import Trainer, build_model

MNISTCNN = "mnistcnn"


@dataclass
class Section:
    """A table with notes. JSON has all rounds of a Spread, Markdown its median and range."""

    header: list[str]
    rows: list[list[str | Spread]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_markdown(self, title: str, heading: str = "##") -> str:
        """Return the title, the table and the notes as Markdown."""
        table = markdown_table(self.header, self.rows)
        return "\n\n".join([f"{heading} {title}", table, *self.notes])


@dataclass
class Context:
    """The dataset and how much is measured.

    ``overrides`` choose the dataset and the device in all settings. With ``quick``, all sections
    use tiny sizes.
    """

    device: torch.device
    overrides: list[str]
    rounds: int
    quick: bool
    temporary_dir: Path

    @cached_property
    def splits(self) -> DatasetSplits:
        """The dataset, on the device. Raises UsageError if it is not available."""
        settings = self.settings()
        return load_splits(settings.data, settings.seed).to(self.device)

    @cached_property
    def raw_files(self) -> Path:
        """The directory of the dataset's files for torchvision."""
        root, splits = self.new_dir(), self.splits
        files = {
            "train-images-idx3-ubyte": torch.cat([splits.train.pixels, splits.validation.pixels]),
            "train-labels-idx1-ubyte": torch.cat([splits.train.labels, splits.validation.labels]),
            "t10k-images-idx3-ubyte": splits.test.pixels,
            "t10k-labels-idx1-ubyte": splits.test.labels,
        }
        write_raw_files(root, files)
        return root

    @property
    def kernels(self) -> list[str]:
        """The values of the setting ``kernels`` that can be used here."""
        usable = kernels_obstacle(self.device, "auto", "auto") is None
        return ["native", "torch"] if usable else ["torch"]

    def new_dir(self) -> Path:
        """Create an empty directory, which is removed at the end of the benchmark."""
        return Path(tempfile.mkdtemp(dir=self.temporary_dir))

    def settings(self, *overrides: str) -> TrainSettings:
        """Return the settings of ``python -m mnistcnn.train`` with these overrides."""
        with initialize_config_module("mnistcnn.conf", version_base="1.3"):
            return to_settings(TrainSettings, compose("train", [*self.overrides, *overrides]))

    def meter(self, warm_up: int = 10) -> RateMeter:
        """Return a new meter for at least 3 seconds; with ``quick``, for 0.1 seconds."""
        if self.quick:
            return RateMeter(self.device, min_seconds=0.1, warm_up=1)
        return RateMeter(self.device, min_seconds=3.0, warm_up=warm_up)

    def rate(self, work: Iterator[int], warm_up: int = 10) -> float:
        """Return the samples per second of ``work``, an endless iterator over batch sizes.

        A second call continues the work.
        """
        meter = self.meter(warm_up)
        while not meter.add(next(work)):
            pass
        return meter.rate

    def matrix_rate(self, precision: torch.dtype) -> float:
        """Return the FLOP/s of the fastest matrix product."""
        return matrix_product_rate(self.device, precision, (256,) if self.quick else ())

    def trainer(self, settings: TrainSettings) -> Trainer:
        """Build a new model and its trainer."""
        return Trainer(self.model(settings), self.splits, settings, RunRecord(self.new_dir()))

    def model(self, settings: TrainSettings) -> Classifier:
        """Build a new model, in training mode."""
        model = build_model(settings, self.splits)
        precision = select_precision(model, settings.precision)
        select_kernels(model, settings.kernels, precision, settings.compile)
        return model.train()

    def train(self, *overrides: str) -> Iterator[int]:
        """Train a new model without end; yield the size of each batch after its step.

        The epochs are those of ``Trainer.fit``, without scores and checkpoints.
        """
        settings = self.settings(*overrides)
        trainer = self.trainer(settings)
        for epoch in itertools.count(1):
            trainer.metrics = TrainMetrics(epoch)
            for images, labels in training_batches(self.splits.train, settings, epoch):
                trainer.step(images, labels)
                yield len(labels)
            trainer.metrics.flush()
