"""How files lie in folders says what they are."""

from collections import Counter

import pytest

from pipeline.collection.sources.layout import Arranged, Labels, arrange
from pipeline.errors import UserError


def arranged(*names: str, labels: Labels = "auto") -> Arranged:
    return arrange(sorted(names), labels, test_fraction=0.2, seed=0)


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


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("TRAIN", "VALID"), ("training", "Validation"), ("Train", "test")],
)
def test_a_split_has_the_usual_names_in_any_case(train: str, test: str) -> None:
    found = arranged(*files(f"{train}/cat", 3), *files(f"{train}/dog", 2), *files(f"{test}/dog", 1))
    assert class_and_split(found) == {("cat", "train"): 3, ("dog", "train"): 2, ("dog", "test"): 1}
    assert f"{train}/<class>/*" in found.remarks[0]
    assert f"{test}/<class>/*" in found.remarks[0]


def test_an_unlabelled_folder_is_a_split_without_labels() -> None:
    found = arranged(*files("train/cat", 2), *files("test/cat", 1), *files("unlabeled", 4))
    assert class_and_split(found) == {("cat", "train"): 2, ("cat", "test"): 1, (None, "unlabelled"): 4}


def test_splits_without_classes_have_no_labels() -> None:
    found = arranged(*files("train", 3), *files("test", 2))
    assert class_and_split(found) == {(None, "train"): 3, (None, "test"): 2}
    assert found.class_names == ()


def test_a_flat_train_folder_beside_an_unlabelled_one_has_no_labels_and_no_test() -> None:
    found = arranged(*files("train", 3), *files("unlabelled", 2))
    assert class_and_split(found) == {(None, "train"): 3, (None, "unlabelled"): 2}
    assert found.remarks[0].startswith("no classes: layout train/*, unlabelled/*")


def test_a_test_part_is_taken_from_train_where_no_folder_is_for_testing() -> None:
    beside = arranged(*files("train/cat", 10), *files("train/dog", 5), *files("unlabelled", 4))
    assert class_and_split(beside) == {
        ("cat", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "train"): 4,
        ("dog", "test"): 1,
        (None, "unlabelled"): 4,
    }
    assert "3 of 15 labelled images are for testing" in beside.remarks[1]
    alone = arranged(*files("train/cat", 10), *files("train/dog", 5))
    splits = {entry.source: entry.split for entry in beside.entries}
    assert all(splits[entry.source] == entry.split for entry in alone.entries)


def test_a_test_folder_without_classes_is_unlabelled_and_validation_or_a_part_of_train_is_scored() -> None:
    flat = arranged(*files("train/cat", 10), *files("train/dog", 10), *files("test", 7))
    assert Counter(entry.split for entry in flat.entries) == {"train": 16, "test": 4, "unlabelled": 7}
    assert "7 images without a label are unlabelled" in flat.remarks[2]
    with_val = arranged(*files("train/cat", 10), *files("val/cat", 3), *files("test", 7))
    assert class_and_split(with_val) == {("cat", "train"): 10, ("cat", "test"): 3, (None, "unlabelled"): 7}


def test_what_lies_beside_the_splits_is_learned_from_and_never_scored_on() -> None:
    strays = [*files("misc", 2), "cover.jpg", "train/loose.jpg", "test/loose.jpg"]
    found = arranged(*files("train/cat", 3), *files("test/cat", 1), *strays)
    assert class_and_split(found) == {("cat", "train"): 3, ("cat", "test"): 1, (None, "unlabelled"): 5}
    assert "5 images without a label are unlabelled" in found.remarks[1]


@pytest.mark.parametrize("around", ["", "photos/", "train/"])
def test_class_folders_are_split_by_seed(around: str) -> None:
    found = arranged(*files(f"{around}cat", 10), *files(f"{around}dog", 5))
    assert class_and_split(found) == {
        ("cat", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "train"): 4,
        ("dog", "test"): 1,
    }
    assert "layout <class>/*: 2 classes (cat, dog); if these are none, set dataset.labels" in found.remarks[0]
    assert "3 of 15 labelled images are for testing, chosen by dataset.seed" in found.remarks[1]


