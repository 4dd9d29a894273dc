"""Nearest neighbours and t-SNE."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import threadpoolctl

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


CLUSTERS = np.repeat(np.arange(3), 40)


def features_of_clusters() -> np.ndarray:
    generator = np.random.default_rng(1)
    centres = generator.normal(scale=10, size=(3, 80))
    return (centres[CLUSTERS] + generator.normal(size=(120, 80))).astype(np.float32)


def tsne(features: np.ndarray, perplexity: float, threads: int = 1) -> embedding.Embedding:
    return embedding.tsne(features, perplexity, seed=4, threads=threads)


@pytest.fixture
def without_open_tsne(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)  # importing it raises ImportError


def assert_preserves_clusters(coordinates: np.ndarray) -> None:
    assert coordinates.shape == (120, 2) and coordinates.dtype == np.float32
    indices, _ = embedding.nearest_neighbours(coordinates, np.arange(120), 5)
    assert (CLUSTERS[indices] == CLUSTERS[:, None]).mean() > 0.99


def test_tsne_preserves_clusters_and_prints_nothing(caplog, capfd):
    caplog.set_level("WARNING")
    result = tsne(features_of_clusters(), 10)
    assert result.library == "openTSNE"
    assert_preserves_clusters(result.coordinates)
    assert caplog.text == "" and capfd.readouterr() == ("", "")


def test_scikit_learn_reaches_the_same_kl_divergence(without_open_tsne, monkeypatch):
    result = tsne(features_of_clusters(), 10)
    assert result.library == "scikit-learn"
    assert_preserves_clusters(result.coordinates)
    monkeypatch.undo()
    other = tsne(features_of_clusters(), 10)
    assert other.library == "openTSNE"
    assert other.kl_divergence == pytest.approx(result.kl_divergence, rel=0.05)


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tsne_depends_on_neither_the_scale_nor_the_threads(threads, scale):
    features = features_of_clusters()[:, :5]
    first = tsne(features, 10)
    same = tsne(np.float32(scale) * features, 10, threads)
    if scale == 1:
        assert np.array_equal(first.coordinates, same.coordinates)
    assert same.kl_divergence == pytest.approx(first.kl_divergence, rel=0.05)


def test_tsne_takes_the_given_number_of_threads(monkeypatch):
    import openTSNE

    limits = []

    def record_threads(**arguments: Any) -> openTSNE.TSNE:
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        limits.append((arguments["n_jobs"], max(pools)))
        return original(**arguments)

    original = openTSNE.TSNE
    monkeypatch.setattr(openTSNE, "TSNE", record_threads)
    before = threadpoolctl.threadpool_info()
    for threads in (1, 2):
        tsne(features_of_clusters(), 10, threads)
    assert limits == [(1, 1), (2, 2)]
    assert threadpoolctl.threadpool_info() == before


@pytest.mark.parametrize("library", ["openTSNE", "scikit-learn"])
@pytest.mark.parametrize("dimensions", [0, 1])
def test_tsne_of_a_collapsed_network(dimensions, library):
    """In a subprocess: with PCA initialisation scikit-learn may crash on such features."""
    code = f"""
import sys
if "{library}" == "scikit-learn":
    sys.modules["openTSNE"] = None
import numpy as np
from mnistcnn.evaluation import embedding
features = np.zeros((60, 5), np.float32)
features[:, :{dimensions}] = np.random.default_rng(0).normal(size=(60, {dimensions}))
for each in (features, features[:, :1], features[:10]):
    result = embedding.tsne(each, 10, 0, 1)
    assert result.library == "{library}" and np.isfinite(result.kl_divergence)
    assert np.isfinite(result.coordinates).all()
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("distinct", [1, 2, 30])
def test_tsne_of_equal_rows(distinct):
    rows = np.random.default_rng(0).normal(size=(distinct, 5)).astype(np.float32)
    result = tsne(np.repeat(rows, 60 // distinct, axis=0), 10)
    assert np.isfinite(result.coordinates).all() and np.isfinite(result.kl_divergence)


def test_tsne_rejects_features_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        tsne(np.full((20, 3), np.nan, np.float32), 5)


@pytest.mark.parametrize("count", range(10, 16))
def test_tsne_reduces_the_perplexity_for_few_samples(count, caplog):
    features = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    coordinates = tsne(features, perplexity=30).coordinates
    assert coordinates.shape == (count, 2) and np.isfinite(coordinates).all()
    assert "too high" not in caplog.text  # the warning of openTSNE
