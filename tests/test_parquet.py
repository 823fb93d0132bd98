"""Hugging Face style tables become collections; what is missing in them is one line or a reason."""

import datetime
import decimal
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.collection.sources.collection import Collection, Unreadable
from pipeline.collection.sources.parquet import parquet
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset
from pipeline.params.reader import Params


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write(
    path: Path,
    seeds: range,
    labels: list[Any] | None = None,
    names: list[str] | None = None,
    image: str = "image",
) -> None:
    """A table as `datasets` writes it: structs of bytes and path, class names in the schema."""
    structs = [{"bytes": picture(seed), "path": f"{seed}.png"} for seed in seeds]
    columns: dict[str, Any] = {
        image: pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    }
    if labels is not None:
        columns["label"] = labels
    table = pa.table(columns)
    if names is not None:
        features = {image: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def dataset(params: Params, path: Path, **changes: object) -> Dataset:
    return params.dataset.model_copy(update={"name": "parquet", "path": str(path)} | changes)


def contents(collection: Collection) -> list[Any]:
    found = dict(collection.contents())
    return [found[number] for number in range(len(collection.entries))]


def test_tables_named_by_split_with_class_names_in_the_schema(params: Params, tmp_path: Path) -> None:
    names = ["cat", "dog", "never seen"]
    write(tmp_path / "data/train-00000-of-00002.parquet", range(4), [0, 1, 0, -1], names)
    write(tmp_path / "data/train-00001-of-00002.parquet", range(4, 6), [1, 1], names)
    write(tmp_path / "data/test-00000-of-00001.parquet", range(6, 8), [1, 0], names)
    found = parquet(dataset(params, tmp_path / "data"))
    assert found.class_names == ("cat", "dog", "never seen")
    rows = [(entry.source, entry.split, entry.label) for entry in found.entries]
    assert rows[:2] == [
        ("test-00000-of-00001.parquet#6.png", "test", 1),
        ("test-00000-of-00001.parquet#7.png", "test", 0),
    ]
    # a row without a label beside labelled ones is learned from and searched, never scored on
    assert [row[1:] for row in rows[2:]] == [
        ("train", 0),
        ("train", 1),
        ("train", 0),
        ("unlabelled", -1),
        ("train", 1),
        ("train", 1),
    ]
    assert contents(found) == [picture(seed) for seed in (6, 7, 0, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("test.parquet", "test"),
        ("validation-00000-of-00001.parquet", "test"),
        ("val/0000.parquet", "test"),
        ("unlabelled.parquet", "unlabelled"),
        ("unlabeled-0.parquet", "unlabelled"),
        ("photographs.parquet", "train"),
    ],
)
def test_the_name_of_a_table_says_its_split(name: str, split: str, params: Params, tmp_path: Path) -> None:
    write(tmp_path / "tables" / name, range(2))
    assert {entry.split for entry in parquet(dataset(params, tmp_path / "tables")).entries} == {split}


def test_validation_is_left_aside_where_there_is_a_test_split_and_the_test_split_where_not(
    params: Params, tmp_path: Path
) -> None:
    write(tmp_path / "a/train.parquet", range(6), [0, 1] * 3)
    write(tmp_path / "a/validation.parquet", range(6, 8), [0, 1])
    without = parquet(dataset(params, tmp_path / "a"))
    assert [entry.split for entry in without.entries] == ["train"] * 6 + ["test"] * 2
    write(tmp_path / "a/test.parquet", range(8, 10), [1, -1])
    found = parquet(dataset(params, tmp_path / "a"))
    rows = [(entry.source, entry.split, entry.label) for entry in found.entries]
    assert rows[:2] == [("test.parquet#8.png", "test", 1), ("test.parquet#9.png", "unlabelled", -1)]
    assert {row[1] for row in rows[2:]} == {"train"}
    assert len(rows) == 8
    assert contents(found) == [picture(seed) for seed in (8, 9, 0, 1, 2, 3, 4, 5)]
    assert "2 validation images are left aside, since there is a test split" in found.remarks


@pytest.mark.parametrize("has_paths", [True, False])
def test_a_row_that_is_inserted_changes_the_name_and_the_split_of_no_other(
    has_paths: bool, params: Params, tmp_path: Path
) -> None:
    def found(seeds: list[int]) -> dict[bytes, tuple[str, str]]:
        images = [picture(seed) for seed in seeds]
        column: Any = images
        if has_paths:
            column = [{"bytes": picture(seed), "path": f"{seed}.png"} for seed in seeds]
        pq.write_table(
            pa.table({"image": column, "label": [seed % 2 for seed in seeds]}), tmp_path / "a.parquet"
        )
        collection = parquet(dataset(params, tmp_path / "a.parquet"))
        return {
            content: (collection.entries[row].source, collection.entries[row].split)
            for row, content in collection.contents()
            if isinstance(content, bytes)
        }

    before = found(list(range(40)))
    after = found([*range(7), 100, *range(7, 40)])
    assert {before[image][0] for image in before} == {after[image][0] for image in before}
    moved = [image for image in before if before[image] != after[image]]
    assert len(moved) <= 1  # one more of a class may ask for one more in the test split


def test_equal_images_of_a_table_without_paths_are_told_apart(params: Params, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0), picture(1), picture(0), None]}), tmp_path / "a.parquet")
    sources = [entry.source for entry in parquet(dataset(params, tmp_path / "a.parquet")).entries]
    assert len(set(sources)) == 4
    assert sources[2] == f"{sources[0]}-2"
    assert sources[3] == "a.parquet#row 3"


