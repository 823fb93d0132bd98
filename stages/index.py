"""DVC stage `index`: the embeddings, searchable, to data/index/: a folder that answers alone."""

import faiss

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded
from pipeline.search.index import make_index
from pipeline.search.index_folder import IndexFolder


def main() -> None:
    loaded = Loaded("index", section="index")
    params = load_params().index
    data = Artifacts()
    data.check_embeddings()
    embeddings = [data.read_embeddings(split) for split in data.splits()]
    with atomic_folder(data.index, loaded.check) as folder:
        index, built, queries_per_s = make_index(embeddings, params)
        IndexFolder(folder).write(
            index,
            built,
            data.encoder,
            data.read_manifest(),
            manifest_sha256=sha256_of(data.manifest),
            images=[data.read_images(split) for split in data.splits()],
            thumbnail_size=params.thumbnail_size,
        )
    reached = built.recall_at_10 >= built.target_recall
    write_json(
        data.metrics("index"),
        {
            "factory": built.factory,
            "count": built.count,
            "recall_at_10": built.recall_at_10,
            "target_recall": built.target_recall,
            "target_reached": reached,
        }
        | built.search_parameters,
    )
    write_json(data.speed("index"), {"queries_per_s": round(queries_per_s, 1), "faiss": faiss.__version__})
    print(f"{built.factory}: {built.count} images, recall@10 {built.recall_at_10:.4f}")
    if not reached:
        print(
            f"index: that is below index.target_recall ({built.target_recall}): "
            "choose an index.factory that can reach it, or a lower target"
        )


if __name__ == "__main__":
    with plain_errors():
        main()
