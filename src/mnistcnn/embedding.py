"""Features to t-SNE coordinates and to nearest neighbours."""

from dataclasses import dataclass

import numpy as np

from mnistcnn.settings import choice, number


@dataclass
class TsneSettings:
    samples: int = number(10, 10_000)  # of the test set, drawn at random; all if it has fewer
    of: str = choice("features", "pixels")
    perplexity: float = number(1, 1000)


@dataclass
class NeighbourSettings:
    targets: int = number(1, 20)  # test images, drawn at random
    k: int = number(1, 50)


def choose(count: int, population: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted indices of ``count`` of ``population`` samples, or of all if there are fewer."""
    return np.sort(generator.permutation(population)[:count])


def tsne(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Coordinates (N, 2) float32 of features (N, F), started from their principal components.

    More than 50 features are reduced to their 50 principal components first, as van der Maaten
    and Hinton did (JMLR 9, 2008). The perplexity is lowered where there are few samples. Features
    of fewer than two dimensions that vary (a network that has collapsed) start at random.

    Raises ValueError for features that are not finite: the library would crash on them.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    components = 50
    if features.shape[1] > components < len(features):
        features = PCA(components, random_state=seed).fit_transform(features)
    perplexity = min(perplexity, (len(features) - 1) / 3)
    dimensions = np.linalg.matrix_rank(features - features.mean(axis=0))
    init = "pca" if dimensions >= 2 else "random"
    embedding = TSNE(perplexity=perplexity, init=init, random_state=seed, n_jobs=-1)
    return embedding.fit_transform(features)


def nearest(features: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows of ``features`` (N, F) nearest to each target row, itself left out.

    Returns their indices (T, k), nearest first, and their Euclidean distances (T, k).
    """
    from sklearn.neighbors import NearestNeighbors

    # one more than asked: the target is among its own neighbours, though not always the first
    # (another image may have the same features)
    pool = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(features)
    distances, indices = pool.kneighbors(features[targets])
    others = indices != targets[:, None]
    others[others.all(axis=1), -1] = False  # k + 1 equals before itself: drop the last of them
    return indices[others].reshape(-1, k), distances[others].reshape(-1, k)
