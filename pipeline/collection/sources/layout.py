"""How files lie in folders says which split and which class they are of."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.artifacts import SPLITS, UNLABELLED
from pipeline.collection.sources.collection import Entry, printable
from pipeline.collection.sources.splits import settle, split_called
from pipeline.errors import UserError

# Folders that a camera or a person names by the time: 2021, 2021-01, 20210115, "2019-07-01 Rome",
# 15.01.2021, 01-2021, a takeout's "Photos from 2021"; 100CANON, 102_0815 (DCF 2.0, sec. 3.2.2: three digits,
# five of A-Z, 0-9 and _), the DCIM around them.
_YEAR, _MONTH, _DAY = r"(19|20)\d\d", r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_ALBUM = re.compile(
    rf"{_YEAR}([-_. ]?{_MONTH}([-_. ]?{_DAY})?)?([-_. ].*)?"
    rf"|({_DAY}[-_.])?{_MONTH}[-_.]{_YEAR}"
    rf"|photos from {_YEAR}"
    r"|[1-9]\d\d(?=\d*[A-Z_])[A-Z0-9_]{5}"
    r"|dcim",
    re.IGNORECASE,
)
# More classes than ImageNet-1k's, with fewer images each than it takes for a tenth of the labels to be one a
# class: folders of a photo library, of users, of products. Real collections of so many classes have more
# (ImageNet-21k's 21,841 have 650 each, Omniglot's 1,623 have 20); faces, which may have fewer, say so.
_MANY_CLASSES = 1000
_FEW_IMAGES = 10
_NAMES_SHOWN = 5
_HINT = "; set dataset.labels to folders where they are classes"

Labels = Literal["auto", "folders", "none"]


@dataclass(frozen=True)
class Arranged:
    """Names understood.

    Attributes:
        class_names: sorted; empty where there are no classes.
        entries: one a name that has a place, in the order of `rows`.
        rows: which of the names each entry is of.
        remarks: how the names were understood, a line each.
    """

    class_names: tuple[str, ...]
    entries: list[Entry]
    rows: list[int]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file lies: a value of `SPLIT_NAMES`, and the folders below that and its name."""

    split: str
    path: tuple[str, ...]

    @property
    def folder(self) -> str | None:
        """What its class is called, where folders are classes."""
        return self.path[0] if len(self.path) > 1 and self.split != "unlabelled" else None


def arrange(names: Sequence[str], labels: Labels, test_fraction: float, seed: int) -> Arranged:
    """Recognises splits and classes, whatever folders stand around all of it.

    Splits are folders called so (`split_called`): one for training and another one beside it.
    Without them all is for training, but for what lies in a folder called unlabelled. Below that, a folder
    is a class, with all that is in it however deep, and what lies in no class has no label (`settle` says
    what becomes of it). Under `auto` folders are no classes where there is one alone, where most images lie
    beside or deeper (unless splits stand around them), or where half of them are called like dates.

    Args:
        names: [N], with slashes, sorted.
        labels: what folders say; `folders` takes them for classes whatever they are called, `none` for none.
        test_fraction: of each class, where the test part is chosen here.
        seed: of that choice.

    Raises:
        UserError: there would be thousands of classes of a few images under `auto`, or no folder for a class
            under `folders`.
    """
    paths, is_train = _inside(names)
    has_splits = not is_train and _has_split_folders(paths)
    places = [_place(path, has_splits) for path in paths]
    doubt = _doubt(places, labels, has_splits)
    class_of = [None if doubt else place.folder for place in places]
    strangers = [] if labels == "folders" else _without_labels(places, class_of)
    class_names = sorted({name for name in class_of if name is not None})
    if labels == "auto":
        _check_number(class_names, class_of)
    number = {name: label for label, name in enumerate(class_names)}
    numbers = [UNLABELLED if name is None else number[name] for name in class_of]
    # by the names within what stands around, so that an archive of it, or train/ alone, is split alike
    inside = ["/".join(place.path) for place in places]
    settled = settle(inside, [place.split for place in places], numbers, test_fraction, seed)
    rows = settled.rows.tolist()
    entries = [
        Entry(printable(names[row]), SPLITS[split], numbers[row])
        for row, split in zip(rows, settled.splits, strict=True)
    ]
    layout = _layout(paths, class_of) if has_splits else ""
    remark = _understood(layout, class_names, doubt)
    remarks = (remark, *strangers, *settled.remarks, *_alike(class_names))
    return Arranged(tuple(printable(name) for name in class_names), entries, rows, remarks)


def _inside(names: Sequence[str]) -> tuple[list[tuple[str, ...]], bool]:
    """The paths without the folders that stand around all of them, and whether the last of these is train.

    A few loose files beside a folder that holds folders change nothing, and stay as they are.
    """
    paths = [tuple(name.split("/")) for name in names]
    while around := _around(paths):
        paths = [path[1:] if len(path) > 1 else path for path in paths]
        if split_called(around) == "train":  # what stands in it is of no other split
            return paths, True
    return paths, False


