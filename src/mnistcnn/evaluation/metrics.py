"""Compute scores from predictions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mnistcnn import NUM_CLASSES


@dataclass(frozen=True)
class Predictions:
    """Model outputs for N labelled images.

    ``labels`` is (N,) int64, ``log_probabilities`` (N, 10) float32 with natural logarithms, and
    ``features`` (N, F) float32, the penultimate features, or None if they were not kept.
    """

    labels: np.ndarray
    log_probabilities: np.ndarray
    features: np.ndarray | None = None

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Class probabilities, (N, 10) float32."""
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


def detailed_score(predictions: Predictions) -> dict[str, Any]:
    """Return the result of :func:`score` with additional test-set metrics.

    ``accuracy_ci95`` is the Wilson interval, ``per_class`` has precision, recall, F1 and support
    of each digit, ``ece`` is the expected calibration error, and ``confusion_matrix`` has true
    digits in rows and predicted digits in columns.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = predictions.labels, predictions.predicted
    classes = list(range(NUM_CLASSES))
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
                "digit": digit,
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": int(support),
            }
            for digit, precision, recall, f1, support in zip(classes, *per_class, strict=True)
        ],
        "ece": expected_calibration_error(predictions),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def expected_calibration_error(predictions: Predictions, bins: int = 15) -> float:
    """Return the sample-weighted mean gap between confidence and accuracy, in [0, 1].

    Samples are binned by confidence into ``bins`` equal-width bins (low, high] (Guo et al.,
    arXiv:1706.04599, equation 3).
    """
    confidence = predictions.confidence.astype(np.float64)
    bin_indices = np.ceil(confidence * bins).astype(int)  # 1 ... bins
    # per bin: (accuracy - confidence) * number of samples
    gaps = np.bincount(bin_indices, weights=predictions.correct - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def most_confident_errors(predictions: Predictions, count: int) -> np.ndarray:
    """Return the indices of at most ``count`` errors, the most confident first."""
    wrong = np.flatnonzero(~predictions.correct)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return wrong[order[:count]]
