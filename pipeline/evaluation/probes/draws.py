"""Rows drawn so that no class is left out, however rare."""

import numpy as np
from numpy.typing import NDArray


def split_stratified(
    labels: NDArray[np.int64], num_first: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in two parts: the first gets one image of every class, and of each its share of the rest.

    scikit-learn's stratified split gives a class of which the share is less than one image none at all.

    Args:
        labels: [N].
        num_first: rows of the first part; at least as many as there are classes, and at most N, are taken.
        seed: of the draw.

    Returns:
        Rows of the first and of the second part, each sorted.
    """
    order = _class_by_class(labels, seed)
    is_one_of_its_class = np.diff(labels[order], prepend=-1) != 0
    rest = order[~is_one_of_its_class]
    num_classes = len(order) - len(rest)
    num_more = min(max(num_first, num_classes), len(order)) - num_classes
    # evenly spaced: a class with a tenth of the rest gets a tenth of them, rounded up or down
    evenly = (np.arange(num_more) * 2 + 1) * len(rest) // (2 * max(num_more, 1))
    first = np.concatenate([order[is_one_of_its_class], rest[evenly]])
    return np.sort(first), np.setdiff1d(order, first)


def draw_of_each_class(labels: NDArray[np.int64], num_each: int, seed: int) -> NDArray[np.int64]:
    """So many rows of every class, or all of a class that has fewer: [num_drawn], sorted.

    Args:
        labels: [N].
        num_each: at least 1.
        seed: of the draw.
    """
    order = _class_by_class(labels, seed)
    _, firsts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(firsts, counts)
    return np.sort(order[place < num_each])


def split_in_folds(labels: NDArray[np.int64], num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64 [N]: of every class each fold has as many, or one more.

    Args:
        labels: [N].
        num_folds: at least 2.
        seed: of the shuffle.
    """
    folds = np.empty(len(labels), dtype=np.int64)
    folds[_class_by_class(labels, seed)] = np.arange(len(labels)) % num_folds
    return folds


def _class_by_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All rows, those of a class together and shuffled, [N]."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]
