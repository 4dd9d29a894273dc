"""Find the test images on which two groups of runs disagree, and draw them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistcnn.config.load import read_settings
from mnistcnn.config.schema import MnistSettings
from mnistcnn.data.dataset import load_dataset
from mnistcnn.data.images import Dataset
from mnistcnn.evaluation import mosaic
from mnistcnn.experiments.groups import Group
from mnistcnn.experiments.predictions import load_predictions, most_different
from mnistcnn.experiments.verdicts import Pair
from mnistcnn.runs.directory import CONFIG
from mnistcnn.system.errors import UsageError

MAX_DRAWN = 12  # images in the picture
MAX_LISTED = 60  # images of a pair on the page


class Disagreements(NamedTuple):
    """Test images for which groups A and B predict different classes, the largest difference first.

    ``indices`` are positions in the test set (K,), ``a`` and ``b`` the mean probabilities of the
    groups' runs (K, C), and ``total`` is the number of such images, of which K are listed.
    """

    indices: np.ndarray
    a: np.ndarray
    b: np.ndarray
    total: int


class DisagreementImages:
    """The images on which the groups of each pair disagree, and the test set that they come from.

    ``data_dir`` replaces the ``data.dir`` of the runs.
    """

    def __init__(self, pairs: Sequence[Pair], data_dir: str | None):
        self.pairs = pairs
        self.data_dir = data_dir

    @property
    def dataset(self) -> Dataset:
        """The dataset on which the runs were tested. Raises UsageError if it is not available."""
        if isinstance(self._dataset_or_error, UsageError):
            raise self._dataset_or_error
        return self._dataset_or_error

    @cached_property
    def _dataset_or_error(self) -> Dataset | UsageError:
        """Result of a single attempt, because a failed download takes time."""
        run = self.pairs[0].a.runs[0]
        config = run.path / CONFIG
        try:
            settings = read_settings(config.read_text(), config).data
            if self.data_dir is not None and isinstance(settings, MnistSettings):
                settings = replace(settings, dir=self.data_dir)
            dataset = load_dataset(settings)
        except UsageError as error:
            return error
        same_classes = len(dataset.class_names) == load_predictions(run.path)[1].shape[1]
        if not same_classes or not np.array_equal(dataset.test.labels.numpy(), self.labels):
            return UsageError("the data is not the data on which the runs were tested")
        return dataset

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the test images (N,)."""
        return load_predictions(self.pairs[0].a.runs[0].path)[0]

    def of_pair(self, pair: Pair, count: int = MAX_LISTED) -> Disagreements:
        """Return at most ``count`` images of a pair."""
        a, b = _mean_probabilities(pair.a), _mean_probabilities(pair.b)
        found = most_different(self.labels, a, b)
        indices = found[:count]
        return Disagreements(indices, a[indices], b[indices], len(found))

    def draw(self, path: Path) -> None:
        """Draw the images of the first pair. Raises UsageError without the test set."""
        pair = self.pairs[0]
        indices, a, b, _ = self.of_pair(pair, MAX_DRAWN)
        mosaic.disagreements(
            path,
            self.dataset.test.pixels.numpy()[indices],
            self.labels[indices],
            [a, b],
            indices,
            pair.names,
            self.dataset.class_names,
        )


def _mean_probabilities(group: Group) -> np.ndarray:
    return np.mean([load_predictions(run.path)[1] for run in group.runs], axis=0)
