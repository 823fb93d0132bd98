"""An index that the memory does not hold: merged on disk, to the bytes of one that was built in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.index.points import clustered
from pipeline.search import rows
from pipeline.search.building import on_disk, trial
from pipeline.search.building.build import build_index
from pipeline.search.building.cost import bytes_per_vector, counted_search
from pipeline.search.building.filling import fill
from pipeline.search.building.merging import write_merged
from pipeline.search.building.on_disk import build_on_disk
from pipeline.search.building.tuning import set_search_parameters

COUNT, DIM, GIB = 6_000, 32, 2**30
HELD_OUT = np.arange(0, COUNT, 40)
NONE = HELD_OUT[:0]
ENOUGH = 3 * COUNT * DIM * 4  # bytes: all rows, and what codes learn of them
KINDS = ["IVF64,Flat", "IVF64,SQ8", "IVF64,SQ8,RFlat", "IVF64,SQ8,Refine(SQ8)", "IVF64,Flat,Refine(SQ8)"]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(COUNT, DIM, seed=0, num_clusters=30)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(rows, "_BYTES_AT_ONCE", 700 * DIM * 4)  # nine chunks, at whose ends no shard ends


def merged(
    parts: Sequence[NDArray[np.float32]],
    factory: str,
    scratch: Path,
    rows_a_shard: int,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[on_disk.Merged, int]:
    """The index on disk, and of how many shards it was merged."""
    num_shards = []

    def counted(path: Path, empty: faiss.Index, lists: Sequence[Any], embeddings: Any) -> None:
        num_shards.append(len(lists))
        write_merged(path, empty, lists, embeddings)

    monkeypatch.setattr(on_disk, "write_merged", counted)
    index = faiss.index_factory(DIM, factory)
    of_lists = bytes_per_vector(faiss.extract_index_ivf(index))
    monkeypatch.setattr(on_disk, "_GROWTH", ENOUGH / ((rows_a_shard + 0.5) * of_lists))
    made = build_on_disk(parts, factory, 0, HELD_OUT, ENOUGH / GIB, scratch)
    assert [path.name for path in scratch.iterdir()] == ["merged.faiss"]
    return made, num_shards[0]


@pytest.mark.parametrize("num_shards", [1, 2, 5])
@pytest.mark.parametrize("factory", KINDS)
def test_what_is_merged_is_what_faiss_writes_of_the_same_index(
    vectors: NDArray[np.float32],
    factory: str,
    num_shards: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # trained as an index is that the memory holds
    index = fill(emptied(build_index([vectors], factory, 0, HELD_OUT)), [vectors], NONE)
    parts = [vectors[:2500], vectors[2500:]]
    made, found = merged(parts, factory, tmp_path, COUNT // num_shards, monkeypatch)
    assert found == num_shards
    assert made.path.read_bytes() == bytes(faiss.serialize_index(index))
    parameters = {"nprobe": 7} | ({"k_factor_rf": 4} if "R" in factory else {})
    made.set_parameters(parameters)
    set_search_parameters(index, parameters)
    assert made.path.read_bytes() == bytes(faiss.serialize_index(index))
    _, expected = index.search(vectors[HELD_OUT], 10)
    np.testing.assert_array_equal(made.index.search(vectors[HELD_OUT], 10)[1], expected)


def emptied(index: faiss.Index) -> faiss.Index:
    """Of what an index learned, without a row."""
    index.reset()
    return index


@pytest.mark.parametrize("num_filled", [1, 32, 33])
def test_empty_lists_are_written_as_faiss_does(
    vectors: NDArray[np.float32], num_filled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half of the lists filled at most FAISS names those that are, else the sizes of all."""
    first = build_index([vectors], "IVF64,SQ8", 0, HELD_OUT)
    _, lists = first.quantizer.search(vectors, 1)
    rows_of = vectors[np.isin(lists[:, 0], np.random.default_rng(0).permutation(64)[:num_filled])]
    empty = emptied(first)
    monkeypatch.setattr(on_disk, "train_in_little", lambda *_: empty)
    made, found = merged([rows_of], "IVF64,SQ8", tmp_path, len(rows_of) // 2 + 1, monkeypatch)
    assert found == 2
    content = made.path.read_bytes()
    assert (b"sprs" in content, b"full" in content) == (num_filled <= 32, num_filled > 32)
    assert content == bytes(faiss.serialize_index(fill(empty, [rows_of], NONE)))


@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF64,SQ8,RFlat"])
def test_rows_that_are_passed_over_are_as_if_they_were_not_there(
    vectors: NDArray[np.float32], factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = build_index([vectors], factory, 0, HELD_OUT)
    made, _ = merged([vectors], factory, tmp_path, 2500, monkeypatch)
    among = ~np.isin(np.arange(COUNT), HELD_OUT)
    for nprobe in (1, 4, 64):
        parameters = {"nprobe": nprobe} | ({"k_factor_rf": 2} if "R" in factory else {})
        expected, _ = counted_search(without, vectors[HELD_OUT], 10, parameters)
        found, _ = counted_search(made.index, vectors[HELD_OUT], 10, parameters, among)
        np.testing.assert_array_equal(found, expected)
        all_found, _ = counted_search(made.index, vectors[HELD_OUT], 10, parameters)
        assert (all_found[:, 0] == HELD_OUT).all()  # each itself, where it may
