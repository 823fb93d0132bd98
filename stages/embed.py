"""DVC stage `embed`: every image through the encoder, and through the start where that is scored."""

import time

import onnxruntime

from pipeline.artifacts import SCRATCH, Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.embed import embed_shards
from pipeline.encoder.passes import passes_of, scratch_name, scratch_of
from pipeline.encoder.runtime import Encoder
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded

EMBEDDED = SCRATCH / "embedded"


def main() -> None:
    loaded = Loaded("embed", section="embed")
    params = load_params().embed
    data = Artifacts()
    encoder = Encoder.open(data.encoder, params.device)
    start = Encoder.open(data.start_encoder, params.device)
    print(f"onnxruntime runs on {encoder.provider}")
    num_images, seconds = 0, 0.0
    name = scratch_name(params, data, encoder, start)
    with atomic_folder(data.embeddings, loaded.check) as folder, scratch_of(EMBEDDED, name, data) as scratch:
        passes = passes_of(data, encoder, start)
        if data.augmented.stem not in {each.name for each in passes}:
            print("embed: the encoder was trained on another state of the collection: its views are left out")
        for each in passes:
            shards = scratch.shards(each, params.batch_size)
            started = time.perf_counter()
            num_embedded = embed_shards(each.encoder, each.images, shards, f"embed {each.name}")
            if each.encoder is encoder:
                num_images += num_embedded
                seconds += time.perf_counter() - started
            path = folder / f"{each.name}.npy"
            path.parent.mkdir(exist_ok=True)
            shards.assemble(path, each.encoder.dim)
        write_json(
            folder / data.embeddings_card.name,
            {data.encoder.name: encoder.sha256, data.manifest.name: sha256_of(data.manifest)},
        )
    scratch.remove()
    write_json(
        data.speed("embed"),
        {
            "images_per_s": round(num_images / seconds, 1) if num_images else None,
            "provider": encoder.provider,
            "onnxruntime": onnxruntime.__version__,
        },
    )


if __name__ == "__main__":
    with plain_errors():
        main()
