"""Every fault of a collection that asks for no label."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import slices
from pipeline.evaluation.findings.duplicates import exact_copies, near_duplicates, near_pairs, pairs_across
from pipeline.evaluation.findings.outliers import outliers
from pipeline.evaluation.findings.table import Finding, shown_from
from pipeline.params.evaluate import Findings


def contents_of(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of which equal ones are equal files, [N], from 0 in the order of the first of each.

    Args:
        digests: the sha256 of each file, [N, 32].
    """
    order = np.argsort(np.ascontiguousarray(digests).view("S32")[:, 0], kind="stable")
    is_another = np.ones(len(order), dtype=np.bool_)
    for part in slices(len(order) - 1):
        before, after = order[:-1][part], order[1:][part]
        is_another[1:][part] = (digests[before] != digests[after]).any(axis=1)
    starts = np.flatnonzero(is_another)
    firsts = np.empty(len(order), dtype=np.int64)  # the first image of each one's content
    firsts[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    numbers: NDArray[np.int64] = np.cumsum(firsts == np.arange(len(order))) - 1
    return numbers[firsts]


def firsts_of(contents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first image of each content, which stands for all that are equal to it: ids by content, [K]."""
    firsts: NDArray[np.int64] = np.unique(contents, return_index=True)[1]
    return firsts


def of_other_contents(
    neighbors: NDArray[np.integer], contents: NDArray[np.int64], into: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Neighbours of which each stands for all that are equal to it, and none is equal to who asks, [N, k].

    Args:
        neighbors: ids of the nearest others of each image, [N, k]; -1 where there are no more.
        contents: of each image, [N].
        into: an array for what is found, [N, k]; None: a new one.
    """
    found = np.empty(neighbors.shape, dtype=np.int32) if into is None else into
    firsts = firsts_of(contents)
    for rows in slices(len(neighbors)):
        of_rows = contents[neighbors[rows]]
        is_none = (neighbors[rows] < 0) | (of_rows == contents[rows, None])
        found[rows] = np.where(is_none, -1, firsts[of_rows])
    return found


def find_faults(
    neighbors: NDArray[np.integer],
    cosines: NDArray[np.float32],
    is_train: NDArray[np.bool_],
    is_test: NDArray[np.bool_],
    contents: NDArray[np.int64],
    picture: Callable[[int], NDArray[np.uint8]],
) -> list[Finding]:
    """Looks for copies, near-duplicates, pairs across train and test, and outliers.

    Of equal files the first alone is compared with others: a hundred copies of one image would be each
    other's neighbours, and hide what else is like it.

    Args:
        neighbors: ids of the nearest of each image, as `of_other_contents` gives them, [N, k].
        cosines: with these, [N, k].
        is_train: of each image, [N].
        is_test: likewise.
        contents: likewise; equal numbers are equal files.
        picture: gives an image's pixels by its id, uint8 [H, W, 3].
    """
    distinct = firsts_of(contents)
    is_first = np.zeros(len(contents), dtype=np.bool_)
    is_first[distinct] = True
    pairs = near_pairs(neighbors, cosines, picture, is_first)
    return [
        *exact_copies(contents),
        *near_duplicates(pairs),
        *pairs_across(pairs, contents, is_train, is_test),
        *outliers(distinct, neighbors, cosines),
    ]


def leaked_ids(findings: list[Finding], params: Findings) -> NDArray[np.int64]:
    """Ids of the test images that stand in the training images too, as surely as the params ask."""
    pairs = [found for found in findings if found.kind == "train_test_pair"]
    return np.array(
        [found.ids[1] for found in pairs if found.score >= shown_from(found.kind, params)], dtype=np.int64
    )
