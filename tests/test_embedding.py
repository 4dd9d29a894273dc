"""Nearest neighbours and t-SNE."""

import subprocess
import sys

import numpy as np
import pytest

from mnistcnn.evaluation import embedding


def test_nearest_neighbours_exclude_the_target_and_are_sorted_by_distance():
    features = np.array([[0.0], [1.0], [3.0], [7.0], [-2.0]], np.float32)
    indices, distances = embedding.nearest_neighbours(features, np.array([0, 3]), 3)
    assert indices.tolist() == [[1, 4, 2], [2, 1, 0]]
    assert distances == pytest.approx(np.array([[1, 2, 3], [4, 6, 7]]))


def test_nearest_neighbours_of_equal_features_exclude_the_target():
    features = np.zeros((9, 4), np.float32)  # a network whose last layer is dead
    for target in range(9):
        indices, distances = embedding.nearest_neighbours(features, np.array([target]), 3)
        assert indices.shape == (1, 3) and target not in indices
        assert not distances.any()


def test_nearest_neighbours_use_the_euclidean_distance():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 6)).astype(np.float32)
    indices, distances = embedding.nearest_neighbours(features, np.array([5]), 4)
    expected = np.linalg.norm(features - features[5], axis=1)
    order = np.argsort(expected)[1:5]
    assert indices[0].tolist() == order.tolist()
    assert distances[0] == pytest.approx(expected[order], rel=1e-4)


def test_sample_indices_are_sorted_and_distinct():
    indices = embedding.sample_indices(5, 100, np.random.default_rng(0))
    assert len(set(indices.tolist())) == 5 and sorted(indices) == indices.tolist()
    all_indices = embedding.sample_indices(500, 100, np.random.default_rng(0))
    assert all_indices.tolist() == list(range(100))


def test_tsne_preserves_clusters_and_is_reproducible():
    generator = np.random.default_rng(1)
    centres = generator.normal(scale=10, size=(3, 80))
    labels = np.repeat(np.arange(3), 40)
    features = (centres[labels] + generator.normal(size=(120, 80))).astype(np.float32)
    first = embedding.tsne(features, perplexity=10, seed=4)
    assert first.shape == (120, 2)
    indices, _ = embedding.nearest_neighbours(first, np.arange(120), 5)
    assert (labels[indices] == labels[:, None]).mean() > 0.99
    assert np.array_equal(first, embedding.tsne(features, perplexity=10, seed=4))


@pytest.mark.parametrize("dimensions", [0, 1])
def test_tsne_of_a_collapsed_network(dimensions):
    """In a subprocess: with PCA initialisation scikit-learn may crash on such features."""
    code = f"""
import numpy as np
from mnistcnn.evaluation import embedding
features = np.zeros((60, 5), np.float32)
features[:, :{dimensions}] = np.random.default_rng(0).normal(size=(60, {dimensions}))
assert np.isfinite(embedding.tsne(features, 10, 0)).all()
assert np.isfinite(embedding.tsne(features[:, :1], 10, 0)).all()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_tsne_rejects_features_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        embedding.tsne(np.full((20, 3), np.nan, np.float32), 5, 0)


def test_tsne_reduces_the_perplexity_for_few_samples():
    features = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    assert embedding.tsne(features, perplexity=30, seed=0).shape == (10, 2)