def _around(paths: Sequence[tuple[str, ...]]) -> str | None:
    """The folder that stands around all but a few loose files."""
    folders = {path[0] for path in paths if len(path) > 1}
    if len(folders) != 1:
        return None
    (folder,) = folders
    num_loose = sum(len(path) == 1 for path in paths)
    if num_loose == 0:
        return folder
    holds_folders = any(len(path) > 2 for path in paths)
    is_most = 2 * num_loose <= len(paths)
    return folder if holds_folders and is_most and split_called(folder) is None else None


def _has_split_folders(paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether train lies beside another split, or alone beside loose files; a train among buses is none."""
    folders = {path[0] for path in paths if len(path) > 1}
    splits = {split_called(folder) for folder in folders}
    if splits == {"train"}:
        return len(folders) == 1  # train1 and train2 are what somebody says they are
    return "train" in splits and (None not in splits or len(splits) > 2)


def _place(path: tuple[str, ...], has_splits: bool) -> _Place:
    split = split_called(path[0]) if len(path) > 1 else None
    if has_splits:
        return _Place("train", path[-1:]) if split is None else _Place(split, path[1:])
    return _Place(split, path[1:]) if split == "unlabelled" else _Place("train", path)


def _doubt(places: Sequence[_Place], labels: Labels, has_splits: bool) -> str | None:
    """Why folders are no classes, or nothing.

    Raises:
        UserError: `labels` is `folders`, and there is none.
    """
    if labels == "none":
        return "dataset.labels is none"
    folders = sorted({place.folder for place in places if place.folder is not None})
    if labels == "folders":
        if folders:
            return None
        raise UserError(
            "params.yaml: dataset.labels: 'folders', and there is no folder that could be a class: set it to "
            "auto"
        )
    if not folders:
        return "there are no folders"
    albums = [folder for folder in folders if _ALBUM.fullmatch(folder)]
    if 2 * len(albums) >= len(folders):
        return f"folders are called like dates: {_listed(albums)}{_HINT}"
    if has_splits:
        return None
    if len(folders) == 1:
        return f"{printable(folders[0])} is the only folder{_HINT}"
    could_have = [place for place in places if place.split != "unlabelled"]
    direct = sum(len(place.path) == 2 for place in could_have)
    if 2 * direct <= len(could_have):
        others = len(could_have) - direct
        return f"{others:,} of {len(could_have):,} images lie beside the folders or deeper{_HINT}"
    return None


def _without_labels(places: Sequence[_Place], class_of: list[str | None]) -> list[str]:
    """Takes the class from images to score on that stand in one folder which no training image is of.

    Kaggle packs what has no label as `test/test/*` or `test/unknown/*`.

    Args:
        places: [N].
        class_of: [N], changed in place.

    Returns:
        A line for each folder that is no class.
    """
    learned = {name for name, place in zip(class_of, places, strict=True) if place.split == "train"} - {None}
    remarks = []
    for split in ("test", "val"):
        rows = [row for row, place in enumerate(places) if place.split == split]
        scored = {class_of[row] for row in rows} - {None}
        if learned and len(scored) == 1 and not scored & learned:
            (name,) = scored
            remarks.append(f"{split}/{printable(str(name))} is no class of the training images, and no label")
            for row in rows:
                class_of[row] = None
    return remarks


def _check_number(class_names: Sequence[str], class_of: Sequence[str | None]) -> None:
    labelled = len(class_of) - class_of.count(None)
    if len(class_names) > _MANY_CLASSES and labelled < _FEW_IMAGES * len(class_names):
        raise UserError(
            f"{len(class_names):,} folders ({_listed(class_names)}) would be as many classes of "
            f"{labelled / len(class_names):.1f} images each: set dataset.labels in params.yaml to none, or "
            "to folders where that is what they are"
        )


def _layout(paths: Sequence[tuple[str, ...]], class_of: Sequence[str | None]) -> str:
    """`train/<class>/*, test/<class>/*, unlabelled/*`, as the folders are called."""
    has_classes: dict[str, bool] = {}
    for path, name in zip(paths, class_of, strict=True):
        if len(path) > 1 and split_called(path[0]) is not None:
            has_classes[path[0]] = has_classes.get(path[0], False) or name is not None
    return ", ".join(
        f"{printable(folder)}/{'<class>/*' if has else '*'}" for folder, has in has_classes.items()
    )


def _understood(layout: str, class_names: Sequence[str], doubt: str | None) -> str:
    if class_names:
        classes = f"{_counted(len(class_names), 'class')} ({_listed(class_names)})"
        return f"layout {layout or '<class>/*'}: {classes}; if these are none, set dataset.labels to none"
    images = f"layout {layout}" if layout else "all images are for training"
    return f"no classes: {images}, there are no labels to score with ({doubt})"


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return ", ".join(printable(name) for name in names[:_NAMES_SHOWN]) + more


def _alike(class_names: Sequence[str]) -> list[str]:
    """A remark where names differ in case alone: two classes here, one folder on some other systems."""
    spellings = defaultdict(list)
    for name in class_names:
        spellings[name.casefold()].append(printable(name))
    return [
        f"{' and '.join(alike)} are {len(alike)} classes: their names differ in case alone"
        for alike in spellings.values()
        if len(alike) > 1
    ]


def _counted(count: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}" if count else f"no {plural}"
