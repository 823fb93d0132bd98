"""The tables beside the arrays: a row an image that stands in them, and a row one that could not be read."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts import UNLABELLED
from pipeline.collection.ingest import Accepted, Ingested, Rejected

if TYPE_CHECKING:
    import pandas as pd

_ROWS_A_GROUP = 1 << 17  # that are in memory at a time


def write_manifest(path: Path, ingested: Ingested, class_names: tuple[str, ...]) -> None:
    """Writes a row an image: id, split, label, class_name, source, width, height, sha256.

    Args:
        path: of the Parquet file.
        ingested: its images, in the order of their ids.
        class_names: by label.
    """
    import pyarrow  # not at the top, nor pandas: the processes that decode import this file and neither
    import pyarrow.parquet

    accepted, schema = ingested.accepted, None
    with path.open("wb") as file:
        for start in range(0, max(1, len(accepted)), _ROWS_A_GROUP):
            rows = _rows(accepted[start : start + _ROWS_A_GROUP], start, class_names)
            if schema is None:
                schema = pyarrow.Schema.from_pandas(rows, preserve_index=False)
                writer = pyarrow.parquet.ParquetWriter(file, schema)
            writer.write_table(pyarrow.Table.from_pandas(rows, schema, preserve_index=False))
        writer.close()


def _rows(accepted: Sequence[Accepted], first: int, class_names: tuple[str, ...]) -> "pd.DataFrame":
    import pandas as pd

    labels = [image.entry.label for image in accepted]
    names = [class_names[label] if label != UNLABELLED else None for label in labels]
    columns = {
        "id": np.arange(first, first + len(accepted), dtype=np.int64),
        "split": [image.entry.split for image in accepted],
        "label": labels,
        # of a part of which no image has a label pandas would not know that they are words
        "class_name": pd.array(names, dtype="str") if class_names else names,
        "source": [image.entry.source for image in accepted],
        "width": [image.width for image in accepted],
        "height": [image.height for image in accepted],
        "sha256": [image.sha256 for image in accepted],
    }
    return pd.DataFrame(columns)


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Writes a row an image that could not be read, and why, as CSV with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "reason"])
        writer.writerows((image.source, image.reason) for image in rejected)
