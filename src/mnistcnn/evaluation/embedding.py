"""Compute t-SNE coordinates and nearest neighbours of feature vectors."""

from dataclasses import dataclass

import numpy as np

PCA_COMPONENTS = 50


@dataclass(frozen=True)
class Embedding:
    """The result of t-SNE: coordinates (N, 2) float32, and the KL divergence that it reached."""

    coordinates: np.ndarray
    kl_divergence: float
    package: str  # name of the package that computed it


def sample_indices(count: int, population: int, generator: np.random.Generator) -> np.ndarray:
    """Return sorted indices of ``count`` random samples, or of all samples if there are fewer."""
    return np.sort(generator.permutation(population)[:count])


def tsne(features: np.ndarray, perplexity: float, seed: int, threads: int) -> Embedding:
    """Compute t-SNE of features (N, F), N >= 10, initialised with PCA.

    More than 50 features are first reduced to 50 principal components (van der Maaten and Hinton,
    JMLR 9, 2008). The perplexity is limited to (N - 1) / 3. Initialisation is random if the
    features vary in fewer than two dimensions, as in a collapsed network. The coordinates do not
    depend on the number of ``threads``, except for rounding errors of PCA.

    Raises ValueError if a feature is not finite, because the libraries would crash.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    features = features / (np.abs(features).max() or 1)  # t-SNE is the same on any scale
    with threadpool_limits(threads):
        if features.shape[1] > PCA_COMPONENTS < len(features):
            features = PCA(PCA_COMPONENTS, random_state=seed).fit_transform(features)
        perplexity = min(perplexity, (len(features) - 1) / 3)
        rank = np.linalg.matrix_rank(features - features.mean(axis=0))
        init = "pca" if rank >= 2 else "random"
        arguments = features, perplexity, init, seed, threads
        try:
            return embed_with_opentsne(*arguments)
        except ImportError:  # it has no wheel for Linux on ARM
            return embed_with_scikit_learn(*arguments)


def embed_with_opentsne(
    features: np.ndarray, perplexity: float, init: str, seed: int, threads: int
) -> Embedding:
    """Compute t-SNE with openTSNE; ``init`` is ``pca`` or ``random``.

    Raises ImportError if it is not installed.
    """
    import openTSNE

    result = openTSNE.TSNE(
        perplexity=perplexity,
        initialization=init,
        neighbors="exact",
        negative_gradient_method="bh",
        random_state=seed,
        n_jobs=threads,
    ).fit(features)
    return Embedding(np.asarray(result, np.float32), float(result.kl_divergence), "openTSNE")


def embed_with_scikit_learn(
    features: np.ndarray, perplexity: float, init: str, seed: int, threads: int
) -> Embedding:
    """Compute t-SNE with scikit-learn, which is slower; ``init`` is ``pca`` or ``random``."""
    from sklearn.manifold import TSNE

    embedding = TSNE(perplexity=perplexity, init=init, random_state=seed, n_jobs=threads)
    coordinates = embedding.fit_transform(features)
    return Embedding(coordinates, float(embedding.kl_divergence_), "scikit-learn")


def nearest_neighbours(
    features: np.ndarray, targets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` rows of ``features`` (N, F) nearest to each target row, excluding itself.

    ``targets`` are row indices (T,). The result is the neighbours' indices (T, k), nearest first,
    and their Euclidean distances (T, k).
    """
    from sklearn.neighbors import NearestNeighbors

    # Query one more: a target is among its own neighbours, but not always first, because
    # another image may have the same features.
    index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(features)
    distances, indices = index.kneighbors(features[targets])
    others = indices != targets[:, None]
    others[others.all(axis=1), -1] = False  # k + 1 equal rows precede the target: drop the last
    return indices[others].reshape(-1, k), distances[others].reshape(-1, k)