def test_one_table_with_words_for_labels_is_split_by_seed(params: Params, tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", range(20), ["dog", "cat"] * 10)
    found = parquet(dataset(params, tmp_path / "all.parquet"))
    assert found.class_names == ("cat", "dog")
    assert [entry.label for entry in found.entries[:2]] == [1, 0]
    for label in (0, 1):
        assert sum(entry.split == "test" for entry in found.entries if entry.label == label) == 2


def test_numbers_that_do_not_count_from_zero_become_labels_that_do(params: Params, tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", range(4), [10, 7, None, 10])
    found = parquet(dataset(params, tmp_path / "all.parquet"))
    assert found.class_names == ("7", "10")
    assert [entry.label for entry in found.entries] == [1, 0, -1, 1]


def test_a_table_without_labels_is_all_for_training(params: Params, tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", range(3))
    found = parquet(dataset(params, tmp_path / "all.parquet"))
    assert found.class_names == ()
    assert {(entry.split, entry.label) for entry in found.entries} == {("train", -1)}
    assert "no labels" in found.remarks[1]


def test_a_column_of_plain_bytes_is_named_in_params(params: Params, tmp_path: Path) -> None:
    table = pa.table({"jpg": [picture(0), None], "kind": ["a", "b"], "note": ["x", "y"]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = parquet(dataset(params, tmp_path / "a.parquet", image_column="jpg", label_column="kind"))
    assert found.class_names == ("a", "b")
    assert contents(found) == [picture(0), Unreadable("no bytes in the table")]


def test_a_row_with_a_path_and_no_bytes_says_so(params: Params, tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}], kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    (content,) = contents(parquet(dataset(params, tmp_path / "a.parquet")))
    assert content == Unreadable("the table has its path and not its bytes")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"image_column": "img"}, "has no column 'img', its columns are image, label: name one in"),
        ({"label_column": "class"}, "has no column 'class', its columns are image, label: name one in"),
        ({"image_column": "label"}, "column 'label' holds int64, not the bytes of image files"),
        (
            {"label_column": "image"},
            "column 'image' holds struct<.*>, not one label a row: name another one in",
        ),
    ],
)
def test_a_wrong_column_is_one_line(
    params: Params, tmp_path: Path, changes: dict[str, str], line: str
) -> None:
    write(tmp_path / "a.parquet", range(2), [0, 1])
    with pytest.raises(UserError, match=line):
        parquet(dataset(params, tmp_path / "a.parquet", **changes))


