"""Images ask the collection for their like: how many of the nearest are of their class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.figures import TOP5_FROM, mean_recall
from pipeline.evaluation.intervals import headline
from pipeline.evaluation.knn import joined, normalize
from pipeline.evaluation.labelled import Answers, Labelled, Scores
from pipeline.params.evaluate import Retrieval

# Q queries, N images

_BLOCK_BYTES = 64 << 20  # of similarities
_ROWS_AT_ONCE = 1 << 14  # of the collection that are compared
_PRECISION_AT = 10


def askable(
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    contents: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Rows of test images whose class has another image: without one there is nothing to find.

    Args:
        train_labels: [N].
        test_labels: [T].
        contents: of both, [N + T]; equal numbers are equal files, which are one image. None: no two are.
    """
    labels = np.concatenate([train_labels, test_labels])
    if contents is not None:
        labels = np.unique(np.stack([labels, contents]), axis=1)[0]
    classes, counts = np.unique(labels, return_counts=True)
    return np.flatnonzero(np.isin(test_labels, classes[counts > 1]))


@dataclass(frozen=True)
class Retrieved:
    """What Q queries found.

    Attributes:
        queries: rows of the test images that asked, int64 [Q].
        answers: of each the class of its nearest.
        figures: name -> of each query, float64 [Q].
    """

    queries: NDArray[np.int64]
    answers: Answers
    figures: dict[str, NDArray[np.float64]]


def score_retrieval(
    train: Labelled, test: Labelled, params: Retrieval, device: torch.device
) -> tuple[Scores, NDArray[np.int64], Answers]:
    """Test images ask the whole collection for their like, and find neither themselves nor copies of them.

    Args:
        train: none of it asks.
        test: at least one of them has another image of its class.
        params: how many ask.
        device: that compares and ranks.

    Returns:
        `top1` and, of more than five classes, `top5`: whether the nearest, or one of the five nearest, is of
        the query's class; `balanced_accuracy`: the mean of `top1` over the queries' classes; the means of
        the measures of `measures`, of `precision_at_10` and `map_at_r` with their intervals;
        `median_first_rank`: of the first of the query's class, counted from 1. Only images ask whose class
        has another. Then the rows of the test images that asked, and of each the class of its nearest.
    """
    found = retrieve(train, test, params, device)
    first_ranks = found.answers.ranks
    scores: Scores = {"top1": float((first_ranks < 1).mean())}
    if len(np.union1d(train.labels, test.labels)) >= TOP5_FROM:
        scores["top5"] = float((first_ranks < 5).mean())
    scores["balanced_accuracy"] = mean_recall(first_ranks, test.labels[found.queries])
    leaked = test.leaked_of(found.queries)
    for name, values in found.figures.items():
        with_interval = name in ("precision_at_10", "map_at_r")
        scores |= headline(name, values, leaked) if with_interval else {name: float(values.mean())}
    scores["median_first_rank"] = float(np.median(1 + first_ranks))
    return scores, found.queries, found.answers


def retrieve(train: Labelled, test: Labelled, params: Retrieval, device: torch.device) -> Retrieved:
    """The queries, and how the whole of the collection ranks for each.

    As many at once as have `_BLOCK_BYTES` of similarities: 1,000 queries among 1,010,000 x 128 held 444 MiB
    more than these (`python -m benchmarks.neighbors`). The arguments are those of `score_retrieval`.
    """
    labels = np.concatenate([train.labels, test.labels])
    contents = contents_of(train, test)
    can_ask = askable(train.labels, test.labels, contents)
    rng = np.random.default_rng(params.seed)
    queries = np.sort(rng.choice(can_ask, min(params.num_queries, len(can_ask)), replace=False))
    label_of, content_of = (torch.from_numpy(each).to(device) for each in (labels, contents))
    answers, figures = [], []
    at_once = max(1, _BLOCK_BYTES // (4 * len(labels)))
    for start in range(0, len(queries), at_once):
        rows = queries[start : start + at_once]
        itself = torch.from_numpy(len(train.labels) + rows).to(device)[:, None]
        similarity = cosines(test.features[rows], (train.features, test.features), device)
        is_copy = content_of == content_of[itself]
        similarity[is_copy] = -torch.inf  # last, and none of the like
        order = similarity.sort(dim=1, descending=True, stable=True).indices
        relevant = (label_of[order] == label_of[itself]) & ~is_copy.gather(1, order)
        of_rows = relevant.cpu().numpy()
        answers.append(Answers(labels[order[:, 0].cpu().numpy()], of_rows.argmax(axis=1)))
        ranked = (~is_copy).sum(dim=1).tolist()
        figures += [measures(*of_query) for of_query in zip(of_rows, ranked, strict=True)]
    of_all = {name: np.array([of_query[name] for of_query in figures]) for name in figures[0]}
    return Retrieved(queries, joined(answers), of_all)


def contents_of(train: Labelled, test: Labelled) -> NDArray[np.int64]:
    """Numbers of which equal ones are equal files, [N + T]; without any said, no two are."""
    if train.contents is None or test.contents is None:
        return np.arange(len(train.labels) + len(test.labels))
    return np.concatenate([train.contents, test.contents])


def cosines(
    queries: NDArray[np.float32], banks: Sequence[NDArray[np.float32]], device: torch.device
) -> Tensor:
    """Of [Q, D] with all rows of some [N, D], side by side: [Q, sum of N], in blocks of the banks."""
    unit = torch.from_numpy(normalize(queries)).to(device)
    found = torch.empty(len(queries), sum(map(len, banks)), device=device)
    column = 0
    for bank in banks:
        for start in range(0, len(bank), _ROWS_AT_ONCE):
            block = torch.from_numpy(normalize(bank[start : start + _ROWS_AT_ONCE])).to(device)
            torch.mm(unit, block.T, out=found[:, column : column + len(block)])
            column += len(block)
    return found


def measures(relevant: NDArray[np.bool_], num_ranked: int | None = None) -> dict[str, float]:
    """What one ranking is worth.

    Args:
        relevant: whether each image is of the query's class, ranked from the best, [N], not all false.
        num_ranked: how many of them count, from the first on; None: all. The others are the query and copies.

    Returns:
        With R the number of relevant ones: `precision_at_10`, the share of the ten nearest that are (of fewer
        images, of all); `recall_at_10`, the share of the R that are among them; `r_precision`, the precision
        at R; `map_at_r`, the mean over the first R ranks of the precision at each relevant one (Musgrave et
        al. 2020, arXiv:2003.08505, sec. 3.2); `map`, the average precision over the whole ranking (Manning et
        al. 2008, Introduction to Information Retrieval, sec. 8.4).
    """
    ranks = 1 + np.flatnonzero(relevant)
    num_relevant = len(ranks)
    precisions = np.arange(1, num_relevant + 1) / ranks
    is_early = ranks <= num_relevant
    num_in_ten = int((ranks <= _PRECISION_AT).sum())
    return {
        "precision_at_10": num_in_ten / min(_PRECISION_AT, num_ranked or len(relevant)),
        "recall_at_10": num_in_ten / num_relevant,
        "r_precision": float(is_early.mean()),
        "map_at_r": float(precisions[is_early].sum() / num_relevant),
        "map": float(precisions.mean()),
    }
