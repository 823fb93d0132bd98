"""DVC stage `index`: the embeddings, searchable, to data/index/: a folder that answers alone."""

import time

import faiss

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded
from pipeline.search.building.curve import write_curves
from pipeline.search.building.index import make_index
from pipeline.search.files.catalog import rows_of_manifest
from pipeline.search.index_folder import IndexFolder


def main() -> None:
    loaded = Loaded("index", section="index")
    params = load_params().index
    data = Artifacts()
    data.check_embeddings()
    embeddings = [data.read_embeddings(split) for split in data.splits()]
    started = time.perf_counter()
    with atomic_folder(data.index, loaded.check) as folder:
        made = make_index(embeddings, params, lambda told: print(f"index: {told}", flush=True), folder)
        built = made.built
        IndexFolder(folder).write(
            made.file or made.index,
            built,
            data.encoder,
            rows_of_manifest(data.manifest),
            manifest_sha256=sha256_of(data.manifest),
            images=[data.read_images(split) for split in data.splits()],
            thumbnail_size=params.thumbnail_size,
        )
        write_curves(IndexFolder(folder).curves, made.curves)
    reached = built.recall_at_10_low >= built.target_recall
    write_json(
        data.metrics("index"),
        {
            "factory": built.factory,
            "count": built.count,
            "recall_at_10": built.recall_at_10,
            "recall_at_10_low": built.recall_at_10_low,
            "recall_at_10_high": built.recall_at_10_high,
            "target_recall": built.target_recall,
            "target_reached": reached,
            "work_per_query": built.work_per_query,
            "bytes_per_vector": built.bytes_per_vector,
        }
        | built.search_parameters,
    )
    write_json(
        data.speed("index"),
        {
            "queries_per_s": round(made.queries_per_s, 1),
            "p99_ms": round(made.p99_ms, 3),
            "seconds": round(time.perf_counter() - started, 2),
            "faiss": faiss.__version__,
        },
    )
    print(
        f"{built.factory}: {built.count} images, recall@10 {built.recall_at_10:.4f} "
        f"({built.recall_at_10_low:.4f} to {built.recall_at_10_high:.4f}), "
        f"{built.work_per_query / built.count:.2g} of the work of an exact search"
    )
    if not reached:
        print(
            f"index: index.target_recall ({built.target_recall}) is not reached for sure: "
            "choose an index.factory that can reach it, more index.num_queries, or a lower target"
        )


if __name__ == "__main__":
    with plain_errors():
        main()
