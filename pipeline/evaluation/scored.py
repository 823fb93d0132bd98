"""Which images are scored: of a collection of millions, mostly few."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.evaluation.probes.draws import split_stratified

# Labelled images that the protocols learn from and look among, and that they ask about, at most: kNN compares
# every pair of both, and a probe holds its features twice. By 50,000 an accuracy is known to 0.4 points.
_MOST_OF = {"train": 100_000, "test": 50_000}
_SAMPLE = 2000  # images; effective rank and uniformity compare every pair
_VIEWED = 1000  # of these; each has a view of its own
_SEED = 0  # of all these samples, which are the same for every subject


@dataclass(frozen=True)
class Scored:
    """The images that stage `evaluate` looks at.

    Attributes:
        rows: of the labelled images in the arrays of splits `train` and `test`, int64, sorted; of more than
            100,000 and 50,000 of so many, with an image of every class and of each its share.
        labels: theirs.
        sample: rows of `train` on which the spread is measured, int64, sorted.
        viewed: of these the ones of which there is an augmented view, int64, sorted.
    """

    rows: dict[str, NDArray[np.int64]]
    labels: dict[str, NDArray[np.int64]]
    sample: NDArray[np.int64]
    viewed: NDArray[np.int64]

    def features_of(self, split: str) -> NDArray[np.int64]:
        """The rows of a split of which features are asked, sorted: none of `unlabelled`."""
        nothing = np.empty(0, dtype=np.int64)
        # without labels in both there is nothing to score, and the spread alone is measured
        can_score = all(len(of_split) for of_split in self.rows.values())
        labelled = self.rows.get(split, nothing) if can_score else nothing
        return np.union1d(labelled, self.sample if split == "train" else nothing)


def scored_images(manifest: pd.DataFrame) -> Scored:
    """What is scored of a collection; a row of the manifest is an image, in the order of the arrays."""
    labels = {
        split: manifest.loc[manifest["split"] == split, "label"].to_numpy(dtype=np.int64)
        for split in ("train", "test")
    }
    rows = {split: _scored_rows(of_split, _MOST_OF[split]) for split, of_split in labels.items()}
    sample = np.random.default_rng(_SEED).permutation(len(labels["train"]))[:_SAMPLE]
    scored_labels = {split: labels[split][rows[split]] for split in rows}
    return Scored(rows, scored_labels, np.sort(sample), np.sort(sample[:_VIEWED]))


def _scored_rows(labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    labelled = np.flatnonzero(labels != UNLABELLED)
    if len(labelled) <= most:
        return labelled
    return labelled[split_stratified(labels[labelled], most, _SEED)[0]]
