"""Compute t-SNE coordinates and nearest neighbours of feature vectors."""

import numpy as np

PCA_COMPONENTS = 50


def sample_indices(count: int, population: int, generator: np.random.Generator) -> np.ndarray:
    """Return sorted indices of ``count`` random samples, or of all samples if there are fewer."""
    return np.sort(generator.permutation(population)[:count])


def tsne(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Return t-SNE coordinates (N, 2) float32 of features (N, F), initialised with PCA.

    More than 50 features are first reduced to 50 principal components (van der Maaten and Hinton,
    JMLR 9, 2008). The perplexity is limited to (N - 1) / 3. Initialisation is random if the
    features vary in fewer than two dimensions, as in a collapsed network.

    Raises ValueError if a feature is not finite, because scikit-learn would crash.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    if features.shape[1] > PCA_COMPONENTS < len(features):
        features = PCA(PCA_COMPONENTS, random_state=seed).fit_transform(features)
    perplexity = min(perplexity, (len(features) - 1) / 3)
    rank = np.linalg.matrix_rank(features - features.mean(axis=0))
    init = "pca" if rank >= 2 else "random"
    embedding = TSNE(perplexity=perplexity, init=init, random_state=seed, n_jobs=-1)
    return embedding.fit_transform(features)


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
