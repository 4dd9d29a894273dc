"""Predictions to numbers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mnistcnn import DIGITS


@dataclass(frozen=True)
class Predictions:
    """What a network says of N labelled images, in their order.

    ``labels`` (N,) int64; ``log_probabilities`` (N, 10) float32, natural logarithms; ``features``
    (N, F) float32, the penultimate features, or None where nobody asked for them.
    """

    labels: np.ndarray
    log_probabilities: np.ndarray
    features: np.ndarray | None = None

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, 10) float32."""
        return np.exp(self.log_probabilities)

    @cached_property
    def digits(self) -> np.ndarray:
        """The most probable digit of each image, (N,) int64."""
        return self.log_probabilities.argmax(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """(N,) bool."""
        return self.digits == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted digit, (N,) float32."""
        return self.probabilities.max(axis=1)


def score(predictions: Predictions) -> dict[str, float]:
    """Mean cross-entropy in nats, and accuracy and error in [0, 1]."""
    rows = np.arange(len(predictions.labels))
    log_likelihood = predictions.log_probabilities[rows, predictions.labels]
    loss = float(-log_likelihood.mean(dtype=np.float64))
    return score_of(loss, float(predictions.correct.mean()), len(rows))


def score_of(loss: float, accuracy: float, count: int) -> dict[str, float]:
    """What :func:`score` gives for ``count`` images, where loss and accuracy are known already."""
    correct = round(accuracy * count)
    return {"loss": loss, "accuracy": correct / count, "error": (count - correct) / count}


def detailed_score(predictions: Predictions) -> dict:
    """What :func:`score` gives, and all that a test set tells beside it.

    ``accuracy_ci95`` is Wilson's interval, ``per_class`` has precision, recall, F1 and support of
    each digit, ``ece`` is the expected calibration error, ``confusion_matrix`` counts true digits
    in rows and predicted digits in columns.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, digits = predictions.labels, list(range(DIGITS))
    test = binomtest(int(predictions.correct.sum()), len(labels))
    interval = test.proportion_ci(0.95, method="wilson")
    per_class = precision_recall_fscore_support(
        labels, predictions.digits, labels=digits, zero_division=0.0
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
            for digit, precision, recall, f1, support in zip(digits, *per_class, strict=True)
        ],
        "ece": expected_calibration_error(predictions),
        "confusion_matrix": confusion_matrix(labels, predictions.digits, labels=digits).tolist(),
    }


def expected_calibration_error(predictions: Predictions, bins: int = 15) -> float:
    """Gap between confidence and accuracy, averaged over samples, in [0, 1].

    Samples are binned by confidence into ``bins`` bins (low, high] of equal width (Guo et al.,
    arXiv:1706.04599, equation 3).
    """
    confidence = predictions.confidence.astype(np.float64)
    bin_of = np.ceil(confidence * bins).astype(int)  # 1 ... bins
    # of each bin: (accuracy - confidence) times its number of samples
    gaps = np.bincount(bin_of, weights=predictions.correct - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def best_epoch(history: list[dict]) -> int:
    """The first epoch of the highest validation accuracy, of rows as ``history.jsonl`` has them."""
    return max(history, key=lambda row: row["val_accuracy"])["epoch"]


def most_confident_errors(predictions: Predictions, count: int) -> np.ndarray:
    """Indices of the wrong predictions of the highest probability, at most ``count``."""
    wrong = np.flatnonzero(~predictions.correct)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return wrong[order[:count]]
