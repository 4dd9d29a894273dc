"""One inference pass over the test set becomes every number and picture of a run."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mnistcnn import (
    DIGITS,
    augment,
    data,
    device,
    embedding,
    engine,
    metrics,
    models,
    plots,
    rundir,
    seeding,
    signals,
)
from mnistcnn.augment import AugmentSettings
from mnistcnn.config import TrainSettings
from mnistcnn.data import Digits, Images
from mnistcnn.embedding import NeighbourSettings, TsneSettings
from mnistcnn.errors import WriteError
from mnistcnn.files import write_bytes
from mnistcnn.metrics import Predictions
from mnistcnn.models import Classifier
from mnistcnn.rundir import Record
from mnistcnn.seeding import Stream

log = logging.getLogger(__name__)

ERRORS_SHOWN = 9
AUGMENTED_VARIANTS = 6


def describe(network: Classifier, digits: Digits, settings: TrainSettings) -> dict:
    """What is known of a run before its first epoch, as ``metrics.json`` has it."""
    return {
        "seed": settings.seed,
        "model": {"name": settings.model.name, "parameters": network.parameter_count()},
        "data": digits.describe(),
        "device": device.describe(network.mean.device),
        "precision": str(_precision(network, settings)).removeprefix("torch."),
    }


def _precision(network: Classifier, settings: TrainSettings) -> torch.dtype:
    return device.resolve_precision(settings.precision, network.mean.device)


def write(
    network: Classifier,
    digits: Digits,
    settings: TrainSettings,
    history: list[dict],
    record: Record,
    scored: dict | None = None,
) -> None:
    """Score ``network`` on all splits, and on the test set in every detail, into ``record.out``.

    ``scored`` is the row of ``history`` where the training has scored these very weights; what is
    in it is not computed again. Numbers are written before pictures. Raises WriteError where a
    picture could not be made, after all the others.
    """
    out, seed = record.out, settings.seed
    with record.phase("test"):
        scores, test = _score(network, digits, _precision(network, settings), scored)
    record.values |= scores
    _write_predictions(out, test)
    record.write()
    accuracy, (low, high) = scores["test"]["accuracy"], scores["test"]["accuracy_ci95"]
    log.info(
        "test accuracy %.2f%% (95%% interval %.2f-%.2f%%), validation %.2f%%, training %.2f%%",
        100 * accuracy, 100 * low, 100 * high,
        100 * scores["validation"]["accuracy"], 100 * scores["train"]["accuracy"],
    )  # fmt: skip

    pixels = digits.test.pixels.cpu().numpy()
    confusion = np.array(scores["test"]["confusion_matrix"])
    pictures: dict[str, Callable[[Path], None]] = {
        rundir.CONFUSION_CSV: lambda path: _confusion_csv(path, confusion),
        rundir.CONFUSION_PNG: lambda path: plots.confusion(path, confusion),
        rundir.MISCLASSIFIED: lambda path: _misclassified(path, pixels, test),
        rundir.NEIGHBOURS: lambda path: _neighbours(path, pixels, test, settings.neighbours, seed),
        rundir.AUGMENTED: lambda path: _augmented(path, digits, settings.aug, seed),
        rundir.SUMMARY: lambda path: rundir.write_text(path, models.summary(network) + "\n"),
        rundir.TSNE: lambda path: _tsne(path, pixels, test, settings.tsne, seed),
    }
    if history:
        best_epoch = metrics.best_epoch(history)
        pictures[rundir.CURVES] = lambda path: plots.curves(path, history, best_epoch)
    missing = []
    for name, draw in pictures.items():
        with record.phase(name):
            try:
                draw(out / name)
            except Exception as error:  # the numbers and the other pictures are worth keeping
                log.debug("%s was not written", name, exc_info=True)
                missing.append(f"{name} ({type(error).__name__}: {error})")
        signals.check()
    if missing:
        raise WriteError(f"the numbers are whole, but not written: {', '.join(missing)}")
    record.values["peak_memory_bytes"] = _peak_memory_bytes(network.mean.device)


def _peak_memory_bytes(of: torch.device) -> int | None:
    """Of the accelerator's memory on CUDA, else of this process."""
    if of.type == "cuda":
        return torch.cuda.max_memory_allocated(of)
    return rundir.peak_memory_bytes()


