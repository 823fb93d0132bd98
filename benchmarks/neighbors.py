"""What kNN and retrieval hold and take, beside faiss's exact search.

    python -m benchmarks.neighbors
    python -m benchmarks.neighbors --images 100000 --queries 1000

Random points on a sphere, in random classes: an exact search takes as long on any. Each side runs in a
process of its own, which prints its seconds and the most memory that it held beyond the points.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from pipeline.evaluation.knn import knn_answers, normalize
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.retrieval import score_retrieval
from pipeline.params.evaluate import Retrieval

NUM_CLASSES = 100
K = 10
CPU = torch.device("cpu")


def knn(bank: Labelled, queries: Labelled) -> None:
    knn_answers(
        queries.features,
        queries.labels,
        bank.features,
        bank.labels,
        num_classes=NUM_CLASSES,
        k=K,
        temperature=0.07,
        device=CPU,
    )


def faiss_knn(bank: Labelled, queries: Labelled) -> None:
    import faiss

    faiss.knn(queries.features, bank.features, K, metric=faiss.METRIC_INNER_PRODUCT)


def retrieval(bank: Labelled, queries: Labelled) -> None:
    score_retrieval(bank, queries, Retrieval(num_queries=1000, seed=0), CPU)


SIDES: dict[str, Callable[[Labelled, Labelled], None]] = {
    "kNN": knn,
    "faiss.knn": faiss_knn,
    "retrieval, 1,000 asked": retrieval,
}


def measure(side: str, num_images: int, num_features: int, num_queries: int) -> None:
    """Prints a line."""
    parts = [points(num, num_features, seed) for seed, num in enumerate((num_images, num_queries))]
    SIDES[side](parts[0], Labelled(parts[1].features[:2], parts[1].labels[:2]))  # what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    SIDES[side](parts[0], parts[1])
    seconds = time.perf_counter() - started
    mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    print(f"{side}: {seconds:.1f} s, {mebibytes:,.0f} MiB more than before", flush=True)


def points(num: int, num_features: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    features = np.empty((num, num_features), dtype=np.float32)
    for start in range(0, num, 10_000):
        block = features[start : start + 10_000]
        block[:] = normalize(rng.standard_normal(block.shape, dtype=np.float32))
    return Labelled(features, rng.integers(0, NUM_CLASSES, num))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="that are searched")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--queries", type=int, default=10_000)
    args = parser.parse_args()
    print(f"{args.queries:,} queries among {args.images:,} x {args.features}", flush=True)
    for side in SIDES:
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(side, args.images, args.features, args.queries)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
