"""Scores of predictions, compared with values computed by hand."""

import numpy as np
import pytest

from mnistcnn.evaluation import metrics
from mnistcnn.evaluation.metrics import Predictions


def predictions(labels: list[int], rows: list[dict[int, float]]) -> Predictions:
    """Return predictions with the given probabilities; a row's other digits share the remainder."""
    probabilities = np.zeros((len(rows), 10))
    for index, row in enumerate(rows):
        probabilities[index] = (1 - sum(row.values())) / (10 - len(row))
        for digit, value in row.items():
            probabilities[index, digit] = value
    with np.errstate(divide="ignore"):
        return Predictions(np.array(labels), np.log(probabilities).astype(np.float32))


FOUR = predictions(
    [3, 3, 7, 0],
    [{3: 0.9, 8: 0.05}, {5: 0.6, 3: 0.3}, {7: 0.5}, {6: 0.99, 0: 0.005}],
)


def test_score():
    score = metrics.score(FOUR)
    assert score["accuracy"] == 0.5 and score["error"] == 0.5
    expected = -np.log([0.9, 0.3, 0.5, 0.005]).mean()
    assert score["loss"] == pytest.approx(expected, rel=1e-6)


def test_loss_is_finite_if_a_probability_rounds_to_zero():
    wrong = Predictions(np.array([1]), np.full((1, 10), -200.0, np.float32))
    assert metrics.score(wrong)["loss"] == 200.0


def test_detailed_score():
    score = metrics.detailed_score(FOUR)
    # Wilson: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p=1/2, n=4, z=1.95996
    assert score["accuracy_ci95"] == pytest.approx([0.15003, 0.84997], abs=1e-5)
    matrix = np.array(score["confusion_matrix"])
    assert matrix.sum() == 4
    counts = {(t, p): int(matrix[t, p]) for t, p in np.argwhere(matrix)}
    assert counts == {(3, 3): 1, (3, 5): 1, (7, 7): 1, (0, 6): 1}
    three = score["per_class"][3]
    assert (three["precision"], three["recall"], three["support"]) == (1.0, 0.5, 2)
    assert three["f1"] == pytest.approx(2 / 3)
    assert score["per_class"][9] == {
        "digit": 9,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }


def test_expected_calibration_error():
    # four samples in four bins: |1 - .9|, |0 - .6|, |1 - .5|, |0 - .99|, each a quarter
    assert metrics.expected_calibration_error(FOUR) == pytest.approx(
        (0.1 + 0.6 + 0.5 + 0.99) / 4, rel=1e-5
    )
    # two samples in the same bin ]0.8, 0.867], with accuracy 0.5 and mean confidence 0.83
    pair = predictions([1, 2], [{1: 0.81}, {3: 0.85}])
    assert metrics.expected_calibration_error(pair) == pytest.approx(abs(0.5 - 0.83), rel=1e-5)


def test_confidence_of_one_is_in_the_last_bin():
    certain = predictions([1], [{1: 1.0}])
    assert metrics.expected_calibration_error(certain) == 0.0


def test_most_confident_errors():
    assert metrics.most_confident_errors(FOUR, 9).tolist() == [3, 1]
    assert metrics.most_confident_errors(FOUR, 1).tolist() == [3]
    correct = predictions([1], [{1: 0.9}])
    assert metrics.most_confident_errors(correct, 9).tolist() == []