def _score(
    network: Classifier, digits: Digits, precision: torch.dtype, scored: dict | None
) -> tuple[dict[str, dict], Predictions]:
    """Train, validation and test scores, and what the network says of the test set."""

    def score(part: Images, name: str) -> dict[str, float]:
        if scored is not None:
            loss, accuracy = scored[f"{name}_loss"], scored[f"{name}_accuracy"]
            return metrics.score_of(loss, accuracy, len(part))
        return metrics.score(engine.infer(network, data.evaluation_batches(part), precision))

    train, validation = score(digits.train, "train"), score(digits.validation, "val")
    test = engine.infer(network, data.evaluation_batches(digits.test), precision, True)
    detailed = metrics.detailed_score(test)
    return {"train": train, "validation": validation, "test": detailed}, test


def _write_predictions(out: Path, test: Predictions) -> None:
    """``predictions.npz``, in test-set order."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        labels=test.labels,
        predictions=test.digits,
        probabilities=test.probabilities,
    )
    write_bytes(out / rundir.PREDICTIONS, content.getvalue())


def _confusion_csv(path: Path, confusion: np.ndarray) -> None:
    content = io.StringIO()
    header = "true \\ predicted," + ",".join(map(str, range(len(confusion))))
    rows = np.column_stack([np.arange(len(confusion)), confusion])
    np.savetxt(content, rows, fmt="%d", delimiter=",", header=header, comments="")
    rundir.write_text(path, content.getvalue())


def _misclassified(path: Path, pixels: np.ndarray, test: Predictions) -> None:
    wrong = metrics.most_confident_errors(test, ERRORS_SHOWN)
    plots.misclassified(
        path, pixels[wrong], test.labels[wrong], test.digits[wrong], test.confidence[wrong], wrong
    )


def _neighbours(
    path: Path, pixels: np.ndarray, test: Predictions, settings: NeighbourSettings, seed: int
) -> None:
    generator = seeding.numpy_generator(seed, Stream.NEIGHBOURS)
    targets = embedding.choose(settings.targets, len(pixels), generator)
    indices, distances = embedding.nearest(test.features, targets, settings.k)
    plots.neighbours(
        path, pixels[targets], test.labels[targets], pixels[indices], test.labels[indices],
        distances,
    )  # fmt: skip


def _augmented(path: Path, digits: Digits, aug: AugmentSettings, seed: int) -> None:
    """The first training image of each digit, as the first epochs might see it."""
    train = digits.train
    first = torch.stack([torch.argmax((train.labels == digit).int()) for digit in range(DIGITS)])
    images = train[first].pixels
    variants = []
    for variant in range(AUGMENTED_VARIANTS):
        generator = seeding.torch_generator(seed, Stream.AUGMENT, variant + 1)
        draws = augment.draw(aug, len(images), generator).to(images.device)
        unit = augment.apply(data.to_unit(images), draws, aug)
        variants.append((unit.squeeze(1) * 255).cpu().numpy())
    title = f"Training images, and {len(variants)} draws of aug={aug.name}"
    plots.augmented(path, images.cpu().numpy(), np.stack(variants), title)


def _tsne(
    path: Path, pixels: np.ndarray, test: Predictions, settings: TsneSettings, seed: int
) -> None:
    chosen = embedding.choose(
        settings.samples, len(pixels), seeding.numpy_generator(seed, Stream.TSNE)
    )
    if settings.of == "features":
        vectors = test.features[chosen]
        what = f"{vectors.shape[1]} features"
    else:
        vectors = pixels[chosen].reshape(len(chosen), -1) / np.float32(255)
        what = "pixels"
    random_state = seeding.derived_seed(seed, Stream.TSNE)
    coordinates = embedding.tsne(vectors, settings.perplexity, random_state)
    title = f"t-SNE of the {what} of {len(chosen):,} test images"
    plots.tsne(path, coordinates, test.labels[chosen], title)
