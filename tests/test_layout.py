"""How files lie in folders says what they are."""

from collections import Counter

import pytest

from pipeline.collection.sources.layout import Arranged, arrange


def arranged(*names: str, test_fraction: float = 0.2) -> Arranged:
    return arrange(sorted(names), test_fraction, seed=0)


def class_and_split(found: Arranged) -> Counter[tuple[str | None, str]]:
    return Counter(
        (found.class_names[entry.label] if entry.label >= 0 else None, entry.split) for entry in found.entries
    )


def files(folder: str, count: int) -> list[str]:
    return [f"{folder}/{number}.jpg" for number in range(count)]


@pytest.mark.parametrize("around", ["", "photos/", "a/b/"])
@pytest.mark.parametrize("test", ["test", "val", "validation", "Test"])
def test_train_and_test_folders_are_the_splits(around: str, test: str) -> None:
    found = arranged(
        *files(f"{around}train/cat", 3), *files(f"{around}train/dog", 2), *files(f"{around}{test}/dog", 1)
    )
    assert class_and_split(found) == {("cat", "train"): 3, ("dog", "train"): 2, ("dog", "test"): 1}
    assert found.class_names == ("cat", "dog")
    assert "train/<class>/*" in found.remarks[0]


def test_validation_images_are_left_aside_where_there_is_a_test_split() -> None:
    found = arranged(*files("train/cat", 3), *files("val/cat", 2), *files("test/cat", 1))
    assert class_and_split(found) == {("cat", "train"): 3, ("cat", "test"): 1}
    assert "2 validation images are left aside" in found.remarks[1]


def test_an_unlabelled_folder_is_a_split_without_labels() -> None:
    found = arranged(*files("train/cat", 2), *files("test/cat", 1), *files("unlabeled", 4))
    assert class_and_split(found) == {("cat", "train"): 2, ("cat", "test"): 1, (None, "unlabelled"): 4}


def test_splits_without_classes_have_no_labels() -> None:
    found = arranged(*files("train", 3), *files("test", 2))
    assert class_and_split(found) == {(None, "train"): 3, (None, "test"): 2}
    assert found.class_names == ()


@pytest.mark.parametrize("around", ["", "photos/", "train/"])
def test_class_folders_are_split_by_seed(around: str) -> None:
    found = arranged(*files(f"{around}cat", 10), *files(f"{around}dog", 5))
    assert class_and_split(found) == {
        ("cat", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "train"): 4,
        ("dog", "test"): 1,
    }
    assert "3 of 15 images are for testing" in found.remarks[0]


def test_the_split_does_not_depend_on_the_folder_around() -> None:
    plain = arranged(*files("cat", 20), *files("dog", 20))
    deep = arranged(*files("x/cat", 20), *files("x/dog", 20))
    assert [entry.split for entry in plain.entries] == [entry.split for entry in deep.entries]


@pytest.mark.parametrize(
    "names",
    [
        files("photos", 5),
        ["a.jpg", "b.jpg"],
        ["2021/07/a.jpg", "2021/08/b.jpg", "2022/01/c.jpg"],
        ["cat/a.jpg", "dog/b.jpg", "stray.jpg"],
    ],
)
def test_anything_else_has_no_classes_and_is_all_for_training(names: list[str]) -> None:
    found = arranged(*names)
    assert class_and_split(found) == {(None, "train"): len(names)}
    assert "no classes" in found.remarks[0]


def test_a_stray_image_beside_class_folders_is_named() -> None:
    found = arranged(*files("cat", 3), *files("dog", 3), "stray.jpg")
    assert "1 of 7 images lie beside the folders" in found.remarks[1]
    assert "stray.jpg" in found.remarks[1]


def test_classes_whose_names_differ_in_case_stay_two_and_are_named() -> None:
    found = arranged(*files("cat", 2), *files("Cat", 2))
    assert found.class_names == ("Cat", "cat")
    assert "Cat and cat are 2 classes: their names differ in case alone" in found.remarks
