"""Every fault of a collection that asks for no label."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.findings.duplicates import exact_copies, near_duplicates, near_pairs, pairs_across
from pipeline.evaluation.findings.outliers import outliers
from pipeline.evaluation.findings.table import Finding, shown_from
from pipeline.params.evaluate import Findings


def contents_of(manifest: pd.DataFrame) -> NDArray[np.int64]:
    """Numbers of which equal ones are equal files, [N]: of a manifest's `sha256`, from 0 in their order."""
    return pd.factorize(manifest["sha256"])[0].astype(np.int64)


def firsts_of(contents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first image of each content, which stands for all that are equal to it: ids by content, [K]."""
    firsts: NDArray[np.int64] = np.unique(contents, return_index=True)[1]
    return firsts


def of_other_contents(neighbors: NDArray[np.integer], contents: NDArray[np.int64]) -> NDArray[np.int32]:
    """Neighbours of which each stands for all that are equal to it, and none is equal to who asks, [N, k].

    Args:
        neighbors: ids of the nearest others of each image, [N, k]; -1 where there are no more.
        contents: of each image, [N].
    """
    found: NDArray[np.int32] = firsts_of(contents).astype(np.int32)[contents[neighbors]]
    found[(neighbors < 0) | (contents[neighbors] == contents[:, None])] = -1
    return found


def find_faults(
    neighbors: NDArray[np.integer],
    cosines: NDArray[np.float32],
    splits: NDArray[np.object_],
    contents: NDArray[np.int64],
    picture: Callable[[int], NDArray[np.uint8]],
) -> list[Finding]:
    """Looks for copies, near-duplicates, pairs across train and test, and outliers.

    Of equal files the first alone is compared with others: a hundred copies of one image would be each
    other's neighbours, and hide what else is like it.

    Args:
        neighbors: ids of the nearest of each image, as `of_other_contents` gives them, [N, k].
        cosines: with these, [N, k].
        splits: of each image, [N].
        contents: likewise; equal numbers are equal files.
        picture: gives an image's pixels by its id, uint8 [H, W, 3].
    """
    distinct = firsts_of(contents)
    of_firsts = np.full(neighbors.shape, -1, dtype=np.int32)
    of_firsts[distinct] = neighbors[distinct]
    pairs = near_pairs(of_firsts, cosines, picture)
    return [
        *exact_copies(contents),
        *near_duplicates(pairs),
        *pairs_across(pairs, contents, splits == "train", splits == "test"),
        *outliers(distinct, neighbors[distinct], cosines[distinct]),
    ]


def leaked_ids(findings: list[Finding], params: Findings) -> NDArray[np.int64]:
    """Ids of the test images that stand in the training images too, as surely as the params ask."""
    pairs = [found for found in findings if found.kind == "train_test_pair"]
    return np.array(
        [found.ids[1] for found in pairs if found.score >= shown_from(found.kind, params)], dtype=np.int64
    )
