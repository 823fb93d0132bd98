"""FAISS under the index contract: exact where it can be, tuned where not, and never with a stranger."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import ImageIndex
from pipeline.artifacts import Artifacts, sha256_of
from pipeline.errors import UserError
from pipeline.evaluation.knn import nearest, normalize
from pipeline.params.reader import Params
from pipeline.search.index import build_index, choose_factory, make_index
from pipeline.search.tuning import exact_neighbors, recall, tune


@pytest.fixture(scope="module")
def parts() -> list[NDArray[np.float32]]:
    """Two parts of embeddings in 200 clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 16))
    points = centres[rng.integers(0, 200, 6000)] + 0.3 * rng.standard_normal((6000, 16))
    embeddings = normalize(points.astype(np.float32))
    return [embeddings[:5000], embeddings[5000:]]


def test_auto_is_exact_up_to_100_000_images_and_an_inverted_file_beyond() -> None:
    assert choose_factory("auto", 5000) == "Flat"
    assert choose_factory("auto", 100_000) == "Flat"
    assert choose_factory("auto", 1_000_000) == "IVF4096,Flat"  # 4 sqrt(N), to a power of two
    assert choose_factory("HNSW32", 5000) == "HNSW32"


def test_exact_search_is_numpys_with_ids_counted_over_all_parts(parts: list[NDArray[np.float32]]) -> None:
    queries = parts[1][:50]
    _, expected = nearest(queries, np.concatenate(parts), 10)
    np.testing.assert_array_equal(exact_neighbors(parts, queries, 10), expected)
    np.testing.assert_array_equal(expected[:, 0], np.arange(5000, 5050))


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW16", "IVF64,PQ8x4", "PCA8,IVF16,Flat"])
def test_any_factory_string_builds_and_says_what_it_recalls(
    parts: list[NDArray[np.float32]], params: Params, factory: str
) -> None:
    chosen = params.index.model_copy(update={"factory": factory, "num_queries": 200})
    index, card, queries_per_s = make_index(parts, chosen, "e" * 64)
    assert (card.factory, card.count, card.dimension) == (factory, 6000, 16)
    assert queries_per_s > 0
    queries = np.concatenate(parts)[::30]
    _, truth = nearest(queries, np.concatenate(parts), 10)
    _, found = index.search(queries, 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    assert card.recall_at_10 == pytest.approx(by_hand, abs=0.03)  # over other queries
    if "PQ" not in factory and "PCA" not in factory:
        assert card.recall_at_10 >= chosen.target_recall


def test_tuning_stops_at_the_first_power_of_two_that_reaches_the_recall(
    parts: list[NDArray[np.float32]],
) -> None:
    index = build_index(parts, "IVF64,Flat", seed=0)
    queries = np.ascontiguousarray(parts[0][:300])
    truth = exact_neighbors(parts, queries, 10)
    reached_with = {}
    for value in (1, 2, 4, 8, 16, 32, 64):
        faiss.extract_index_ivf(index).nprobe = value
        reached_with[value] = recall(index, queries, truth)
    for value in (2, 4, 8):  # just more than what half as many lists give
        target = reached_with[value // 2] + 1e-6
        assert reached_with[value] > target
        assert tune(index, queries, truth, target) == ({"nprobe": value}, reached_with[value])


def test_the_same_embeddings_build_the_same_bytes(parts: list[NDArray[np.float32]]) -> None:
    first, again = (faiss.serialize_index(build_index(parts, "IVF64,Flat", seed=0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("factory", ["Flatt", "IVF", "IVF9000,Flat", "PQ5"])
def test_a_factory_that_faiss_cannot_build_is_one_line(
    parts: list[NDArray[np.float32]], factory: str
) -> None:
    with pytest.raises(UserError) as error:
        build_index(parts, factory, seed=0)
    line = str(error.value)
    assert line.startswith(
        f"params.yaml: index.factory: FAISS cannot build '{factory}' for 6000 vectors of 16"
    )
    assert "\n" not in line
    assert "index_factory" not in line  # nor FAISS's own places in its code


# Everything below asks the small run of the whole chain.


@pytest.mark.slow
def test_an_image_of_the_collection_finds_itself_first(small_chain: Path) -> None:
    index = ImageIndex.open(small_chain / "data")
    images = Artifacts(small_chain / "data").read_images("test")
    table = index.search(np.array(images[7]), k=5)
    assert list(table.columns) == ["rank", "score", "class_name", "id", "source", "split"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table.loc[0, "id"] == 4007  # after the 4,000 of train
    assert table.loc[0, "split"] == "test"
    assert table.loc[0, "score"] == pytest.approx(1, abs=1e-5)
    assert table["score"].is_monotonic_decreasing
    np.testing.assert_array_equal(index.pixels(4007), images[7])


@pytest.mark.slow
def test_the_answers_are_those_of_an_exact_search_in_the_embeddings(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    bank = np.concatenate([data.read_embeddings(split) for split in data.splits()])
    manifest = data.read_manifest()
    index = ImageIndex.open(data.root)
    for id_ in (0, 1234, 4999):
        _, rows = nearest(bank[id_ : id_ + 1], bank, 10)
        table = index.search(index.pixels(id_), k=10)
        assert table["id"].tolist() == rows[0].tolist()
        assert table["source"].tolist() == manifest.loc[rows[0], "source"].tolist()
        assert table["class_name"].tolist() == manifest.loc[rows[0], "class_name"].tolist()


@pytest.mark.slow
def test_the_card_names_the_encoder_that_made_the_index(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    card = json.loads(data.index_card.read_text())
    assert card == {
        "encoder_sha256": sha256_of(data.encoder),
        "dimension": 64,
        "count": 5000,
        "factory": "Flat",
        "search_parameters": {},
        "recall_at_10": 1.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, -1, 5001])
def test_k_out_of_range_names_the_size_of_the_index(small_chain: Path, k: int) -> None:
    index = ImageIndex.open(small_chain / "data")
    with pytest.raises(UserError, match=f"k is {k}, the index holds 5000 images: choose k from 1 to 5000"):
        index.search(np.zeros((32, 32, 3), np.uint8), k)


@pytest.mark.slow
def test_an_index_of_another_encoder_is_refused(chain_copy: Path) -> None:
    data = Artifacts(chain_copy / "data")
    shutil.copy(data.untrained_encoder, data.encoder)
    built_with, found = json.loads(data.index_card.read_text())["encoder_sha256"], sha256_of(data.encoder)
    with pytest.raises(UserError) as error:
        ImageIndex.open(data.root)
    assert str(error.value) == (
        f"{data.index}: built with encoder {built_with[:12]}, but {data.encoder} is {found[:12]}: "
        "run 'dvc repro index'"
    )


@pytest.mark.slow
def test_an_index_of_another_dimension_is_refused(chain_copy: Path) -> None:
    data = Artifacts(chain_copy / "data")
    faiss.write_index(faiss.index_factory(32, "Flat", faiss.METRIC_INNER_PRODUCT), str(data.index))
    with pytest.raises(UserError, match=r"images\.faiss: has 32 dimensions and .*index\.json says 64, but"):
        ImageIndex.open(data.root)


@pytest.mark.slow
def test_a_manifest_of_another_length_is_refused(chain_copy: Path) -> None:
    data = Artifacts(chain_copy / "data")
    data.read_manifest().iloc[:-1].to_parquet(data.manifest)
    with pytest.raises(UserError, match=r"holds 5000 images .* but .*manifest\.parquet lists 4999: run"):
        ImageIndex.open(data.root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("index/images.faiss", r"images\.faiss: not a whole FAISS index: run 'dvc repro --force index'"),
        ("index/index.json", r"index\.json: not JSON .* run 'dvc repro --force index'"),
        ("encoder/encoder.onnx", r"encoder\.onnx: not an ONNX file"),
        ("images/manifest.parquet", r"manifest\.parquet: not a parquet file: run 'dvc repro --force fetch'"),
    ],
)
def test_a_truncated_output_is_refused_by_name(chain_copy: Path, name: str, rule: str) -> None:
    path = chain_copy / "data" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rule):
        ImageIndex.open(chain_copy / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("index/images.faiss", "index"),
        ("index/index.json", "index"),
        ("encoder/encoder.onnx", "export"),
        ("images/manifest.parquet", "fetch"),
    ],
)
def test_a_missing_output_names_the_stage_that_makes_it(chain_copy: Path, name: str, stage: str) -> None:
    (chain_copy / "data" / name).unlink()
    with pytest.raises(
        UserError, match=f"{name}: missing, stage '{stage}' makes it: run 'dvc repro {stage}'"
    ):
        ImageIndex.open(chain_copy / "data")


@pytest.mark.slow
def test_an_index_card_of_another_version_is_refused(chain_copy: Path) -> None:
    Artifacts(chain_copy / "data").index_card.write_text('{"count": 5000}')
    with pytest.raises(UserError, match=r"index\.json: not of this version of Lookalike"):
        ImageIndex.open(chain_copy / "data")
