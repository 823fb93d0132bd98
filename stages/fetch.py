"""DVC stage `fetch`: a collection of images, decoded once, to data/images/."""

import csv
import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.artifacts import SPLITS, UNLABELLED, Artifacts, atomic_file, atomic_folder, write_json
from pipeline.collection.ingest import Ingested, Rejected, check_ingested, ingest
from pipeline.collection.sources.table import SOURCES
from pipeline.errors import UserError, plain_errors
from pipeline.params.reader import load_params


def write_manifest(path: Path, ingested: Ingested, class_names: tuple[str, ...]) -> None:
    """A row an image: id, split, label, class_name, source, width, height, sha256."""
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
    """A row an image that could not be read, and why."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "reason"])
        writer.writerows((image.source, image.reason) for image in rejected)


def main() -> None:
    params = load_params().dataset
    data = Artifacts()
    started = time.perf_counter()
    collection = SOURCES[params.name](params)
    for remark in collection.remarks:
        print(f"fetch: {remark}", flush=True)
    data.rejected.unlink(missing_ok=True)  # of a run that was stopped
    with atomic_folder(data.images) as folder:
        ingested = ingest(collection, params, folder)
        try:
            check_ingested(ingested, len(collection.entries), params.max_rejected, data.rejected)
        except UserError:
            with atomic_file(data.rejected) as partial:
                write_rejected(partial, ingested.rejected)
            raise
        write_manifest(folder / data.manifest.name, ingested, collection.class_names)
        write_rejected(folder / "rejected.csv", ingested.rejected)
        counts = Counter(image.entry.split for image in ingested.accepted)
        num_images = {split: counts[split] for split in SPLITS if counts[split]}
        hashes = "".join(image.sha256 for image in ingested.accepted)
        write_json(
            folder / data.collection.name,
            {
                "name": params.name,
                "image_size": params.image_size,
                "class_names": collection.class_names,
                "num_images": num_images,
                "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            },
        )
    seconds = time.perf_counter() - started
    write_json(
        data.metrics("fetch"),
        {
            "num_images": num_images,
            "num_classes": len(collection.class_names),
            "num_rejected": len(ingested.rejected),
            "num_duplicates": ingested.num_duplicates,
            "num_train_test_duplicates": ingested.num_train_test_duplicates,
        },
    )
    write_json(
        data.speed("fetch"),
        {"seconds": round(seconds, 2), "images_per_s": round(len(collection.entries) / seconds, 1)},
    )
    kept = ", ".join(f"{count:,} {split}" for split, count in num_images.items())
    print(f"fetch: {kept}; {len(ingested.rejected):,} could not be read", flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
