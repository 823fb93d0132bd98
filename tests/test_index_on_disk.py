"""An index that the memory does not hold: merged on disk, to the bytes of one that was built in memory."""

import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.index.changes import write_encoder
from benchmarks.index.points import clustered
from pipeline import ImageIndex
from pipeline.errors import SettingError
from pipeline.params.index import Index
from pipeline.search import rows
from pipeline.search.building import build, on_disk, trial
from pipeline.search.building.build import build_index, train_in_little
from pipeline.search.building.certificate import recall_of
from pipeline.search.building.cost import bytes_per_vector, counted_search
from pipeline.search.building.filling import fill
from pipeline.search.building.index import make_index
from pipeline.search.building.merging import write_merged
from pipeline.search.building.on_disk import build_on_disk, is_too_large
from pipeline.search.building.tuning import set_search_parameters
from pipeline.search.files.faiss_file import write_sealed
from pipeline.search.from_arrays.folder import Given, build_folder
from pipeline.search.index_folder import IndexFolder
from tests.processes import fails, files_of_at_most, run_lookalike
from tests.tiny_index import write_photo

COUNT, DIM, GIB = 6_000, 32, 2**30
HELD_OUT = np.arange(0, COUNT, 40)
NONE = HELD_OUT[:0]
LITTLE_GIB = 0.00035  # for the codes of 4,697 rows, twice; no index of all
ENOUGH = 3 * COUNT * DIM * 4  # bytes: all rows, and what codes learn of them
KINDS = [
    "IVF64,Flat",
    "IVF64,SQ8",
    "IVF64,SQ8,RFlat",
    "IVF64,SQ8,Refine(SQ8)",
    "IVF64,Flat,Refine(SQ8)",
    "IVF64_HNSW8,SQ8",
]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(COUNT, DIM, seed=0, num_clusters=30)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
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
    first: Any = build_index([vectors], "IVF64,SQ8", 0, HELD_OUT)
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


