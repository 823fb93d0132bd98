"""DVC stage `embed`: every image through the encoder, and through the start where that is scored."""

import time
from collections.abc import Sequence

import onnxruntime

from pipeline.arrays import read_array
from pipeline.artifacts import SCRATCH, Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.embed import embed_shards
from pipeline.encoder.passes import Pass, passes_of, scratch_name, scratch_of
from pipeline.encoder.runtime import Encoder
from pipeline.encoder.shards import Shards
from pipeline.errors import plain_errors
from pipeline.params.embed import Embed
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded

EMBEDDED = SCRATCH / "embedded"


def main() -> None:
    loaded = Loaded("embed", section="embed")
    params = load_params().embed
    data = Artifacts()
    # of Ray's the workers choose the device; here its networks are looked at alone
    encoder, start = (
        Encoder.open(path, params.device if params.engine == "local" else "cpu", params.threads)
        for path in (data.encoder, data.start_encoder)
    )
    name = scratch_name(params, data, encoder, start)
    with atomic_folder(data.embeddings, loaded.check) as folder, scratch_of(EMBEDDED, name, data) as scratch:
        passes = passes_of(data, encoder, start)
        if data.augmented.stem not in {each.name for each in passes}:
            print("embed: the encoder was trained on another state of the collection: its views are left out")
        work = [(each, scratch.shards(each, params.batch_size)) for each in passes]
        started = time.perf_counter()
        num_images = embed_here(work) if params.engine == "local" else embed_on_ray(work, params)
        seconds = time.perf_counter() - started
        for each, shards in work:
            path = folder / f"{each.name}.npy"
            path.parent.mkdir(exist_ok=True)
            shards.assemble(path, each.encoder.dim)
        write_json(
            folder / data.embeddings_card.name,
            {data.encoder.name: encoder.sha256, data.manifest.name: sha256_of(data.manifest)},
        )
    scratch.remove()
    # without an image there is no rate: all had been embedded before the stage was stopped
    rate = {"images_per_s": round(num_images / seconds, 1)} if num_images else {}
    provider = {"provider": encoder.provider} if params.engine == "local" else {}
    versions = {"onnxruntime": onnxruntime.__version__}
    write_json(data.speed("embed"), rate | {"engine": params.engine} | provider | versions)


def embed_here(work: Sequence[tuple[Pass, Shards]]) -> int:
    """Writes the shards that are not there, one after the other; returns how many images that was."""
    num_images = 0
    print(f"onnxruntime runs on {work[0][0].encoder.provider}", flush=True)
    for each, shards in work:
        images = read_array(each.images, made_by="fetch")
        num_images += embed_shards(each.encoder, images, shards, f"embed {each.name}")
    return num_images


def embed_on_ray(work: Sequence[tuple[Pass, Shards]], params: Embed) -> int:
    """The same by Ray's workers; Ray is imported where it is asked for."""
    from pipeline.encoder.on_ray.rows import ShardsOf, embed_shards_on_ray

    told = [
        (ShardsOf(each.network.resolve(), each.images.resolve(), shards.folder.resolve()), shards)
        for each, shards in work
    ]
    return embed_shards_on_ray(told, params)


if __name__ == "__main__":
    with plain_errors():
        main()
