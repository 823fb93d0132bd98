"""DVC stage `embed`: every image through the encoder, and through the start where that is scored."""

import time

import numpy as np
import onnxruntime

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.embed import embed_to_file
from pipeline.encoder.runtime import Encoder
from pipeline.errors import plain_errors
from pipeline.evaluation.scored import scored_images
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("embed", section="embed")
    params = load_params().embed
    data = Artifacts()
    encoder = Encoder.open(data.encoder, params.device)
    start = Encoder.open(data.start_encoder, params.device)
    starts_apart = start.sha256 != encoder.sha256  # else one network, embedded once
    print(f"onnxruntime runs on {encoder.provider}")
    scored = scored_images(data.read_manifest())
    num_images, seconds = 0, 0.0
    with atomic_folder(data.embeddings, loaded.check) as folder:
        if starts_apart:
            (folder / data.start_embeddings.name).mkdir()
        for split in data.splits():
            images = data.read_images(split)
            started = time.perf_counter()
            every = np.arange(len(images))
            path = folder / f"{split}.npy"
            embed_to_file(encoder, images, every, params.batch_size, path, f"embed {split}")
            seconds += time.perf_counter() - started
            num_images += len(images)
            rows = scored.features_of(split)
            if len(rows) and starts_apart:
                path = folder / data.start_embeddings.name / path.name
                what = f"embed {split}, start"
                embed_to_file(start, images, rows, params.batch_size, path, what)
        # a training that was kept while the collection grew has views of other images
        if encoder.metadata.get("data_sha256") == data.read_collection()["sha256"]:
            views = data.read_augmented()
            for network, of_views in ((encoder, folder), (start, folder / data.start_embeddings.name)):
                if of_views.exists():
                    path = of_views / data.augmented.name
                    every = np.arange(len(views))
                    embed_to_file(network, views, every, params.batch_size, path, "embed views")
        else:
            print("embed: the encoder was trained on another state of the collection: its views are left out")
        write_json(
            folder / data.embeddings_card.name,
            {data.encoder.name: encoder.sha256, data.manifest.name: sha256_of(data.manifest)},
        )
    write_json(
        data.speed("embed"),
        {
            "images_per_s": round(num_images / seconds, 1),
            "provider": encoder.provider,
            "onnxruntime": onnxruntime.__version__,
        },
    )


if __name__ == "__main__":
    with plain_errors():
        main()
