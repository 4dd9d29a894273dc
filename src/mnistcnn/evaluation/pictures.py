"""Draw the pictures and the page of a run, from the same arrays."""

import contextlib
import csv
import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mnistcnn.config.schema import TrainSettings
from mnistcnn.data.augment import augment_batch, sample_parameters
from mnistcnn.data.batches import to_float
from mnistcnn.data.dataset import DatasetSplits
from mnistcnn.evaluation import embedding, figures, metrics, mosaic, scatter
from mnistcnn.evaluation.metrics import Predictions
from mnistcnn.evaluation.run_page import EmbeddedImages, RunContent, write_run_page
from mnistcnn.models.classifier import Classifier
from mnistcnn.models.layer_summary import layer_summary, layers
from mnistcnn.runs import directory
from mnistcnn.runs.history import best_epoch
from mnistcnn.runs.metrics_file import RunRecord
from mnistcnn.system import random_streams
from mnistcnn.system.atomic_files import write_text
from mnistcnn.system.random_streams import Stream

# writes a file to a path; returns values for metrics.json, if any
Writer = Callable[[Path], dict[str, Any] | None]

ERROR_COUNT = 9  # images in misclassified.png
MAX_AUGMENTED = 20  # classes in augmented.png
VARIANT_COUNT = 6  # variants of each image in augmented.png


class Augmented(NamedTuple):
    """Training images (K, 28, 28) uint8 and variants of them (V, K, 28, 28), from 0 to 255."""

    originals: np.ndarray
    variants: np.ndarray
    title: str
    class_names: tuple[str, ...]