def test_a_column_of_lists_of_labels_is_one_line_that_names_what_does_without(
    params: Params, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", range(2), [[0, 1], [1]])
    with pytest.raises(
        UserError, match=r"'label' holds list<.*>, not one label a row: .* dataset\.labels to n"
    ):
        parquet(dataset(params, tmp_path / "a.parquet"))
    found = parquet(dataset(params, tmp_path / "a.parquet", labels="none"))
    assert {entry.label for entry in found.entries} == {-1}


@pytest.mark.parametrize("value", [float("nan"), "1"])
def test_a_label_that_no_class_name_stands_for_is_no_traceback(
    params: Params, tmp_path: Path, value: object
) -> None:
    kind = type(value)
    write(tmp_path / "a.parquet", range(3), [value, kind(1), kind(0)], ["cat", "dog"])
    found = parquet(dataset(params, tmp_path / "a.parquet"))
    assert [entry.label for entry in found.entries] in ([-1, 1, 0], [1, 1, 0])


def test_damaged_pages_of_labels_are_one_line(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [picture(0)] * 500, "label": list(range(500))}), path, compression="zstd"
    )
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: damaged \(") as error:
        parquet(dataset(params, path))
    assert "\n" not in str(error.value)


def plain(path: Path, labels: Any, **columns: Any) -> Path:
    """A table that nothing compresses, of bytes alone."""
    num_rows = len(labels)
    table = pa.table({"image": pa.array([picture(0)] * num_rows, pa.binary()), "label": labels} | columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    return path


def test_bytes_of_a_word_or_of_the_footer_that_are_damaged_are_one_line(
    params: Params, tmp_path: Path
) -> None:
    path = plain(tmp_path / "a.parquet", [f"class{row % 5}" for row in range(20)])
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place, bad in ((whole.index(b"class3"), b"\xff"), (footer + 3, b"\x0e" * 5)):
        path.write_bytes(whole[:place] + bad + whole[place + len(bad) :])
        with pytest.raises(UserError) as error:
            contents(parquet(dataset(params, path)))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_a_table_damaged_anywhere_is_one_line_or_read(params: Params, tmp_path: Path) -> None:
    path = plain(tmp_path / "a.parquet", [f"class{row % 5}" for row in range(20)])
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    lines = []
    for _ in range(300):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole) - 8))
        damaged[place : place + 4] = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()
        path.write_bytes(damaged)
        try:
            contents(parquet(dataset(params, path)))
        except UserError as error:
            lines.append(str(error))
    assert len(lines) > 20
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)


def test_more_rows_than_the_footer_says_are_one_line(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    images = pa.array([picture(seed) for seed in range(5)], pa.binary())
    pq.write_table(pa.table({"image": images}), path, store_schema=False)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    of_file = whole.index(b"\x16\x0a", footer)  # the first number of 64 bits there: 5, in zigzag
    for said in (0, 1, 4):
        path.write_bytes(whole[: of_file + 1] + bytes([2 * said]) + whole[of_file + 2 :])
        assert pq.ParquetFile(path).metadata.num_rows == said
        with pytest.raises(UserError, match=f"damaged .5 rows, where it says {said}"):
            contents(parquet(dataset(params, path)))


def test_odd_labels_are_one_line_or_what_they_say(params: Params, tmp_path: Path) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((4, 2, 2), np.float32))
    with pytest.raises(UserError, match="not one label a row"):
        parquet(dataset(params, plain(tmp_path / "tensors.parquet", tensors)))
    doubled = plain(tmp_path / "doubled.parquet", [0, 1])
    table = pq.read_table(doubled)
    pq.write_table(
        pa.Table.from_arrays([*table.columns, table["label"]], ["image", "label", "label"]), doubled
    )
    with pytest.raises(UserError, match="has 2 columns 'label'"):
        parquet(dataset(params, doubled))
    blank = parquet(dataset(params, plain(tmp_path / "blank.parquet", ["", "cat", " ", "dog"])))
    assert blank.class_names == ("cat", "dog")
    assert sorted(entry.label for entry in blank.entries) == [-1, -1, 0, 1]


