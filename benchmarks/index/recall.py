"""The index that `auto` chooses, beside an exact search, autofaiss and a sweep of everything.

    python -m benchmarks.index.recall
    python -m benchmarks.index.recall --autofaiss /path/to/its/venv/bin/python
    python -m benchmarks.index.recall --embeddings data/embeddings/train.npy --sweep

Made-up embeddings (1,000,000 x 128 in 1,000 clusters) or those of a file. Queries are new ones, or the last
tenth of the file, at most 10,000, which no index holds. Each side answers all of them at once, in turns;
recall@10 is over all of them. autofaiss has an environment of its own: `pip install autofaiss 'pyarrow<20'`.
"""

import argparse
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.index.points import clustered
from pipeline.params.index import Index
from pipeline.search.building.build import Centroids, build_index
from pipeline.search.building.index import make_index
from pipeline.search.building.kinds import KINDS, is_exact, usual_lists
from pipeline.search.building.tuning import Asked, knobs, measure, set_search_parameters

K = 10
TURNS = 3
_MOST_QUERIES = 10_000
NONE_HELD_OUT = np.empty(0, dtype=np.int64)
AUTOFAISS = """
import sys
from autofaiss import build_index
build_index(sys.argv[1], index_path=sys.argv[2], index_infos_path=sys.argv[2] + ".json", metric_type="ip",
            max_index_memory_usage=sys.argv[3], current_memory_available="8G", verbose=40)
"""


@dataclass
class Side:
    """An index under measurement: what is said of it, and the seconds of its turns."""

    name: str
    index: faiss.Index
    seconds: list[float]


def in_turns(sides: list[Side], queries: NDArray[np.float32]) -> None:
    """Each answers all queries, one after the other, several times."""
    for _ in range(TURNS):
        for side in sides:
            started = time.perf_counter()
            side.index.search(queries, K)
            side.seconds.append(time.perf_counter() - started)


def recall(index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    _, found = index.search(queries, K)
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def autofaiss(python: str, vectors: NDArray[np.float32], memory: str) -> faiss.Index:
    """What autofaiss builds of the same vectors, with what it was tuned to."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "embeddings"
        folder.mkdir()
        np.save(folder / "part.npy", vectors)
        started = time.perf_counter()
        index = str(Path(scratch) / "index")
        subprocess.run([python, "-c", AUTOFAISS, str(folder), index, memory], check=True)
        print(f"autofaiss built in {time.perf_counter() - started:.0f} s", flush=True)
        return faiss.read_index(index)


def sweep(
    vectors: NDArray[np.float32], asked: Asked, target: float
) -> tuple[str, dict[str, int], faiss.Index]:
    """Of all kinds, lists and parameters that surely reach the target, the fastest by the clock."""
    best: tuple[float, str, dict[str, int], faiss.Index] | None = None
    centroids = Centroids()
    for lists in (2**step * usual_lists(len(vectors)) // 4 for step in range(5)):
        for kind in KINDS:
            factory = kind.factory(lists, vectors.shape[1])
            if is_exact(factory):
                continue
            index = build_index([vectors], factory, 0, NONE_HELD_OUT, centroids)
            enough = 2 * best[0] if best else np.inf
            seconds, parameters = fastest(index, asked, target, enough)
            print(f"  {factory}: {len(asked.queries) / seconds:,.0f} queries/s, {parameters}", flush=True)
            if best is None or seconds < best[0]:
                best = seconds, factory, parameters, index
    assert best is not None
    return best[1:]


def fastest(index: faiss.Index, asked: Asked, target: float, enough: float) -> tuple[float, dict[str, int]]:
    """The seconds and the parameters; infinite where none reach the target in `enough` seconds."""
    names, values = list(knobs(index)), list(knobs(index).values())
    best, of_best = np.inf, dict[str, int]()
    others = values[1] if len(values) > 1 else [0]
    most = {name: each[-1] for name, each in zip(names, values, strict=True)}
    if measure(index, asked, most).recall.low < target:
        return best, of_best  # recall grows with each
    for first in values[0]:
        for second in others:
            parameters = dict(zip(names, (first, second), strict=False))
            seconds = np.inf
            for _ in range(2):
                started = time.perf_counter()
                point = measure(index, asked, parameters)
                seconds = min(seconds, time.perf_counter() - started)
            if point.recall.low >= target and seconds < best:
                best, of_best = seconds, parameters
            if seconds > min(2 * best, enough):
                if second == others[0]:
                    return best, of_best
                break  # more is slower still
    return best, of_best


def points(embeddings: Path | None, count: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is searched, and queries."""
    if embeddings is None:
        return clustered(count, dim, seed=0), clustered(_MOST_QUERIES, dim, seed=1)
    every = np.load(embeddings)
    every = every[np.random.default_rng(0).permutation(len(every))]
    cut = len(every) - min(_MOST_QUERIES, len(every) // 10)
    return np.ascontiguousarray(every[:cut]), np.ascontiguousarray(every[cut:])


def ours(vectors: NDArray[np.float32], target: float) -> faiss.Index:
    """What `auto` makes of them; prints what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    params = Index(
        factory="auto", memory_gib=8, target_recall=target, num_queries=2000, seed=0, thumbnail_size=0
    )

    def note(told: str) -> None:
        print(f"  {time.perf_counter() - started:4.0f} s {told}", flush=True)

    made = make_index([vectors], params, note)
    seconds = time.perf_counter() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    built = made.built
    print(
        f"{built.factory} {built.search_parameters}: built in {seconds:.0f} s and {more:.2f} GiB beside the "
        f"vectors; certified {built.recall_at_10_low:.4f} to {built.recall_at_10_high:.4f}, "
        f"work {built.work_per_query:,.0f}; runner-up {built.runners_up[:1]}",
        flush=True,
    )
    return made.index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--embeddings", type=Path, help="a file of them, in place of made-up ones")
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--autofaiss", metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--autofaiss-memory", default="4G")
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    vectors, queries = points(args.embeddings, args.count, args.dim)
    print(f"{len(vectors):,} x {vectors.shape[1]}, {len(queries):,} queries", flush=True)
    auto = ours(vectors, args.target)
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    _, truth = exact.search(queries, K)
    sides = [Side("exact", exact, []), Side("auto", auto, [])]
    if args.autofaiss:
        sides.append(Side("autofaiss", autofaiss(args.autofaiss, vectors, args.autofaiss_memory), []))
    if args.sweep:
        factory, parameters, index = sweep(vectors, Asked(queries[:2000], truth[:2000]), args.target)
        set_search_parameters(index, parameters)
        sides.append(Side(f"sweep: {factory} {parameters}", index, []))
    in_turns(sides, queries)
    for side in sides:
        per_s = len(queries) / np.median(side.seconds)
        against = np.median(sides[0].seconds) / np.median(side.seconds)
        print(
            f"{side.name}: recall@10 {recall(side.index, queries, truth):.4f}, {per_s:,.0f} queries/s, "
            f"{against:.1f} times exact",
            flush=True,
        )


if __name__ == "__main__":
    main()
