"""An index folder answers alone, of one generation, and never with a stranger."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline import Encoder, ImageIndex, atomic
from pipeline.artifacts import Artifacts, sha256_of
from pipeline.atomic import atomic_folder
from pipeline.errors import UserError
from pipeline.evaluation.knn import nearest
from pipeline.params.reader import Params
from pipeline.search.building.index import make_index
from pipeline.search.files import settling
from pipeline.search.files.catalog import Catalog, write_catalog
from pipeline.search.index_folder import IndexFolder
from tests.processes import fails, files_of_at_most, run_stage

CPU = torch.device("cpu")
FILES = ("images.faiss", "index.json", "encoder.onnx", "catalog.parquet", "thumbnails.arrow")


@pytest.fixture(autouse=True)
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has just damaged is not waited for, as what DVC is putting there is."""
    monkeypatch.setattr(settling, "_SETTLED_AFTER_S", 0.0)


@pytest.fixture
def alone(small_chain: Path, tmp_path: Path) -> Path:
    """The small run's index folder, copied to where nothing else is."""
    return shutil.copytree(small_chain / "data/index", tmp_path / "elsewhere")


@pytest.fixture
def images(small_chain: Path) -> NDArray[np.uint8]:
    """Those of the test split; their ids begin at 4,000."""
    return Artifacts(small_chain / "data").read_images("test")


