"""DVC stage `fetch`: a collection of images, decoded once, to data/images/."""

import csv
import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.artifacts import UNLABELLED, Artifacts, atomic_folder, create_array, write_json
from pipeline.errors import plain_errors
from pipeline.params import load_params
from pipeline.sources import SOURCES, Collection


def write_split(collection: Collection, split: str, image_size: int, folder: Path) -> list[dict[str, Any]]:
    """Writes one split's pixels as a memory map while they are read; returns its rows of the manifest."""
    num_images = collection.num_images[split]
    pixels = create_array(folder / f"{split}.npy", np.uint8, (num_images, image_size, image_size, 3))
    rows = []
    records = tqdm(
        collection.records(split), total=num_images, desc=f"fetch {split}", unit=" images", disable=None
    )
    for position, record in enumerate(records):
        pixels[position] = record.pixels
        named = record.label != UNLABELLED
        rows.append(
            {
                "split": split,
                "label": record.label,
                "class_name": collection.class_names[record.label] if named else None,
                "source": record.source,
                "width": record.width,
                "height": record.height,
                "sha256": record.sha256,
            }
        )
    return rows


def main() -> None:
    params = load_params().dataset
    data = Artifacts()
    started = time.perf_counter()
    collection = SOURCES[params.name](params)
    with atomic_folder(data.images) as folder:
        rows = [
            row
            for split in collection.num_images
            for row in write_split(collection, split, params.image_size, folder)
        ]
        manifest = pd.DataFrame(rows)
        manifest.insert(0, "id", np.arange(len(manifest), dtype=np.int64))
        manifest.to_parquet(folder / data.manifest.name, index=False)
        with (folder / "rejected.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(["source", "reason"])
        write_json(
            folder / data.collection.name,
            {
                "name": params.name,
                "image_size": params.image_size,
                "class_names": collection.class_names,
                "num_images": collection.num_images,
                "sha256": hashlib.sha256("".join(manifest["sha256"]).encode()).hexdigest(),
            },
        )
    seconds = time.perf_counter() - started
    num_seen = Counter(manifest["sha256"])
    write_json(
        data.metrics("fetch"),
        {
            "num_images": collection.num_images,
            "num_classes": len(collection.class_names),
            "num_rejected": 0,
            "num_duplicates": len(manifest) - len(num_seen),
        },
    )
    write_json(data.speed("fetch"), {"seconds": round(seconds, 2)})


if __name__ == "__main__":
    with plain_errors():
        main()