class Pictures:
    """The pictures and the page of a run; arrays that several of them need are computed once.

    ``test`` are the predictions for the test set, with features. ``record`` has the scores. The
    model was trained with ``trained_settings``, by default ``settings``.
    """

    def __init__(
        self,
        model: Classifier,
        splits: DatasetSplits,
        settings: TrainSettings,
        test: Predictions,
        history: list[dict[str, float]],
        record: RunRecord,
        trained_settings: TrainSettings | None = None,
    ):
        self.model = model
        self.splits = splits
        self.settings = settings
        self.test = test
        self.history = history
        self.record = record
        self.trained_settings = trained_settings or settings
        self.pixels = splits.test.pixels.cpu().numpy()

    def writers(self) -> dict[str, Writer]:
        """Return, by file name, functions that write the file to a path.

        The page is last: it shows most of what the others have computed.
        """
        return {
            directory.CURVES: self._draw_curves,
            directory.CONFUSION_CSV: self._write_confusion_csv,
            directory.CONFUSION_PNG: self._draw_confusion_matrix,
            directory.MISCLASSIFIED: self._draw_misclassified,
            directory.NEIGHBOURS: self._draw_neighbours,
            directory.AUGMENTED: self._draw_augmented,
            directory.MODEL_SUMMARY: self._write_model_summary,
            directory.TSNE: self._draw_tsne,
            directory.RUN_PAGE: self._write_page,
        }

    # Arrays --------------------------------------------------------------------------------------

    @property
    def embedding(self) -> tuple[EmbeddedImages, dict[str, Any]]:
        """t-SNE of test images, and the values about it for ``metrics.json``."""
        if isinstance(self._embedding_or_error, Exception):
            raise self._embedding_or_error
        return self._embedding_or_error

    @cached_property
    def _embedding_or_error(self) -> tuple[EmbeddedImages, dict[str, Any]] | Exception:
        """Result of a single attempt, because t-SNE takes time."""
        try:
            return self._embed()
        except Exception as error:
            return error

    def _embed(self) -> tuple[EmbeddedImages, dict[str, Any]]:
        settings, seed = self.settings.tsne, self.settings.seed
        generator = random_streams.numpy_generator(seed, Stream.TSNE)
        indices = embedding.sample_indices(settings.samples, len(self.pixels), generator)
        if settings.of == "features":
            assert self.test.features is not None
            vectors = self.test.features[indices]
            name = f"{vectors.shape[1]} features"
        else:
            vectors = self.pixels[indices].reshape(len(indices), -1) / np.float32(255)
            name = "pixels"
        random_state = random_streams.derived_seed(seed, Stream.TSNE)
        threads = torch.get_num_threads()
        result = embedding.tsne(vectors, settings.perplexity, random_state, threads)
        kl_divergence = round(result.kl_divergence, 3)  # rounding errors depend on the threads
        title = f"t-SNE of the {name} of {len(indices):,} test images"
        title += f" (KL divergence {kl_divergence:.2f})"
        values = {"tsne": {"package": result.package, "kl_divergence": kl_divergence}}
        return EmbeddedImages(indices, result.coordinates, title), values

    @cached_property
    def augmented(self) -> Augmented:
        """The first training image of each class, of at most MAX_AUGMENTED, with variants."""
        train, aug, names = self.splits.train, self.settings.aug, self.splits.class_names
        labels = range(min(len(names), MAX_AUGMENTED))
        first = torch.stack([torch.argmax((train.labels == label).int()) for label in labels])
        originals = train[first].pixels
        variants = []
        for index in range(VARIANT_COUNT):
            generator = random_streams.torch_generator(
                self.settings.seed, Stream.AUGMENT, index + 1
            )
            parameters = sample_parameters(aug, len(originals), generator).to(originals.device)
            images = augment_batch(to_float(originals), parameters, aug)
            variants.append((images.squeeze(1) * 255).cpu().numpy())
        title = f"Training images and {len(variants)} random variants of each (aug={aug.name})"
        pixels = originals.cpu().numpy()
        if (np.rint(variants) == pixels).all():
            title, variants = f"Training images, not augmented (aug={aug.name})", []
        if len(labels) < len(names):
            title += f", for {len(labels)} of {len(names)} classes"
        return Augmented(pixels, np.array(variants), title, names[: len(labels)])

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Counts with true classes in rows (C, C)."""
        return np.array(self.record.values["test"]["confusion_matrix"])

    # Files ---------------------------------------------------------------------------------------

    def _draw_curves(self, path: Path) -> None:
        figures.curves(path, self.history, best_epoch(self.history))

    def _write_confusion_csv(self, path: Path) -> None:
        content, names = io.StringIO(), self.splits.class_names
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(["true \\ predicted", *names])
        rows = zip(names, self.confusion_matrix.tolist(), strict=True)
        writer.writerows([name, *row] for name, row in rows)
        write_text(path, content.getvalue())

    def _draw_confusion_matrix(self, path: Path) -> None:
        figures.confusion_matrix(path, self.confusion_matrix, self.splits.class_names)

    def _draw_misclassified(self, path: Path) -> None:
        test, indices = (
            self.test,
            metrics.most_confident(self.test, ~self.test.correct)[:ERROR_COUNT],
        )
        mosaic.misclassified(
            path,
            self.pixels[indices],
            test.labels[indices],
            test.predicted[indices],
            test.confidence[indices],
            indices,
            self.splits.class_names,
        )

    def _draw_neighbours(self, path: Path) -> None:
        settings, labels = self.settings.neighbours, self.test.labels
        generator = random_streams.numpy_generator(self.settings.seed, Stream.NEIGHBOURS)
        assert self.test.features is not None
        targets = embedding.sample_indices(settings.targets, len(self.pixels), generator)
        indices, distances = embedding.nearest_neighbours(self.test.features, targets, settings.k)
        mosaic.neighbours(
            path,
            self.pixels[targets],
            labels[targets],
            self.pixels[indices],
            labels[indices],
            distances,
            self.splits.class_names,
        )

    def _draw_augmented(self, path: Path) -> None:
        mosaic.augmented(path, *self.augmented)

    def _write_model_summary(self, path: Path) -> None:
        write_text(path, layer_summary(self.model) + "\n")

    def _draw_tsne(self, path: Path) -> dict[str, Any]:
        points, values = self.embedding
        labels = self.test.labels[points.indices]
        scatter.tsne(path, points.coordinates, labels, self.splits.class_names, points.title)
        return values

    def _write_page(self, path: Path) -> None:
        points = None
        if self.settings.tsne.samples:
            with contextlib.suppress(Exception):  # tsne.png is then reported as missing
                points, _ = self.embedding
        augmented = self.augmented
        write_run_page(
            path,
            RunContent(
                settings=self.settings,
                trained_settings=self.trained_settings,
                metrics=self.record.current_values(),
                history=self.history,
                class_names=self.splits.class_names,
                label_errors=self.splits.label_errors,
                pixels=self.pixels,
                test=self.test,
                embedding=points,
                originals=augmented.originals,
                variants=augmented.variants,
                augmented_title=augmented.title,
                layers=layers(self.model),
            ),
        )
