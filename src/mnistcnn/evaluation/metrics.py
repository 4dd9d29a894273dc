"""Compute scores from predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Model outputs for N labelled images of C classes.

    ``labels`` is (N,) int64, ``log_probabilities`` (N, C) float32 with natural logarithms, and
    ``features`` (N, F) float32, the penultimate features, or None if they were not kept.
    """

    labels: np.ndarray
    log_probabilities: np.ndarray
    features: np.ndarray | None = None

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Class probabilities, (N, C) float32."""
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Most probable class of each image, (N,) int64."""
        return self.log_probabilities.argmax(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct, (N,) bool."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, (N,) float32."""
        return self.probabilities.max(axis=1)


def score(predictions: Predictions) -> dict[str, float]:
    """Return the mean cross-entropy in nats, and accuracy and error in [0, 1]."""
    rows = np.arange(len(predictions.labels))
    log_likelihood = predictions.log_probabilities[rows, predictions.labels]
    loss = float(-log_likelihood.mean(dtype=np.float64))
    return score_from_accuracy(loss, float(predictions.correct.mean()), len(rows))


def score_from_accuracy(loss: float, accuracy: float, count: int) -> dict[str, float]:
    """Return the result of :func:`score` for ``count`` images from their loss and accuracy."""
    correct = round(accuracy * count)
    return {"loss": loss, "accuracy": correct / count, "error": (count - correct) / count}


def detailed_score(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the result of :func:`score` with additional test-set metrics.

    ``accuracy_ci95`` is the Wilson interval, ``per_class`` has precision, recall, F1 and support
    of each class, ``ece`` is the expected calibration error, and ``confusion_matrix`` has true
    classes in rows and predicted classes in columns. Raises ValueError if there is not one name
    for each output of the model.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = predictions.labels, predictions.predicted
    outputs = predictions.log_probabilities.shape[1]
    if len(class_names) != outputs:
        raise ValueError(
            f"the model has {outputs} outputs, but there are {len(class_names)} classes"
        )
    classes = list(range(outputs))
    test = binomtest(int(predictions.correct.sum()), len(labels))
    interval = test.proportion_ci(0.95, method="wilson")
    per_class = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    return {
        **score(predictions),
        "accuracy_ci95": [float(interval.low), float(interval.high)],
        "per_class": [
            {
                "class": name,
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": int(support),
            }
            for name, precision, recall, f1, support in zip(class_names, *per_class, strict=True)
        ],
        "ece": expected_calibration_error(predictions),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


@dataclass(frozen=True)
class Reliability:
    """The values of a reliability diagram, one per bin of the confidence.

    ``counts`` is the number of samples (int64), ``confidence`` their mean confidence and
    ``accuracy`` the share that is classified correctly (float64). Both are NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Group samples by confidence into ``bins`` equal-width bins (low, high] from 0 to 1.

    (Guo et al., arXiv:1706.04599, section 2.)
    """
    confidence = predictions.confidence.astype(np.float64)
    # the exponential of a log-probability may be rounded to a value above 1
    indices = np.minimum(np.ceil(confidence * bins).astype(int), bins) - 1

    def sums(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(indices, weights, minlength=bins)

    counts = sums()
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        return Reliability(counts, sums(confidence) / counts, sums(predictions.correct) / counts)


def expected_calibration_error(predictions: Predictions) -> float:
    """Return the sample-weighted mean gap between confidence and accuracy, in [0, 1].

    (Guo et al., arXiv:1706.04599, equation 3.)
    """
    bins = reliability(predictions)
    gaps = bins.counts * np.abs(bins.accuracy - bins.confidence)
    return float(np.nansum(gaps) / bins.counts.sum())


def most_confident(predictions: Predictions, selected: np.ndarray) -> np.ndarray:
    """Return the indices of the samples in the mask ``selected`` (N,), the most confident first."""
    indices = np.flatnonzero(selected)
    return indices[np.argsort(-predictions.confidence[indices], kind="stable")]