@pytest.mark.slow
def test_the_folder_holds_six_files_and_the_card_names_the_hash_of_each(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    assert sorted(path.name for path in data.index.iterdir()) == sorted((*FILES, "recall.tsv"))
    sealed = (data.index / "images.faiss").read_bytes()
    assert sealed[-32:] == hashlib.sha256(sealed[:-32]).digest()
    assert sealed[:-32] == faiss.serialize_index(faiss.read_index(str(data.index / "images.faiss"))).tobytes()
    assert json.loads((data.index / "index.json").read_text()) == {
        "index_sha256": sha256_of(data.index / "images.faiss"),
        "index_seal": hashlib.sha256(sealed[:-32]).hexdigest(),
        "encoder_sha256": sha256_of(data.encoder),
        "catalog_sha256": sha256_of(data.index / "catalog.parquet"),
        "manifest_sha256": sha256_of(data.manifest),
        "dimension": 32,
        "count": 5000,
        "factory": "Flat",
        "search_parameters": {},
        "recall_at_10": 1.0,
        "recall_at_10_low": 1.0,
        "recall_at_10_high": 1.0,
        "target_recall": 0.99,
        "work_per_query": 5000.0,
        "bytes_per_vector": 128.0,
        "runners_up": [],
        "base_count": 5000,
        "next_id": 5000,
        "segments": [],
        "removed_count": 0,
        "removed_sha256": None,
        "thumbnail_size": 96,
        "thumbnails_sha256": sha256_of(data.index / "thumbnails.arrow"),
    }
    catalog = pd.read_parquet(data.index / "catalog.parquet")
    columns = ["id", "split", "class_name", "source", "sha256"]
    pd.testing.assert_frame_equal(catalog, data.read_manifest()[columns])


@pytest.mark.slow
def test_an_image_of_the_collection_finds_itself_first(alone: Path, images: NDArray[np.uint8]) -> None:
    index = ImageIndex.open(alone)
    table = index.search(np.array(images[7]), k=5)
    assert list(table.columns) == ["rank", "score", "class_name", "id", "source", "split"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table.loc[0, "id"] == 4007  # after the 4,000 of train
    assert table.loc[0, "split"] == "test"
    assert table.loc[0, "score"] == pytest.approx(1, abs=1e-5)
    assert table["score"].is_monotonic_decreasing


@pytest.mark.slow
def test_the_answers_are_those_of_an_exact_search_in_the_embeddings(small_chain: Path, alone: Path) -> None:
    data = Artifacts(small_chain / "data")
    bank = np.concatenate([data.read_embeddings(split) for split in data.splits()])
    manifest = data.read_manifest()
    picture = ImageIndex.open(data.index).pictures()
    asked = (0, 1234, 4999)
    tables = ImageIndex.open(alone).search([picture(id_) for id_ in asked], k=10)
    for number, id_ in enumerate(asked):
        _, rows = nearest(bank[id_ : id_ + 1], bank, 10, CPU)
        table = tables[tables["query"] == number]
        assert table["id"].tolist() == rows[0].tolist()
        assert table["source"].tolist() == manifest.loc[rows[0], "source"].tolist()
        assert table["class_name"].tolist() == manifest.loc[rows[0], "class_name"].tolist()


@pytest.mark.slow
def test_a_collection_that_changed_meanwhile_changes_no_answer(chain_copy: Path) -> None:
    """The rows of the manifest reversed: as many as before, and every name of another image."""
    data = Artifacts(chain_copy / "data")
    before = ImageIndex.open(data.index).search(np.array(data.read_images("test")[7]))
    reversed_ = data.read_manifest().iloc[::-1].reset_index(drop=True)
    reversed_["id"] = np.arange(5000)
    reversed_.to_parquet(data.manifest)
    shutil.copy(data.start_encoder, data.encoder)
    index = ImageIndex.open(data.index)
    pd.testing.assert_frame_equal(index.search(np.array(data.read_images("test")[7])), before)
    with pytest.raises(UserError, match=r"its pictures are not those of the index: run 'dvc repro index'"):
        index.pictures()


@pytest.mark.slow
def test_embeddings_of_another_encoder_or_of_other_images_are_not_indexed(chain_copy: Path) -> None:
    data = Artifacts(chain_copy / "data")
    before = {name: (data.index / name).read_bytes() for name in FILES}
    original = data.encoder.read_bytes()
    shutil.copy(data.start_encoder, data.encoder)
    line = fails(2, "index", cwd=chain_copy)
    assert line.startswith("data/embeddings: were made with data/encoder/encoder.onnx ")
    assert line.endswith(": run 'dvc repro embed'")
    data.encoder.write_bytes(original)
    data.read_manifest().iloc[::-1].to_parquet(data.manifest)
    assert "were made with data/images/manifest.parquet" in fails(2, "index", cwd=chain_copy)
    assert {name: (data.index / name).read_bytes() for name in FILES} == before


@pytest.mark.slow
def test_pictures_come_from_the_collection_beside_the_folder_and_nowhere_else(
    small_chain: Path, alone: Path, images: NDArray[np.uint8]
) -> None:
    picture = ImageIndex.open(small_chain / "data/index").pictures()
    np.testing.assert_array_equal(picture(4007), images[7])
    with pytest.raises(UserError, match="there is no image 5000: the ids go from 0 to 4999"):
        picture(5000)
    with pytest.raises(
        UserError, match=r"images: no such folder: the pictures of an index lie in images/ beside it"
    ):
        ImageIndex.open(alone).pictures()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_generation_is_refused_by_name(alone: Path, name: str, params: Params) -> None:
    """All of the same size, count and dimension."""
    other = alone.with_name("other")
    rng = np.random.default_rng(0)
    points = rng.standard_normal((5000, 32)).astype(np.float32)
    faiss.normalize_L2(points)
    catalog = pd.read_parquet(alone / "catalog.parquet").iloc[::-1]
    made = make_index([points], params.index)
    index, built = made.index, made.built
    other.mkdir()
    encoder = alone / "encoder.onnx"
    black = np.zeros((5000, 32, 32, 3), dtype=np.uint8)
    IndexFolder(other).write(index, built, encoder, catalog, "0" * 64, [black], 96)
    if name == "encoder.onnx":
        content = encoder.read_bytes()
        encoder.write_bytes(content.replace(b"mnist5k", b"mnist6k"))
    else:
        shutil.copy(other / name, alone / name)
    with pytest.raises(UserError) as error:
        ImageIndex.open(alone)
    wrong = "images.faiss" if name == "index.json" else name  # the card is what the others are held against
    assert f"{alone / wrong}: is " in str(error.value)
    assert f"but {alone / 'index.json'} names " in str(error.value)
    assert str(error.value).endswith(
        "copy the whole folder to another name and rename it, or run 'dvc repro --force index'"
    )


@pytest.mark.slow
def test_an_index_of_another_dimension_is_refused(alone: Path) -> None:
    faiss.write_index(
        faiss.index_factory(16, "Flat", faiss.METRIC_INNER_PRODUCT), str(alone / "images.faiss")
    )
    with pytest.raises(UserError, match=r"images\.faiss: is 0 images of 16 dimensions, but .*5000 of 32"):
        ImageIndex.open(alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("images.faiss", r"images\.faiss: not a whole FAISS index: run 'dvc repro --force index'"),
        ("index.json", r"index\.json: not JSON .* run 'dvc repro --force index'"),
        ("encoder.onnx", r"encoder\.onnx: not an ONNX file"),
        ("catalog.parquet", r"catalog\.parquet: is .* but .* names"),
        ("thumbnails.arrow", r"thumbnails\.arrow: not a whole file of thumbnails"),
    ],
)
def test_a_truncated_file_is_refused_by_name(alone: Path, name: str, rule: str) -> None:
    path = alone / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rule):
        ImageIndex.open(alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_names_the_stage_that_makes_it(alone: Path, name: str) -> None:
    (alone / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing, stage 'index' makes it: run 'dvc repro index'"):
        ImageIndex.open(alone)


@pytest.mark.slow
def test_an_index_card_of_another_version_is_refused(alone: Path) -> None:
    (alone / "index.json").write_text('{"count": 5000}')
    with pytest.raises(UserError, match=r"index\.json: not of this version of Lookalike"):
        ImageIndex.open(alone)


@pytest.mark.slow
def test_the_folder_above_says_which_one_to_name(small_chain: Path) -> None:
    data = small_chain / "data"
    with pytest.raises(UserError, match=f"{data}: not an index folder, {data / 'index'} is one: name that"):
        ImageIndex.open(data)


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, -1, 5001])
def test_k_out_of_range_names_the_size_of_the_index(alone: Path, k: int) -> None:
    index = ImageIndex.open(alone)
    with pytest.raises(UserError, match=f"k is {k}, the index holds 5000 images: choose k from 1 to 5000"):
        index.search(np.zeros((32, 32, 3), np.uint8), k)


