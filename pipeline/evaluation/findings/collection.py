"""Every fault of a collection that asks for no label."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.findings.duplicates import exact_copies, near_duplicates, near_pairs, pairs_across
from pipeline.evaluation.findings.outliers import outliers
from pipeline.evaluation.findings.table import Finding, shown_from
from pipeline.params.evaluate import Findings


@dataclass(frozen=True)
class Faults:
    """What is wrong with a collection.

    Attributes:
        findings: copies, near-duplicates, pairs across train and test, outliers.
        contents: of each image, int64 [N]; equal numbers are equal files.
    """

    findings: list[Finding]
    contents: NDArray[np.int64]

    def leaked(self, params: Findings) -> NDArray[np.int64]:
        """Ids of the test images that stand in the training images too, as surely as the params ask."""
        pairs = [found for found in self.findings if found.kind == "train_test_pair"]
        shown = [found.ids[1] for found in pairs if found.score >= shown_from(found.kind, params)]
        return np.array(shown, dtype=np.int64)


def find_faults(
    neighbors: NDArray[np.integer],
    cosines: NDArray[np.float32],
    manifest: pd.DataFrame,
    picture: Callable[[int], NDArray[np.uint8]],
) -> Faults:
    """Looks for copies, near-duplicates, pairs across train and test, and outliers.

    Args:
        neighbors: ids of the nearest others of each image, [N, k]; -1 where there are no more.
        cosines: with these, [N, k].
        manifest: a row an image, in the order of the ids: `split` and `sha256`.
        picture: gives an image's pixels by its id, uint8 [H, W, 3].
    """
    contents = pd.factorize(manifest["sha256"])[0].astype(np.int64)
    pairs = near_pairs(neighbors, cosines, contents, picture)
    is_train, is_test = ((manifest["split"] == split).to_numpy() for split in ("train", "test"))
    findings = [
        *exact_copies(contents),
        *near_duplicates(pairs),
        *pairs_across(pairs, contents, is_train, is_test),
        *outliers(neighbors, cosines),
    ]
    return Faults(findings, contents)
