"""DVC stage `embed`: every image through the encoder, to data/embeddings/."""

import time

import onnxruntime

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.embed import embed_to_file
from pipeline.encoder.runtime import Encoder
from pipeline.errors import plain_errors
from pipeline.params.loaded import Loaded
from pipeline.params.reader import load_params


def main() -> None:
    loaded = Loaded("embed", section="embed")
    params = load_params().embed
    data = Artifacts()
    encoder = Encoder.open(data.encoder, params.device)
    untrained = Encoder.open(data.untrained_encoder, params.device)
    print(f"onnxruntime runs on {encoder.provider}")
    num_images, seconds = 0, 0.0
    with atomic_folder(data.embeddings, loaded.check) as folder:
        (folder / data.untrained_embeddings.name).mkdir()
        for split in data.splits():
            images = data.read_images(split)
            started = time.perf_counter()
            embed_to_file(encoder, images, params.batch_size, folder / f"{split}.npy", f"embed {split}")
            seconds += time.perf_counter() - started
            num_images += len(images)
            embed_to_file(
                untrained,
                images,
                params.batch_size,
                folder / data.untrained_embeddings.name / f"{split}.npy",
                f"embed {split}, untrained",
            )
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