@pytest.mark.parametrize("values", [[0.0, 1.5], [datetime.date(2020, 1, 1)] * 2, [b"a", b"b"]])
def test_values_that_no_class_name_of_the_schema_stands_for_name_themselves(
    params: Params, tmp_path: Path, values: list[Any]
) -> None:
    write(tmp_path / "a.parquet", range(2), values, ["cat", "dog"])
    found = parquet(dataset(params, tmp_path / "a.parquet"))
    said = {f"{value:g}" if isinstance(value, float) else str(value) for value in values}
    assert found.class_names == tuple(sorted(said))


def test_a_number_and_the_same_number_as_a_word_are_one_class(params: Params, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", range(4), [1, 2, 10, 2])
    write(tmp_path / "test.parquet", range(4, 8), ["1", "2", "10", "2"])
    found = parquet(dataset(params, tmp_path))
    assert found.class_names == ("1", "10", "2")
    assert "tables: 1 test, 1 train, by their names; 8 rows" in found.remarks[0]
    assert [entry.label for entry in found.entries if entry.split == "test"] == [0, 2, 1, 2]


@pytest.mark.parametrize("missing", [None, -1])
def test_whole_numbers_that_pandas_made_floats_are_the_same_classes(
    params: Params, tmp_path: Path, missing: int | None
) -> None:
    """A column of whole numbers of which one is missing is one of floats: 1.0 is the 1 of the other table."""
    write(tmp_path / "train.parquet", range(6), [0, 1, 2, 0, 1, 2])
    write(tmp_path / "test.parquet", range(6, 10), pa.array([0.0, 1.0, missing, 1.0], pa.float64()))
    found = parquet(dataset(params, tmp_path))
    assert found.class_names == ("0", "1", "2")
    assert [entry.label for entry in found.entries if entry.split == "test"] == [0, 1, 1]
    write(tmp_path / "test.parquet", range(6, 8), [decimal.Decimal("1.0"), decimal.Decimal("2")])
    assert parquet(dataset(params, tmp_path)).class_names == ("0", "1", "2")


def test_a_label_that_is_no_finite_number_is_no_traceback(params: Params, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(2), [0.0, float("inf")], ["cat", "dog"])
    assert parquet(dataset(params, tmp_path / "a.parquet")).class_names == ("0", "inf")


def test_the_split_is_a_word_of_the_name_and_the_last_one(params: Params, tmp_path: Path) -> None:
    names = {
        "valuable/a.parquet": "train",
        "testimony.parquet": "train",
        "latest.parquet": "train",
        "cifar_train.parquet": "train",
        "train_set/cifar-test.parquet": "test",
        "data/test-00000-of-00001.parquet": "test",
        "unlabelled2-0.parquet": "unlabelled",
        "testset.parquet": "test",
        "cifarTestData.parquet": "test",
        "VALIDATION/TRAIN.parquet": "train",
        "dataset.parquet": "train",
    }
    for number, name in enumerate(names):
        write(tmp_path / name, range(2 * number, 2 * number + 2), [0, 1])
    found = parquet(dataset(params, tmp_path))
    assert {entry.source.partition("#")[0]: entry.split for entry in found.entries} == names


@pytest.mark.parametrize("damage", ["text", "cut", "pages"])
def test_a_damaged_table_is_one_line(params: Params, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    write(path, range(2), [0, 1])
    whole = path.read_bytes()
    path.write_bytes(
        {"text": b"hello" * 9, "cut": whole[:-20], "pages": whole[:4] + b"\xff" * 200 + whole[204:]}[damage]
    )
    with pytest.raises(UserError) as error:
        contents(parquet(dataset(params, path)))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_folder_without_tables_is_one_line(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.parquet file and no folder that holds one"):
        parquet(dataset(params, tmp_path))
