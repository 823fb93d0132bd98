"""Images ask the collection for their like: how many of the nearest are of their class."""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.knn import normalize
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.params.evaluate import Retrieval

# Q queries, N images

_QUERIES_AT_ONCE = 256
_PRECISION_AT = 10


def score_retrieval(train: Labelled, test: Labelled, params: Retrieval) -> Scores:
    """Test images ask the whole collection for their like, and never find themselves.

    Returns:
        `top1` and `top5`: whether the nearest, or one of the five nearest, is of the query's class;
        `precision_at_10`: the share of the ten nearest that are; `map`: the mean over
        the queries of the average precision over the whole ranking (Manning et al. 2008, Introduction to
        Information Retrieval, sec. 8.4). Queries whose class has no other image are left out.
    """
    features = normalize(np.concatenate([train.features, test.features]))
    labels = np.concatenate([train.labels, test.labels])
    num_queries = min(params.num_queries, len(test.labels))
    rng = np.random.default_rng(params.seed)
    queries = len(train.labels) + np.sort(rng.choice(len(test.labels), num_queries, replace=False))
    hits, precisions, average_precisions = [], [], []
    for start in range(0, num_queries, _QUERIES_AT_ONCE):
        rows = queries[start : start + _QUERIES_AT_ONCE]
        similarity = features[rows] @ features.T
        similarity[np.arange(len(rows)), rows] = -np.inf  # itself: last, and cut off below
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        relevant = labels[order] == labels[rows][:, None]
        relevant = relevant[relevant.any(axis=1)]
        hits.append(np.stack([relevant[:, :k].any(axis=1) for k in (1, 5)], axis=1))
        precisions.append(relevant[:, :_PRECISION_AT].mean(axis=1))
        average_precisions.append(average_precision(relevant))
    top1, top5 = np.concatenate(hits).mean(axis=0).tolist()
    return {
        "top1": top1,
        "top5": top5,
        "precision_at_10": float(np.concatenate(precisions).mean()),
        "map": float(np.concatenate(average_precisions).mean()),
    }


def average_precision(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of the precisions at the ranks of the relevant, [Q, N] ranked from the best -> [Q]."""
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return np.asarray((precision * relevant).sum(axis=1) / relevant.sum(axis=1), dtype=np.float64)
