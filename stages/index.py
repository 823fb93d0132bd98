"""DVC stage `index`: the embeddings, searchable, to data/index/."""

import faiss

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.atomic import atomic_folder
from pipeline.errors import plain_errors
from pipeline.params.loaded import Loaded
from pipeline.params.reader import load_params
from pipeline.search.index import make_index, write_index


def main() -> None:
    loaded = Loaded("index", section="index")
    params = load_params().index
    data = Artifacts()
    embeddings = [data.read_embeddings(split) for split in data.splits()]
    index, card, queries_per_s = make_index(embeddings, params, sha256_of(data.encoder))
    with atomic_folder(data.indexes, loaded.check) as folder:
        write_index(index, card, folder)
    write_json(
        data.metrics("index"),
        {"factory": card.factory, "count": card.count, "recall_at_10": card.recall_at_10}
        | card.search_parameters,
    )
    write_json(data.speed("index"), {"queries_per_s": round(queries_per_s, 1), "faiss": faiss.__version__})
    print(f"{card.factory}: {card.count} images, recall@10 {card.recall_at_10:.4f}")


if __name__ == "__main__":
    with plain_errors():
        main()