def test_what_is_learned_from_is_within_the_memory(
    vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def seen(parts: Sequence[NDArray[np.float32]], chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        assert not np.isin(chosen, HELD_OUT).any()
        sizes.append(len(chosen) * DIM * 4)
        return rows.read_rows(parts, chosen)

    monkeypatch.setattr(build, "read_rows", seen)
    memory = 39 * 64 * DIM * 4
    index = train_in_little([vectors], "IVF64,SQ8", 0, HELD_OUT, memory)
    assert index.is_trained
    assert 0.9 * memory < sizes[0] <= memory
    assert 0.9 * memory < 3 * sizes[1] <= memory
    with pytest.raises(
        SettingError,
        match=r"memory_gib: 0.0003 is too little to learn 64 lists of 32 dimensions: that takes 0.001, or",
    ):
        train_in_little([vectors], "IVF64,SQ8", 0, HELD_OUT, memory - 1)


def test_a_shard_is_within_the_memory_though_its_lists_grow_by_doubling(
    vectors: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def seen(shard: faiss.Index, path: Path) -> str:
        sizes.append(shard.ntotal)
        return write_sealed(shard, path)

    monkeypatch.setattr(on_disk, "write_sealed", seen)
    build_on_disk([vectors[:777], vectors[777:]], "IVF64,Flat", 0, HELD_OUT, LITTLE_GIB, tmp_path)
    most = int(LITTLE_GIB * GIB / (2 * (4 * DIM + 8)))
    assert sizes == [most, most, most, most, COUNT - 4 * most]


def test_only_what_the_memory_does_not_hold_is_merged_and_only_what_can_be() -> None:
    for factory, code in (("IVF64,Flat", 4 * DIM), ("IVF64,SQ8", DIM), ("IVF64,SQ8,RFlat", 5 * DIM)):
        takes = COUNT * (code + 8) / GIB
        assert is_too_large(factory, COUNT, DIM, 0.999 * takes)
        assert not is_too_large(factory, COUNT, DIM, takes)
    for factory in (
        *("Flat", "HNSW8", "IVF64,PQ8x4fs,RFlat", "IVF64,PQ8", "PCA16,IVF64,SQ8", "IVF64,FlatPanorama2"),
        *("IDMap,Flat", "SQ8,RFlat", "IVF64,RaBitQfs,RFlat"),
    ):
        assert not is_too_large(factory, COUNT, DIM, 1e-9), factory


def test_auto_merges_one_that_reaches_its_target_where_the_memory_holds_none(
    vectors: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "EXACT_UP_TO", 300)
    params = Index(
        factory="auto", memory_gib=0.00022, target_recall=0.9, num_queries=600, seed=0, thumbnail_size=0
    )
    told: list[str] = []
    made = make_index([vectors[:100], vectors[100:]], params, told.append, tmp_path)
    assert told[0] == "the memory holds no two indexes: one is built, on disk if need be"
    factory = made.built.factory
    assert told[-1] == f"{factory}: does not fit the memory: merged on disk of 6,000 vectors"
    assert factory in {
        f"IVF{lists},SQ8{beside}" for lists in (16, 32) for beside in ("", ",RFlat", ",Refine(SQ8)")
    }
    assert (made.built.runners_up, made.file) == ((), tmp_path / "merged.faiss")
    assert made.built.recall_at_10_low >= 0.9
    new = clustered(1000, DIM, seed=5, num_clusters=30)
    _, truth = faiss.knn(new, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)
    assert made.file is not None
    found = faiss.read_index(str(made.file)).search(new, 10)[1]  # as tuned
    assert recall_of(found, truth).high > made.built.recall_at_10_low
    with pytest.raises(SettingError, match=r"1e-05 is too little for 6000 .*on disk takes 0\.001"):
        make_index([vectors], params.model_copy(update={"memory_gib": 1e-5}), told.append, tmp_path)
    with pytest.raises(SettingError, match="the smallest kind of index needs"):
        make_index([vectors], params)  # nowhere to merge it


BUILD = ("index", "build", "all.npy", "--factory", "IVF64,SQ8,RFlat", "--target-recall", "0.9")
LITTLE = ("--num-queries", "600", "--memory-gib", str(LITTLE_GIB))


@pytest.fixture
def here(tmp_path: Path, vectors: NDArray[np.float32]) -> Path:
    np.save(tmp_path / "all.npy", vectors)
    return tmp_path


def test_a_folder_of_it_grows_and_shrinks_like_any_other(here: Path, vectors: NDArray[np.float32]) -> None:
    write_encoder(here / "encoder.onnx", DIM, 16)
    run_lookalike(*BUILD, *LITTLE, "-o", "made", "--encoder", "encoder.onnx", cwd=here)
    names = {path.name for path in (here / "made").iterdir()}
    assert names == {"images.faiss", "index.json", "catalog.parquet", "encoder.onnx", "recall.tsv"}
    params = Index(
        factory=BUILD[4],
        memory_gib=LITTLE_GIB,
        target_recall=0.9,
        num_queries=600,
        seed=0,
        thumbnail_size=0,
    )
    again = build_folder(Given([here / "all.npy"], here / "encoder.onnx"), here / "again", params)
    assert again == IndexFolder(here / "made").read_card()  # in other chunks, the same bytes
    assert again.recall_at_10_low >= 0.9
    photo = write_photo(here, 5)
    added = run_lookalike("index", "add", str(photo), "--index", "made", cwd=here)
    assert added.stdout == "made: 1 added (ids 6000), 0 already there, 0 unreadable\n"
    run_lookalike("index", "remove", "3", "--index", "made", cwd=here)
    assert (
        "6,000 images, every file as" in run_lookalike("index", "verify", "--index", "made", cwd=here).stdout
    )
    run_lookalike("index", "compact", "--index", "made", cwd=here)
    assert (
        "6,000 images, every file as" in run_lookalike("index", "verify", "--index", "made", cwd=here).stdout
    )
    index = ImageIndex.open(here / "made")
    answers = index.answers(vectors[[3, 4, 5999]], 1)
    assert [answer[0].id == own for answer, own in zip(answers, (3, 4, 5999), strict=True)] == [
        False,
        True,
        True,
    ]


def stop_at_merging(number: int) -> None:
    """In the process that builds."""
    vars(on_disk)["write_merged"] = lambda *_: os.kill(os.getpid(), number)


def test_what_cannot_be_finished_leaves_the_old_folder_and_nothing_beside_it(here: Path) -> None:
    run_lookalike(*BUILD, "-o", "made", cwd=here)
    before = {path.name: path.read_bytes() for path in (here / "made").iterdir()}
    little = ("lookalike", *BUILD, *LITTLE, "-o", "made", "--force")

    def nothing_has_changed() -> bool:
        made = {path.name: path.read_bytes() for path in (here / "made").iterdir()}
        return made == before and sorted(path.name for path in here.iterdir()) == ["all.npy", "made"]

    line = fails(1, *little, cwd=here, before=files_of_at_most(500_000))
    assert line.endswith(
        "merged.faiss: larger than a file may be here: raise the limit (ulimit -f) or choose another folder"
    )
    assert nothing_has_changed()
    stopped = fails(130, *little, cwd=here, before=functools.partial(stop_at_merging, signal.SIGINT))
    assert stopped.startswith("interrupted; what stood before is untouched")
    assert nothing_has_changed()
    killed = run_lookalike(
        *little[1:], cwd=here, check=False, before=functools.partial(stop_at_merging, signal.SIGKILL)
    )
    assert killed.returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in (here / "made").iterdir()} == before
    assert len(list(here.iterdir())) > 2  # the shards, and the lock
    run_lookalike(*little[1:], cwd=here)
    assert sorted(path.name for path in here.iterdir()) == ["all.npy", "made"]