@pytest.mark.slow
def test_files_pixels_ids_and_embeddings_ask_the_same(
    alone: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    index = ImageIndex.open(alone)
    file = tmp_path / "digit.png"
    Image.fromarray(images[7]).save(file)
    embedding = Encoder.open(str(alone / "encoder.onnx"))(images[7:8])[0]
    expected = index.search(file, k=6)
    for query in (str(file), np.array(images[7]), embedding, 3 * embedding.astype(np.float64)):
        pd.testing.assert_frame_equal(index.search(query, k=6), expected)
    by_id = index.search(4007, k=5)  # an image of the collection is left out of its own answer
    assert by_id["id"].tolist() == expected["id"].tolist()[1:]
    assert by_id["rank"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_many_queries_are_answered_at_once_each_as_if_alone(alone: Path, images: NDArray[np.uint8]) -> None:
    index = ImageIndex.open(alone)
    embeddings = index.encoder(np.array(images[:100]))
    for many in (np.array(images[:100]), embeddings, [*images[:50], *embeddings[50:]]):
        table = index.search(many, k=3)
        assert table["query"].tolist() == np.repeat(np.arange(100), 3).tolist()
        for number in (0, 63, 64, 99):
            one = index.search(np.array(images[number]), k=3)
            got = table[table["query"] == number].drop(columns="query").reset_index(drop=True)
            pd.testing.assert_frame_equal(got, one, atol=1e-6)
    assert len(index.search([], k=3)) == 0


@pytest.mark.slow
def test_a_split_and_a_class_narrow_the_answer_to_their_own_nearest(
    small_chain: Path, alone: Path, images: NDArray[np.uint8]
) -> None:
    data = Artifacts(small_chain / "data")
    bank = np.concatenate([data.read_embeddings(split) for split in data.splits()])
    manifest = data.read_manifest()
    index = ImageIndex.open(alone)
    for split, class_name in (("train", None), (None, "3"), ("test", "8")):
        allowed = np.ones(5000, dtype=bool)
        if split:
            allowed &= (manifest["split"] == split).to_numpy()
        if class_name:
            allowed &= (manifest["class_name"] == class_name).to_numpy()
        rows = np.flatnonzero(allowed)
        _, expected = nearest(bank[4007:4008], bank[rows], 10, CPU)
        table = index.search(np.array(images[7]), k=10, split=split, class_name=class_name)
        assert table["id"].tolist() == rows[expected[0]].tolist()
    assert len(index.search(4007, k=5000, split="test", class_name="8")) == 100 - (
        manifest.loc[4007, "class_name"] == "8"
    )
    with pytest.raises(UserError, match="split is 'tests', of which the index has none: it has test, train"):
        index.search(0, split="tests")
    with pytest.raises(UserError, match="class_name is 'x', of which the index has none: it has 0, 1, 2"):
        index.search(0, class_name="x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "rule"),
    [
        (5000, "there is no image 5000: the ids go from 0 to 4999"),
        (-1, "there is no image -1"),
        (np.zeros(32), "an embedding has length 0.0: it needs a direction"),
        (np.full(32, np.nan), "an embedding has length nan"),
        (None, "a query is a NoneType: ask with an image file, pixels"),
        (b"ab", "a query is a bytes: ask with"),
        (Image.new("RGB", (32, 32)), "a query is a Image: ask with"),
        (np.array(7), "a query is a ndarray of int64: ask with"),
        (np.array(0.5), "a query is a ndarray of float64: ask with"),
        (np.ones((2, 2), dtype=np.int64), "a query is a ndarray of int64: ask with"),
        (np.ones(31), r"an embedding is \[31\], the index holds \[32\]"),
        (np.zeros((16, 16, 3), np.uint8), r"pixels are \[16, 16, 3\], the encoder takes uint8 \[32, 32, 3\]"),
    ],
)
def test_a_query_that_the_index_cannot_be_asked_is_one_line(alone: Path, query: object, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        ImageIndex.open(alone).search(query)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory",
    ["IVF64,Flat", "HNSW16", "IVF64,PQ8x4", "PCA8,IVF16,Flat", "SQ8", "IVF16,PQ8x4,RFlat", "PQ8x4,RFlat"],
)
def test_an_approximate_index_gives_as_many_as_it_can_find_and_no_empty_places(
    small_chain: Path, alone: Path, params: Params, factory: str
) -> None:
    """One list of 64 holds some 80 images; the id of a place that stays empty is -1.

    In a graph a few images have no other that points to them (here 1 to 2 of 5,000), so no search gets there.
    """
    data = Artifacts(small_chain / "data")
    embeddings = [data.read_embeddings(split) for split in data.splits()]
    chosen = params.index.model_copy(update={"factory": factory, "target_recall": 0.001})
    made = make_index(embeddings, chosen)
    index, built = made.index, made.built
    for name in FILES:
        (alone / name).unlink()
    IndexFolder(alone).write(index, built, data.encoder, data.read_manifest(), "0" * 64)
    opened = ImageIndex.open(alone)
    query = np.concatenate(embeddings)[4007]
    found = opened.search(query, k=5000)["id"].tolist()
    assert sorted(found) == sorted(set(found) & set(range(5000)))
    assert len(found) >= (4990 if factory == "HNSW16" else 5000)
    if factory == "PQ8x4,RFlat":  # FAISS would select by other ids there
        with pytest.raises(UserError, match="cannot search within a split or a class"):
            opened.search(query, k=500, class_name="3")
        return
    threes = opened.search(query, k=500, class_name="3")
    assert len(threes) == 500
    assert set(threes["class_name"]) == {"3"}
    if factory == "IVF64,Flat":  # which keeps the embeddings as they are, and finds each itself
        by_id = opened.search(4007, k=3)
        assert 4007 not in by_id["id"].tolist()
        assert by_id["id"].tolist() == opened.search(query, k=4)["id"].tolist()[1:]


@pytest.mark.slow
def test_an_array_of_ids_asks_for_each_of_them(alone: Path) -> None:
    """As many ids as an embedding has numbers were taken for one."""
    index = ImageIndex.open(alone)
    ids = np.arange(32)
    pd.testing.assert_frame_equal(index.search(ids, k=2), index.search(ids.tolist(), k=2))
    assert index.search(ids, k=2)["query"].nunique() == 32
    with pytest.raises(UserError, match=r"k is 2\.5, the index holds 5000 images"):
        index.search(ids, k=2.5)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["PCA8,IVF16,Flat", "IVF16,PQ8x4", "SQ4"])
def test_the_score_of_an_id_is_a_cosine_where_codes_are_shorter_than_one(
    small_chain: Path, alone: Path, params: Params, factory: str
) -> None:
    data = Artifacts(small_chain / "data")
    chosen = params.index.model_copy(update={"factory": factory, "target_recall": 0.001})
    made = make_index([data.read_embeddings(split) for split in data.splits()], chosen)
    index, built = made.index, made.built
    IndexFolder(alone).write(index, built, data.encoder, data.read_manifest(), "0" * 64)
    opened = ImageIndex.open(alone)
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is not None:
        inverted.make_direct_map()
    reconstructed = index.reconstruct(17)
    by_id = opened.search(17, k=3)
    by_embedding = opened.search(reconstructed / np.linalg.norm(reconstructed), k=3)
    assert by_id["score"].tolist()[0] == pytest.approx(
        by_embedding[by_embedding["id"] != 17]["score"].tolist()[0], abs=1e-5
    )


@pytest.mark.slow
def test_a_fast_scan_index_is_asked_by_an_id_in_vain(small_chain: Path, alone: Path, params: Params) -> None:
    data = Artifacts(small_chain / "data")
    chosen = params.index.model_copy(update={"factory": "IVF16,PQ8x4fs", "target_recall": 0.001})
    made = make_index([data.read_embeddings(split) for split in data.splits()], chosen)
    index, built = made.index, made.built
    IndexFolder(alone).write(index, built, data.encoder, data.read_manifest(), "0" * 64)
    with pytest.raises(UserError, match="image 17: an index of this kind does not give its embeddings back"):
        ImageIndex.open(alone).search(17, k=3)


@pytest.mark.slow
def test_an_index_too_large_to_hash_is_told_from_one_of_which_a_single_number_differs(
    alone: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    monkeypatch.setattr("pipeline.search.index_folder._HASHED_UP_TO", 1000)
    assert len(ImageIndex.open(alone)) == 5000
    vectors = faiss.read_index(str(alone / "images.faiss")).reconstruct_n(0, 5000)
    vectors[2500, 3] += 0.001
    made = make_index([vectors], params.index)
    index, built = made.index, made.built
    other = alone.with_name("other")
    other.mkdir()
    catalog = pd.read_parquet(alone / "catalog.parquet")
    IndexFolder(other).write(index, built, alone / "encoder.onnx", catalog, "0" * 64)
    assert (other / "images.faiss").stat().st_size == (alone / "images.faiss").stat().st_size
    shutil.copy(other / "images.faiss", alone)
    with pytest.raises(UserError, match=r"images\.faiss: is .* they are not of one generation"):
        ImageIndex.open(alone)


@pytest.mark.slow
def test_an_index_that_the_disk_has_no_room_for_to_the_last_byte_is_one_line(chain_copy: Path) -> None:
    """FAISS writes the end of its buffer as it closes the file, and says nothing when that fails."""
    before = {path.name: path.read_bytes() for path in (chain_copy / "data/index").iterdir()}
    room = files_of_at_most(len(before["images.faiss"]) - 5)
    line = fails(1, "index", cwd=chain_copy, before=room)
    assert line.endswith(
        "images.faiss: larger than a file may be here: raise the limit (ulimit -f) or choose another folder"
    )
    assert {path.name: path.read_bytes() for path in (chain_copy / "data/index").iterdir()} == before


@pytest.mark.slow
def test_many_answers_read_a_group_of_the_catalog_once(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    rows = Catalog.rows
    monkeypatch.setattr(Catalog, "rows", lambda self, ids: reads.append(len(ids)) or rows(self, ids))
    ImageIndex.open(alone).search(list(range(50)), k=4)
    assert reads == [200]


@pytest.mark.slow
def test_the_pictures_are_found_from_within_the_folder_and_said_to_be_missing_elsewhere(
    chain_copy: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain_copy / "data/index")
    assert ImageIndex.open(".").pictures()(7).shape == (32, 32, 3)
    elsewhere = chain_copy / "other disk"
    shutil.move(chain_copy / "data/index", elsewhere)
    (chain_copy / "data/index").symlink_to(elsewhere)
    assert ImageIndex.open(chain_copy / "data/index").pictures()(7).shape == (32, 32, 3)
    with pytest.raises(
        UserError, match="images: no such folder: the pictures of an index lie in images/ beside"
    ):
        ImageIndex.open(alone).pictures()
    with pytest.raises(UserError, match=r"index\.json: a file, not an index folder"):
        ImageIndex.open(alone / "index.json")


@pytest.mark.slow
@pytest.mark.parametrize("swap", ["one exchange", "two renames"])
def test_searches_during_swaps_are_each_of_one_generation(
    alone: Path, params: Params, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    """Two generations whose ids are the same and whose names differ take turns while somebody asks."""
    rng = np.random.default_rng(0)
    catalog = pd.read_parquet(alone / "catalog.parquet").iloc[:500]
    generations = []
    for word in ("old", "new"):
        points = rng.standard_normal((500, 32)).astype(np.float32)
        faiss.normalize_L2(points)
        made = make_index([points], params.index)
        index, built = made.index, made.built
        source = alone.with_name(word)
        source.mkdir()
        named = catalog.assign(source=[f"{word}/{row}" for row in range(500)])
        IndexFolder(source).write(index, built, alone / "encoder.onnx", named, word)
        generations.append((source, points[7]))
    done = threading.Event()

    def take_turns() -> None:
        while not done.is_set():
            for source, _ in generations:
                with atomic_folder(alone) as folder:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                time.sleep(0.02)

    shutil.rmtree(alone)
    shutil.copytree(generations[0][0], alone)
    if swap == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
        monkeypatch.setattr(settling, "_SETTLED_AFTER_S", 2.0)
    turns = threading.Thread(target=take_turns)
    turns.start()
    try:
        seen = set()
        for _ in range(60):
            index = ImageIndex.open(alone)
            word = index.card.manifest_sha256
            table = index.search(generations[word == "new"][1], k=3)
            assert table.loc[0, "source"] == f"{word}/7"
            assert table.loc[0, "score"] == pytest.approx(1, abs=1e-5)
            assert {source.split("/")[0] for source in table["source"]} == {word}
            seen.add(word)
    finally:
        done.set()
        turns.join()
    assert seen == {"old", "new"}


def test_the_first_index_that_is_being_made_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        atomic_folder(tmp_path / "index"),
        pytest.raises(
            UserError, match=f"index: process {os.getpid()} is making it: ask again when it is there"
        ),
    ):
        ImageIndex.open(tmp_path / "index")
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_what_dvc_puts_there_file_by_file_is_waited_for(
    alone: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_SETTLED_AFTER_S", 1.0)
    whole = alone.with_name("whole")
    shutil.copytree(alone, whole)
    (alone / "catalog.parquet").unlink()

    def put_back() -> None:
        time.sleep(0.5)
        shutil.copy(whole / "catalog.parquet", alone / "catalog.parquet")

    putting = threading.Thread(target=put_back)
    putting.start()
    assert len(ImageIndex.open(alone)) == 5000
    putting.join()


@pytest.mark.slow
def test_a_folder_left_between_two_renames_is_put_back_by_whoever_opens_it(alone: Path) -> None:
    alone.rename(atomic._previous(alone))
    assert len(ImageIndex.open(alone)) == 5000
    assert alone.is_dir()


def test_a_catalog_of_many_groups_gives_the_rows_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.files.catalog._ROWS_A_GROUP", 7)
    manifest = pd.DataFrame(
        {
            "id": np.arange(50),
            "split": ["train"] * 30 + ["unlabelled"] * 20,
            "class_name": ["cat", "dog", None, "cat", "cat"] * 10,
            "source": [f"{number}.png" for number in range(50)],
            "sha256": ["ab"] * 50,
            "width": 3,
        }
    )
    write_catalog(tmp_path / "catalog.parquet", manifest)
    assert pyarrow.parquet.ParquetFile(tmp_path / "catalog.parquet").num_row_groups == 8
    catalog = Catalog(tmp_path / "catalog.parquet")
    ids = np.array([49, 0, 7, 6, 6])
    assert len(catalog) == 50
    assert [row["source"] for row in catalog.rows(ids)] == ["49.png", "0.png", "7.png", "6.png", "6.png"]
    assert catalog.rows(np.array([2]))[0]["class_name"] is None
    np.testing.assert_array_equal(catalog.ids(), np.arange(50))
    for column in ("split", "class_name"):
        words, numbers = catalog.words(column)
        found = [words[number] if number >= 0 else None for number in numbers]
        assert found == [*manifest[column].replace({np.nan: None})]
    assert sum(len(table) for table in catalog.tables()) == 50
    holes = manifest.assign(id=manifest["id"] * 2 + 1)
    write_catalog(tmp_path / "holes.parquet", holes)
    np.testing.assert_array_equal(Catalog(tmp_path / "holes.parquet").ids(), holes["id"])


def test_a_catalog_without_classes_has_none_of_any_name(tmp_path: Path) -> None:
    rows = {"id": [0, 1], "split": ["train"] * 2, "class_name": [None] * 2, "source": ["a", "b"]}
    write_catalog(tmp_path / "catalog.parquet", pd.DataFrame(rows | {"sha256": ["ab"] * 2}))
    words, numbers = Catalog(tmp_path / "catalog.parquet").words("class_name")
    assert (words, numbers.tolist()) == ([], [-1, -1])


@pytest.mark.slow
def test_an_index_is_opened_and_not_read(alone: Path) -> None:
    """64 MB of vectors: an index that is memory-mapped takes none of the process's own memory."""
    rng = np.random.default_rng(0)
    index = faiss.IndexFlatIP(32)
    index.add(rng.standard_normal((500_000, 32)).astype(np.float32))
    faiss.write_index(index, str(alone / "images.faiss"))
    del index
    card = IndexFolder(alone).read_card()
    big = card.__class__(
        **(card.__dict__ | {"base_count": 500_000, "index_sha256": sha256_of(alone / "images.faiss")})
    )
    before = own_memory()
    opened = IndexFolder(alone).read_index(big)
    opened.search(rng.standard_normal((1, 32)).astype(np.float32), 5)
    assert own_memory() - before < 16 << 20


def own_memory() -> int:
    """Bytes that no file stands behind."""
    lines: Callable[[], list[str]] = Path("/proc/self/status").read_text().splitlines
    (line,) = (line for line in lines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


@pytest.mark.slow
def test_a_target_that_is_missed_is_said_and_stands_in_the_metrics(chain_copy: Path) -> None:
    params = chain_copy / "params.yaml"
    params.write_text(params.read_text().replace("factory: auto ", "factory: PQ4x4 "))
    printed = run_stage("index", chain_copy).stdout
    assert "index: index.target_recall (0.99) is not reached for sure: choose an index.factory" in printed
    metrics = json.loads((chain_copy / "data/metrics/index.json").read_text())
    assert (metrics["target_recall"], metrics["target_reached"]) == (0.99, False)
    assert metrics["recall_at_10"] < 0.95
