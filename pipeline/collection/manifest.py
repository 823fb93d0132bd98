"""The tables beside the arrays: a row an image that stands in them, and a row one that could not be read."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.artifacts import UNLABELLED
from pipeline.collection.ingest import Ingested, Rejected


def write_manifest(path: Path, ingested: Ingested, class_names: tuple[str, ...]) -> None:
    """Writes a row an image: id, split, label, class_name, source, width, height, sha256.

    Args:
        path: of the Parquet file.
        ingested: its images, in the order of their ids.
        class_names: by label.
    """
    import pandas as pd  # not at the top: the processes that decode import this file and not pandas

    accepted = ingested.accepted
    labels = [image.entry.label for image in accepted]
    columns = {
        "id": np.arange(len(accepted), dtype=np.int64),
        "split": [image.entry.split for image in accepted],
        "label": labels,
        "class_name": [class_names[label] if label != UNLABELLED else None for label in labels],
        "source": [image.entry.source for image in accepted],
        "width": [image.width for image in accepted],
        "height": [image.height for image in accepted],
        "sha256": [image.sha256 for image in accepted],
    }
    pd.DataFrame(columns).to_parquet(path, index=False)


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Writes a row an image that could not be read, and why, as CSV with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "reason"])
        writer.writerows((image.source, image.reason) for image in rejected)