def test_the_split_does_not_depend_on_the_folder_around() -> None:
    plain = arranged(*files("cat", 20), *files("dog", 20))
    deep = arranged(*files("x/cat", 20), *files("x/dog", 20))
    assert [entry.split for entry in plain.entries] == [entry.split for entry in deep.entries]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (files("photos", 5), "there are no folders"),
        (["a.jpg", "b.jpg"], "there are no folders"),
        (["2021/07/a.jpg", "2021/08/b.jpg", "2022/01/c.jpg"], "like dates: 2021, 2022"),
        ([*files("2021-01", 4), *files("2021-02", 4)], "like dates: 2021-01, 2021-02; set dataset.labels to"),
        (
            [*files("animals/cat", 4), *files("plants/rose", 4)],
            "8 of 8 images lie beside the folders or deeper",
        ),
        (
            [*files("cat", 2), *files("dog", 2), "1.jpg", "2.jpg", "3.jpg", "4.jpg"],
            "4 of 8 images lie beside",
        ),
        ([*files("edited", 2), "1.jpg"], "edited is the only folder; set dataset.labels to folders"),
    ],
)
def test_anything_else_has_no_classes_and_is_all_for_training(names: list[str], why: str) -> None:
    found = arranged(*names)
    assert class_and_split(found) == {(None, "train"): len(names)}
    assert found.remarks[0].startswith("no classes: all images are for training")
    assert why in found.remarks[0]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "2021",
            "2021-01",
            "2021_01_15",
            "20210115",
            "2019-07-01 Rome",
            "2019 Rome",
            "15.01.2021",
            "01-2021",
        ),
        *("Photos from 2021", "100CANON", "101MSDCF", "102_0815", "999OLYMP", "202107__", "DCIM"),
    ],
)
def test_an_album_is_no_class_unless_a_person_says_so(name: str) -> None:
    names = [*files(name, 5), *files("misc", 5)]
    assert class_and_split(arranged(*names)) == {(None, "train"): 10}
    assert len(arranged(*names, labels="folders").class_names) == 2


@pytest.mark.parametrize(
    "name", ["7", "42", "n01440764", "001.Black_footed_Albatross", "12345678", "100", "cat2021", "100 dutch"]
)
def test_a_number_or_an_identifier_is_a_class(name: str) -> None:
    assert len(arranged(*files(name, 5), *files("misc", 5)).class_names) == 2


def test_a_loose_file_and_a_deeper_one_leave_the_classes_classes() -> None:
    found = arranged(*files("cat", 10), *files("dog", 10), "stray.jpg", "dog/small/a.jpg", "dog/small/b.jpg")
    assert class_and_split(found) == {
        ("cat", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "train"): 10,
        ("dog", "test"): 2,
        (None, "unlabelled"): 1,
    }
    assert "1 images without a label are unlabelled" in found.remarks[2]


def test_an_unlabelled_folder_beside_class_folders_is_no_class() -> None:
    found = arranged(*files("cat", 5), *files("dog", 5), *files("unlabelled", 3))
    assert found.class_names == ("cat", "dog")
    assert class_and_split(found)[(None, "unlabelled")] == 3


def test_a_folder_called_train_among_others_is_a_class() -> None:
    assert arranged(*files("train", 5), *files("bus", 5)).class_names == ("bus", "train")


@pytest.mark.parametrize("stray", ["overview.png", "zz.png"])
def test_a_stray_file_beside_the_folder_that_stands_around_all_of_it_changes_no_label(stray: str) -> None:
    splits = [*files("ds/train/cat", 5), *files("ds/test/cat", 2)]
    beside = class_and_split(arranged(stray, *splits))
    assert beside == class_and_split(arranged(*splits)) + Counter({(None, "unlabelled"): 1})
    classes = [*files("photos/cat", 5), *files("photos/dog", 5)]
    beside = class_and_split(arranged(stray, *classes))
    assert beside == class_and_split(arranged(*classes)) + Counter({(None, "unlabelled"): 1})


