"""What every protocol said of every test image, as one table: so subjects and runs compare in pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.intervals import Interval, paired_gain
from pipeline.evaluation.labelled import NOTHING, Outcomes

_CONFUSED_IMAGES = 10_000  # of more a seeded sample: a plot of DVC's reads a row an image

# subject -> protocol -> what was said
OfSubjects = Mapping[str, Mapping[str, Outcomes]]


def write_outcomes(path: Path, outcomes: OfSubjects, test_ids: NDArray[np.int64]) -> None:
    """Writes a row for each subject, protocol and test image: id, subject, protocol, predicted, correct.

    Args:
        path: of the Parquet file.
        outcomes: of every subject.
        test_ids: the manifest's id of each test image that outcomes' rows count.
    """
    parts = [(subject, protocol, found) for subject, of in outcomes.items() for protocol, found in of.items()]
    lengths = [len(found.rows) for _, _, found in parts]
    nothing = np.empty(0, dtype=np.int64)
    columns = {
        "id": test_ids[np.concatenate([nothing, *(found.rows for _, _, found in parts)])],
        "subject": _repeated([subject for subject, _, _ in parts], lengths),
        "protocol": _repeated([protocol for _, protocol, _ in parts], lengths),
        "predicted": np.concatenate([nothing, *(found.predicted for _, _, found in parts)]),
        "correct": np.concatenate([nothing.astype(bool), *(found.correct for _, _, found in parts)]),
    }
    pd.DataFrame(columns).to_parquet(path, index=False)


def _repeated(names: list[str], lengths: list[int]) -> pd.Categorical:
    """Each name so many times; a byte a row, and categories of strings even where there are none."""
    categories, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
    repeated = np.repeat(codes.astype(np.int8), lengths)
    return pd.Categorical.from_codes(repeated, pd.Index(categories, dtype=object))


def gains(outcomes: OfSubjects) -> dict[str, Interval]:
    """What the encoder has right more than the start, protocol -> top-1 gained, image by image."""
    encoder, start = outcomes["encoder"], outcomes["start"]
    return {protocol: paired_gain(start[protocol].correct, encoder[protocol].correct) for protocol in encoder}


def write_confusion(
    path: Path, outcomes: OfSubjects, labels: NDArray[np.int64], class_names: Sequence[str]
) -> None:
    """Writes what the encoder's linear probe said, or its kNN: actual, predicted; a row a test image.

    Args:
        path: of the table, with tabs.
        outcomes: of every subject; without the encoder's the table has no row.
        labels: of each test image that the outcomes' rows count, [T].
        class_names: by label.
    """
    of_encoder = outcomes.get("encoder", {})
    found = of_encoder.get("linear", of_encoder.get("knn"))
    names = np.array([*class_names, "none"], dtype=object)  # NOTHING is the last
    assert NOTHING == -1
    columns: dict[str, NDArray[np.object_]] = {"actual": names[:0], "predicted": names[:0]}
    if found is not None:
        shown = np.sort(np.random.default_rng(0).permutation(len(found.rows))[:_CONFUSED_IMAGES])
        columns = {"actual": names[labels[found.rows[shown]]], "predicted": names[found.predicted[shown]]}
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False)
