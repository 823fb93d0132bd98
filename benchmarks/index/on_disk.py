"""An index that is merged on disk, beside the same one built in memory: memory, seconds, and what both find.

    python -m benchmarks.index.on_disk
    python -m benchmarks.index.on_disk --count 50000 --factory IVF256,SQ8,RFlat --memory-gib 0.01

Made-up embeddings (1,000,000 x 128 in 1,000 clusters) in a .npy file; `lookalike index build` makes a folder
of it twice, with --memory-gib and with room for all, each in a process of its own. Its memory is the peak of
RssAnon in /proc, seen a hundred times a second: pages that are mapped from files are not counted, as the
system takes them back. Then a third index is built here, which learns what the one on disk learned, and is
filled in memory: both files must be of the same bytes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.index.points import clustered
from pipeline.search.building.build import train_in_little
from pipeline.search.building.certificate import recall_of
from pipeline.search.building.filling import fill
from pipeline.search.building.tuning import set_search_parameters
from pipeline.search.files.card import IndexCard
from pipeline.search.index_folder import IndexFolder
from pipeline.search.rows import sample_rows

K = 10
_NUM_QUERIES = 2000
_ROOM_FOR_ALL = 64.0
_SEAL_BYTES = 32
_EVERY_S = 0.01


def built(vectors: Path, folder: Path, factory: str, memory_gib: float) -> IndexCard:
    """What the command makes; prints what it took."""
    options = ["--factory", factory, "--memory-gib", str(memory_gib), "--target-recall", "0.95"]
    command = [sys.executable, "-m", "pipeline.cli.main", "index", "build", str(vectors), "-o", str(folder)]
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([*command, *options])
    while process.poll() is None:
        peak = max(peak, anonymous_kib(process.pid))
        time.sleep(_EVERY_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(process.returncode)
    card = IndexFolder(folder).read_card()
    size = IndexFolder(folder).index.stat().st_size
    print(
        f"{card.factory} with {memory_gib:g} GiB: {seconds:.0f} s, {peak / 1024:,.0f} MiB at most, "
        f"for a file of {size / 2**20:,.0f} MiB; {card.search_parameters}",
        flush=True,
    )
    return card


def anonymous_kib(process: int) -> int:
    """The memory of a process that is no file's."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.partition("RssAnon:")[2].split()[0]) if "RssAnon:" in status else 0


def of_the_same(vectors: NDArray[np.float32], card: IndexCard, memory_gib: float) -> faiss.Index:
    """The index that learned the same, filled in memory."""
    held_out = sample_rows(len(vectors), min(2000, len(vectors) // 10), 0)
    index = train_in_little([vectors], card.factory, 0, held_out, int(memory_gib * 2**30))
    fill(index, [vectors], held_out[:0])
    set_search_parameters(index, card.search_parameters)
    return index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--factory", default="IVF4096,SQ8,RFlat", help="or auto, which chooses another in memory"
    )
    parser.add_argument("--memory-gib", type=float, default=0.1)
    parser.add_argument("--scratch", type=Path, help="a folder for the files; else the system's")
    args = parser.parse_args()
    vectors, queries = clustered(args.count, args.dim, seed=0), clustered(_NUM_QUERIES, args.dim, seed=1)
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        scratch = Path(name)
        np.save(scratch / "all.npy", vectors)
        card = built(scratch / "all.npy", scratch / "merged", args.factory, args.memory_gib)
        other = built(scratch / "all.npy", scratch / "in-memory", args.factory, _ROOM_FOR_ALL)
        indexes = [IndexFolder(scratch / "merged").read_index(card)]
        indexes.append(IndexFolder(scratch / "in-memory").read_index(other))
        indexes.append(of_the_same(vectors, card, args.memory_gib))
        exact = faiss.IndexFlatIP(args.dim)
        exact.add(vectors)
        _, truth = exact.search(queries, K)
        found = [index.search(queries, K)[1] for index in indexes]
        for told, ids in zip(("merged", "in memory", "in memory, learned likewise"), found, strict=True):
            print(f"{told}: recall@10 {recall_of(ids, truth).mean:.4f} of {len(queries):,} new queries")
        content = np.memmap(IndexFolder(scratch / "merged").index, np.uint8, "r")[:-_SEAL_BYTES]
        equal = np.array_equal(content, faiss.serialize_index(indexes[2]))
        print(f"same ids: {np.array_equal(found[0], found[2])}; same bytes: {equal}")


if __name__ == "__main__":
    main()
