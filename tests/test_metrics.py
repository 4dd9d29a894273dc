"""Scores of predictions, compared with values computed by hand."""

import numpy as np
import pytest

from mnistcnn.evaluation import metrics
from mnistcnn.evaluation.metrics import Predictions

NAMES = [f"class {index}" for index in range(10)]


def predictions(labels: list[int], rows: list[dict[int, float]]) -> Predictions:
    """Return predictions with the given probabilities; other classes share the remainder."""
    probabilities = np.zeros((len(rows), 10))
    for index, row in enumerate(rows):
        probabilities[index] = (1 - sum(row.values())) / (10 - len(row))
        for label, value in row.items():
            probabilities[index, label] = value
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
    score = metrics.detailed_score(FOUR, NAMES)
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
        "class": "class 9",
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }


def test_scores_of_three_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    three = Predictions(np.array([0, 2, 1]), np.log(probabilities).astype(np.float32))
    score = metrics.detailed_score(three, ["cat", 'a, "b"', ""])
    assert score["confusion_matrix"] == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert [(row["class"], row["recall"]) for row in score["per_class"]] == [
        ("cat", 1.0),
        ('a, "b"', 0.0),
        ("", 1.0),
    ]


@pytest.mark.parametrize("names", [NAMES[:9], [*NAMES, "class 10"]])
def test_another_number_of_names_than_outputs_is_refused(names):
    with pytest.raises(ValueError, match=f"has 10 outputs, but there are {len(names)} classes"):
        metrics.detailed_score(FOUR, names)


def test_reliability_of_four_samples_in_two_bins():
    rows = [{1: 0.81}, {3: 0.85}, {2: 0.86}, {5: 0.2}]
    bins = metrics.reliability(predictions([1, 3, 1, 5], rows), bins=5)
    assert bins.counts.tolist() == [1, 0, 0, 0, 3]  # 0.2 is in the bin that ends there
    assert bins.confidence == pytest.approx([0.2, *[np.nan] * 3, 0.84], rel=1e-6, nan_ok=True)
    assert bins.accuracy == pytest.approx([1, *[np.nan] * 3, 2 / 3], nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_reliability_counts_every_sample_and_gives_the_calibration_error(seed):
    """Compared with the mean over samples, sorted into bins one by one."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(1000, 4)).astype(np.float32)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    test = Predictions(generator.integers(0, 4, 1000), log_probabilities)
    bins = metrics.reliability(test)
    assert len(bins.counts) == 15 and bins.counts.sum() == 1000
    gaps = [0.0] * 15
    for confidence, correct in zip(test.confidence.tolist(), test.correct, strict=True):
        index = next(k for k in range(15) if confidence * 15 <= k + 1)
        gaps[index] += (correct - confidence) / 1000
    expected = sum(map(abs, gaps))
    assert expected > 0.05
    assert metrics.expected_calibration_error(test) == pytest.approx(expected, rel=1e-9)


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
    assert metrics.most_confident(FOUR, ~FOUR.correct).tolist() == [3, 1]
    correct = predictions([1], [{1: 0.9}])
    assert metrics.most_confident(correct, ~correct.correct).tolist() == []
