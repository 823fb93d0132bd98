"""DVC stage `fetch`: a collection of images, decoded once, to data/images/."""

import hashlib
import time
from collections import Counter

from pipeline.artifacts import SCRATCH, SPLITS, Artifacts, write_json
from pipeline.atomic import atomic_file, atomic_folder
from pipeline.collection.ingest import check_ingested, ingest
from pipeline.collection.known import known_images, note_decoded
from pipeline.collection.manifest import write_manifest, write_rejected
from pipeline.collection.sources.table import SOURCES
from pipeline.errors import UserError, plain_errors
from pipeline.params.pretrain_backbone import check_network
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded

DECODED = SCRATCH / "decoded.json"  # which arrays this stage wrote last


def main() -> None:
    loaded = Loaded("fetch", section="dataset")
    params = load_params().dataset
    check_network(load_params())  # before the work of a large collection
    data = Artifacts()
    started = time.perf_counter()
    # taken before a large collection is listed: who asks whether a stage is under way sees it
    with atomic_folder(data.images, loaded.check) as folder:
        collection = SOURCES[params.name](params)
        for remark in collection.remarks:
            print(f"fetch: {remark}", flush=True)
        data.rejected.unlink(missing_ok=True)  # of a run that was stopped
        with known_images(data, params.image_size, DECODED, folder) as known:
            ingested = ingest(collection, params, folder, known)
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
        hashes = hashlib.sha256()
        for image in ingested.accepted:
            hashes.update(image.sha256.encode())
        write_json(
            folder / data.collection.name,
            {
                "name": params.name,
                "image_size": params.image_size,
                "class_names": collection.class_names,
                "num_images": num_images,
                "sha256": hashes.hexdigest(),
            },
        )
    note_decoded(data, params.image_size, DECODED)
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
    if ingested.num_known:
        print(f"fetch: {ingested.num_known:,} files were decoded before, and not again", flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
