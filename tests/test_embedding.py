"""Nearest neighbours and t-SNE."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from mnistcnn.evaluation import embedding

from .conftest import ROOT


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


needs_open_tsne = pytest.mark.skipif(
    find_spec("openTSNE") is None, reason="openTSNE is not installed"
)
CLUSTERS = np.repeat(np.arange(3), 40)


def features_of_clusters() -> np.ndarray:
    generator = np.random.default_rng(1)
    centres = generator.normal(scale=10, size=(3, 80))
    return (centres[CLUSTERS] + generator.normal(size=(120, 80))).astype(np.float32)


def tsne(features: np.ndarray, perplexity: float, threads: int = 1) -> embedding.Embedding:
    return embedding.tsne(features, perplexity, seed=4, threads=threads)


def run_python(code: str, variables: dict[str, str]) -> None:
    """Run code that must print nothing in a new interpreter in which warnings are errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.fixture
def without_open_tsne(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)  # importing it raises ImportError


def assert_preserves_clusters(coordinates: np.ndarray) -> None:
    assert coordinates.shape == (120, 2) and coordinates.dtype == np.float32
    indices, _ = embedding.nearest_neighbours(coordinates, np.arange(120), 5)
    assert (CLUSTERS[indices] == CLUSTERS[:, None]).mean() > 0.99


@needs_open_tsne
def test_tsne_preserves_clusters_and_prints_nothing(caplog, capfd):
    caplog.set_level("WARNING")
    result = tsne(features_of_clusters(), 10)
    assert result.package == "openTSNE"
    assert_preserves_clusters(result.coordinates)
    assert caplog.text == "" and capfd.readouterr() == ("", "")


@needs_open_tsne
def test_scikit_learn_reaches_the_same_kl_divergence(without_open_tsne, monkeypatch):
    result = tsne(features_of_clusters(), 10)
    assert result.package == "scikit-learn"
    assert_preserves_clusters(result.coordinates)
    monkeypatch.undo()
    other = tsne(features_of_clusters(), 10)
    assert other.package == "openTSNE"
    assert other.kl_divergence == pytest.approx(result.kl_divergence, rel=0.05)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tsne_does_not_depend_on_the_scale(scale):
    features = features_of_clusters()
    result = tsne(np.float32(scale) * features, 10)
    assert result.kl_divergence == pytest.approx(tsne(features, 10).kl_divergence, rel=0.05)


def test_tsne_is_reproducible_with_any_number_of_threads():
    # Without OMP_WAIT_POLICY, threads that wait would take the cores from other tests.
    code = """
import numpy as np
from tests.test_embedding import features_of_clusters, tsne
results = [tsne(features_of_clusters(), 10, threads) for threads in (1, 1, 2, 2, 3)]
for result in results[1:]:
    assert np.array_equal(result.coordinates, results[0].coordinates)
    assert round(result.kl_divergence, 3) == round(results[0].kl_divergence, 3)
"""
    run_python(code, {"OMP_WAIT_POLICY": "passive"})


@needs_open_tsne
def test_tsne_takes_the_given_number_of_threads(monkeypatch):
    import openTSNE

    limits = []

    def record_threads(**arguments: Any) -> openTSNE.TSNE:
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        limits.append((arguments["n_jobs"], max(pools)))
        return original(**arguments | {"n_jobs": 1})

    original = openTSNE.TSNE
    monkeypatch.setattr(openTSNE, "TSNE", record_threads)
    before = threadpoolctl.threadpool_info()
    for threads in (1, 2):
        tsne(features_of_clusters(), 10, threads)
    assert limits == [(1, 1), (2, 2)]
    assert threadpoolctl.threadpool_info() == before


@pytest.mark.parametrize(
    "library", [pytest.param("openTSNE", marks=needs_open_tsne), "scikit-learn"]
)
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
    assert result.package == "{library}" and np.isfinite(result.kl_divergence)
    assert np.isfinite(result.coordinates).all()
"""
    run_python(code, {})


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
