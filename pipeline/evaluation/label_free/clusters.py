"""Do the classes come out by themselves? k-means, which knows no label, against them."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from pipeline.evaluation.knn import normalize
from pipeline.evaluation.labelled import Labelled, Scores

_MOST_IMAGES = 10_000
_STARTS = 3  # of which the tightest clustering is taken
_SEED = 0


def cluster_figures(images: Labelled) -> Scores:
    """k-means' clusters, as many as there are classes, held against the classes.

    Args:
        images: of two classes at least; of more than 10,000 a seeded sample is clustered.

    Returns:
        `nmi`: normalised mutual information, from 0 to 1; `ari`: adjusted Rand index, 0 by chance and 1 where
        the two are the same (Hubert and Arabie 1985, Comparing Partitions); `num_clusters`.
    """
    rows = np.random.default_rng(_SEED).permutation(len(images.labels))[:_MOST_IMAGES]
    labels = images.labels[np.sort(rows)]
    num_clusters = len(np.unique(labels))
    found = clusters_of(images.features[np.sort(rows)], num_clusters)
    return {
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "ari": float(adjusted_rand_score(labels, found)),
        "num_clusters": num_clusters,
    }


def clusters_of(features: NDArray[np.float32], num_clusters: int) -> NDArray[np.int64]:
    """The cluster of each row on the sphere, [N]: of [N, D] into so many, at most N.

    One thread: with more the sums of the centres depend on which of them is done first.
    """
    means = KMeans(num_clusters, n_init=_STARTS, random_state=_SEED)
    with threadpool_limits(1):
        found: NDArray[np.int64] = means.fit(normalize(features)).labels_.astype(np.int64)
    return found