def test_a_split_may_carry_a_number_as_coco_has_it() -> None:
    found = arranged(*files("train2017", 5), *files("val2017", 3), *files("test1", 2))
    assert class_and_split(found) == {(None, "train"): 5, (None, "test"): 2}
    assert arranged(*files("train2", 5), *files("bus2", 5)).class_names == ("bus2", "train2")
    assert arranged(*files("train1", 5), *files("train2", 5)).class_names == ("train1", "train2")


@pytest.mark.parametrize("folder", ["test", "unknown"])
def test_a_lone_folder_of_the_test_images_that_train_knows_not_is_no_class(folder: str) -> None:
    """Kaggle packs images without labels as test/test/*: as a class, every answer about it would be wrong."""
    found = arranged(*files("train/cat", 10), *files("train/dog", 10), *files(f"test/{folder}", 7))
    assert class_and_split(found) == {
        ("cat", "train"): 8,
        ("dog", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "test"): 2,
        (None, "unlabelled"): 7,
    }
    assert found.class_names == ("cat", "dog")
    assert "layout test/*, train/<class>/*: 2 classes" in found.remarks[0]
    assert any(f"test/{folder} is no class of the training images" in remark for remark in found.remarks)
    # of several such folders somebody means classes: those of retrieval are often others than the training's
    apart = arranged(*files("train/cat", 5), *files("test/fox", 5), *files("test/owl", 5))
    assert apart.class_names == ("cat", "fox", "owl")


def test_classes_called_like_splits_within_train_are_classes() -> None:
    found = arranged(*files("train/train", 10), *files("train/test", 10), *files("train/other", 5))
    assert found.class_names == ("other", "test", "train")


def test_labels_none_leaves_labels_out_and_keeps_the_splits_that_folders_name() -> None:
    plain = arranged(*files("cat", 5), *files("dog", 5), labels="none")
    assert class_and_split(plain) == {(None, "train"): 10}
    split = arranged(*files("train/cat", 5), *files("test/cat", 2), labels="none")
    assert class_and_split(split) == {(None, "train"): 5, (None, "test"): 2}
    assert "dataset.labels is none" in split.remarks[0]


def test_labels_folders_makes_a_class_of_each_folder_however_deep_its_files() -> None:
    found = arranged("a/x/1.jpg", "a/y/2.jpg", "b/x/3.jpg", "4.jpg", labels="folders")
    assert found.class_names == ("a", "b")
    with pytest.raises(
        UserError, match=r"dataset\.labels: 'folders', and there is no folder that could be a cl"
    ):
        arranged("a.jpg", "b.jpg", labels="folders")


def test_thousands_of_classes_of_a_few_images_are_refused_unless_a_person_says_so() -> None:
    names = [name for number in range(1001) for name in files(f"user{number:04}", 9)]
    with pytest.raises(
        UserError, match=r"^1,001 folders \(user0000, .* 9\.0 images each: set dataset\.labels"
    ):
        arranged(*names)
    assert len(arranged(*names, labels="folders").class_names) == 1001
    assert arranged(*names, labels="none").class_names == ()
    assert len(arranged(*names[9:]).class_names) == 1000  # as many as ImageNet has
    many = [name for number in range(1001) for name in files(f"user{number:04}", 10)]
    assert len(arranged(*many).class_names) == 1001


def test_classes_whose_names_differ_in_case_stay_two_and_are_named() -> None:
    found = arranged(*files("cat", 2), *files("Cat", 2))
    assert found.class_names == ("Cat", "cat")
    assert "Cat and cat are 2 classes: their names differ in case alone" in found.remarks
