"""What a stage holds of every image: some numbers, however many images there are."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from benchmarks.scale import as_bitmaps, made_up_images, with_children, write_table
from pipeline.artifacts import Artifacts
from pipeline.collection.outcomes import OutcomesOf
from pipeline.collection.places import in_table
from pipeline.collection.sources.names import Names as Texts
from pipeline.collection.sources.names import are_distinct, hash_keys
from pipeline.collection.sources.parquet import parquet
from pipeline.collection.worker import Read
from pipeline.evaluation.findings.collection import contents_of, find_faults, of_other_contents
from pipeline.evaluation.findings.label_errors import label_errors
from pipeline.evaluation.label_free.hubness import hubness
from pipeline.evaluation.scored import scored_images
from pipeline.images import decode
from pipeline.params.reader import Params
from pipeline.report.album import Album
from pipeline.search.from_arrays.names import Names
from pipeline.search.neighbors import new_array
from tests.test_findings import CPU

MOST = 200  # bytes an image, what docs/scale.md aims at


def bytes_an_image(work: Callable[[int], object], few: int, many: int) -> float:
    """What `work` holds more of an image at its peak, by Python's and NumPy's own count."""
    peaks = []
    for count in (few, many):
        tracemalloc.start()
        work(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (many - few)


def test_a_source_of_a_table_holds_little_beside_the_names(params: Params, tmp_path: Path) -> None:
    for count in (2_000, 12_000):
        write_table(tmp_path / f"{count}.parquet", count)

    def list_it(count: int) -> Sequence[object]:
        path = str(tmp_path / f"{count}.parquet")
        return parquet(params.dataset.model_copy(update={"name": "parquet", "path": path})).entries

    listed = list_it(2_000)
    assert [entry.label for entry in listed[:3]] == [0, 1, 2]  # type: ignore[attr-defined]
    assert bytes_an_image(list_it, 2_000, 12_000) < MOST


class Vectors:
    """So many rows of a file that nobody opens."""

    path = Path("vectors.npy")

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


@pytest.mark.parametrize("reader", ["images", "a catalog"])
def test_a_table_that_is_gone_through_is_never_in_memory(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.parquet"
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    rng, kind = np.random.default_rng(0), image if reader == "images" else pyarrow.string()
    schema = pyarrow.schema({"image" if reader == "images" else "source": kind})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none") as writer:
        for _ in range(50):
            words = [rng.bytes(5_000).hex() for _ in range(20)]
            rows = [{"bytes": word.encode(), "path": word[:9]} for word in words]
            values = pyarrow.array(rows if reader == "images" else words, kind)
            writer.write_table(pyarrow.table([values], schema=schema))
    monkeypatch.setattr("pipeline.search.from_arrays.names._ROWS_AT_ONCE", 20)
    rows_of = in_table(path) if reader == "images" else Names([Vectors(1000)], path).tables()  # type: ignore[list-item]
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()  # what comes through Python's own file is Python's
    most = max(tracemalloc.get_traced_memory()[0] + pyarrow.total_allocated_bytes() - before for _ in rows_of)
    tracemalloc.stop()
    assert most < path.stat().st_size / 4


def test_the_findings_hold_little_beside_the_neighbours_in_files(tmp_path: Path) -> None:
    def look(count: int) -> None:
        rng = np.random.default_rng(0)
        ids = new_array(tmp_path, np.int32, (count, 10))
        cosines = new_array(tmp_path, np.float32, (count, 10))
        ids[:] = (np.arange(count)[:, None] + np.arange(1, 11)) % count
        cosines[:] = np.linspace(0.5, 0.4, 10, dtype=np.float32)
        digests = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        is_test = np.arange(count) % 5 == 0
        contents = contents_of(digests)
        others = of_other_contents(ids, contents, new_array(tmp_path, np.int32, (count, 10)))
        hubness(ids)
        find_faults(others, cosines, ~is_test, is_test, contents, lambda _: np.zeros((8, 8, 3), np.uint8))
        labels = np.arange(count) % 3
        features = np.zeros((count, 1), dtype=np.float32)
        label_errors(features, labels, np.arange(count), others, ["a", "b", "c"], 1.0, 1, CPU)

    look(1_000)  # what is loaded once
    assert bytes_an_image(look, 100_000, 150_000) < MOST


def test_a_page_holds_no_word_of_an_image_that_it_does_not_show(tmp_path: Path) -> None:
    def open_it(count: int) -> Album:
        data = Artifacts(tmp_path / str(count))
        if not data.manifest.exists():
            data.images.mkdir(parents=True)
            words = [f"photograph {number}" for number in range(count)]
            columns = {"split": ["train"] * count, "label": np.zeros(count, int), "source": words}
            pd.DataFrame(columns | {"class_name": words}).to_parquet(data.manifest)
        return Album(data.read_manifest(["split", "label", "class_name", "source"]))

    for count in (1_000, 21_000):
        assert open_it(count).source(count - 1) == f"photograph {count - 1}"
    assert bytes_an_image(open_it, 1_000, 21_000) < 40


def test_of_many_labelled_images_a_share_of_every_class_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.scored._MOST_OF", {"train": 100, "test": 40})
    labels = np.repeat([0, 1, 2, -1], [600, 200, 1, 50])
    rows = {"split": np.repeat(["train", "test"], len(labels)), "label": np.tile(labels, 2)}
    scored = scored_images(pd.DataFrame(rows))
    assert {split: len(of_split) for split, of_split in scored.rows.items()} == {"train": 100, "test": 40}
    for split, of_split in scored.rows.items():
        np.testing.assert_array_equal(scored.labels[split], labels[of_split])
        assert (np.diff(of_split) > 0).all()
        counts = np.bincount(scored.labels[split])
        assert counts[2] == 1
        assert counts[0] / counts[1] == pytest.approx(3, rel=0.1)


def test_names_are_a_list_of_texts() -> None:
    texts = ["a.jpg", "", "café\n", "caf\udce9.png", "a.jpg"]
    names = Texts(texts)
    assert list(names) == texts
    assert (names[-1], names[1:3], len(names)) == ("a.jpg", texts[1:3], 5)
    with pytest.raises(IndexError):
        names[5]
    assert are_distinct(names[:4])
    assert not are_distinct(names)
    assert list(hash_keys([b"x", None, b"x", b"y", b"x"], 5)) == [
        *("2d711642b726b044", "row 1", "2d711642b726b044-2", "a1fce4363854ff88", "2d711642b726b044-3")
    ]


def test_outcomes_count_as_sets_do() -> None:
    rng = np.random.default_rng(0)
    files = [rng.integers(0, 256, 32, dtype=np.uint8).tobytes() for _ in range(30)]
    chosen: NDArray[np.int64] = rng.integers(0, 30, 100)
    is_test, is_read = rng.random(100) < 0.2, rng.random(100) < 0.9
    outcomes = OutcomesOf(100)
    for number in rng.permutation(100).tolist():
        outcomes.note(number, Read(3, 4, files[chosen[number]]) if is_read[number] else "damaged")
    read = [int(number) for number in np.flatnonzero(is_read)]
    in_test = {chosen[number] for number in read if is_test[number]}
    expected = [number in read and not is_test[number] and chosen[number] in in_test for number in range(100)]
    np.testing.assert_array_equal(outcomes.leaked(is_test), expected)
    assert outcomes.num_duplicates() == len(read) - len({chosen[number] for number in read})
    assert sorted(outcomes.reasons) == np.flatnonzero(~is_read).tolist()


def test_the_images_of_the_benchmark_are_files_that_are_read() -> None:
    ((numbers, pixels),) = made_up_images(1000)
    assert (pixels[999] == pixels[998]).all()
    np.testing.assert_array_equal(numbers, np.arange(1000))
    files = as_bitmaps(pixels[:3])
    for file, expected in zip(files, pixels, strict=False):
        np.testing.assert_array_equal(decode(file.as_py(), pixels.shape[1]).pixels, expected)
    assert with_children([2**30]) == [2**30]  # no such process
