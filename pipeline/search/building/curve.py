"""Recall against work, of every kind of index that was built: a table beside the index, for plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.search.building.tuning import Point

COLUMNS = ("factory", "parameters", "work_per_query", "recall_at_10", "low", "high")


def write_curves(path: Path, curves: Mapping[str, Sequence[Point]]) -> None:
    """Writes the points of each kind, work ascending, as tab-separated values."""
    rows = [
        (
            factory,
            " ".join(f"{name}={value}" for name, value in point.parameters.items()),
            round(point.work, 1),
            round(point.recall.mean, 6),
            round(point.recall.low, 6),
            round(point.recall.high, 6),
        )
        for factory, curve in curves.items()
        for point in sorted(curve, key=lambda point: point.work)
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path, sep="\t", index=False)
