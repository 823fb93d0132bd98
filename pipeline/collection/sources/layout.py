"""How files lie in folders says which split and which class they are of."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import Entry, choose_test, printable

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}


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


def arrange(names: Sequence[str], test_fraction: float, seed: int) -> Arranged:
    """Recognises one of three layouts, whatever folders stand around all of it.

    - `train/<class>/*` with `test/<class>/*` or `val/<class>/*` (test where there are both), and
      `unlabelled/*` where there is one; files of these splits that lie in no class have no label.
    - `<class>/*`: every file in one folder, of which there are two at least. A part of each class is for
      testing.
    - anything else has no classes: all of it is for training, and there is nothing to test.

    Args:
        names: [N], with slashes, sorted.
        test_fraction: of each class, where the test part is chosen here.
        seed: of that choice.
    """
    paths = [tuple(name.split("/")) for name in names]
    while paths and len(paths[0]) > 1 and all(len(path) > 1 and path[0] == paths[0][0] for path in paths):
        if _SPLITS.get(paths[0][0].lower()) == "train":
            paths = [path[1:] for path in paths]
            break
        paths = [path[1:] for path in paths]
    folders = {path[0] for path in paths if len(path) > 1}
    splits = {_SPLITS.get(folder.lower()) for folder in folders}
    if None not in splits and "train" in splits and splits & {"test", "val"} and _all_in_folders(paths):
        return _split_by_folders(names, paths, has_test="test" in splits)
    if _all_in_folders(paths) and all(len(path) == 2 for path in paths) and len(folders) > 1:
        return _split_by_choice(names, paths, test_fraction, seed)
    return _without_classes(names, paths)


def _all_in_folders(paths: Sequence[tuple[str, ...]]) -> bool:
    return bool(paths) and all(len(path) > 1 for path in paths)


def _split_by_folders(names: Sequence[str], paths: Sequence[tuple[str, ...]], *, has_test: bool) -> Arranged:
    # with both, validation images are neither to learn from nor to be scored on
    scored = "test" if has_test else "val"
    split_of = {folder: split for folder, split in _SPLITS.items() if split in ("train", "unlabelled")} | {
        folder: "test" for folder, split in _SPLITS.items() if split == scored
    }
    rows = [row for row, path in enumerate(paths) if path[0].lower() in split_of]
    splits = [split_of[paths[row][0].lower()] for row in rows]
    labelled = [
        len(paths[row]) > 2 and split != "unlabelled" for row, split in zip(rows, splits, strict=True)
    ]
    class_of = [paths[row][1] if has_label else None for row, has_label in zip(rows, labelled, strict=True)]
    class_names = sorted({name for name in class_of if name is not None})
    labels = {name: label for label, name in enumerate(class_names)}
    entries = [
        Entry(printable(names[row]), split, UNLABELLED if name is None else labels[name])
        for row, split, name in zip(rows, splits, class_of, strict=True)
    ]
    pattern = "<class>/*" if class_names else "*"
    remarks = [f"layout train/{pattern} with {scored}/{pattern}: {_counted(len(class_names), 'class')}"]
    if len(rows) < len(names):
        remarks.append(
            f"{len(names) - len(rows):,} validation images are left aside, since there is a test split"
        )
    return Arranged(_shown(class_names), entries, rows, (*remarks, *_alike(class_names)))


def _split_by_choice(
    names: Sequence[str], paths: Sequence[tuple[str, ...]], test_fraction: float, seed: int
) -> Arranged:
    class_names = sorted({path[0] for path in paths})
    number = {name: label for label, name in enumerate(class_names)}
    labels = [number[path[0]] for path in paths]
    # by the names within the folder that stands around all, so that an archive of it is split alike
    for_test = choose_test(["/".join(path) for path in paths], labels, test_fraction, seed)
    entries = [
        Entry(printable(name), "test" if test else "train", label)
        for name, label, test in zip(names, labels, for_test, strict=True)
    ]
    remarks = [
        f"layout <class>/*: {_counted(len(class_names), 'class')}; {for_test.sum():,} of {len(names):,} "
        "images are for testing, chosen by seed"
    ]
    return Arranged(_shown(class_names), entries, list(range(len(names))), (*remarks, *_alike(class_names)))


def _without_classes(names: Sequence[str], paths: Sequence[tuple[str, ...]]) -> Arranged:
    remarks = ["no classes: all images are for training, there are no labels to score with"]
    stray = [name for name, path in zip(names, paths, strict=True) if len(path) == 1]
    if 0 < len(stray) < len(names) / 2:
        remarks.append(
            f"{len(stray):,} of {len(names):,} images lie beside the folders, not in one of them (the first "
            f"is {printable(stray[0])}): where the folders are classes, move them into one"
        )
    entries = [Entry(printable(name), "train", UNLABELLED) for name in names]
    return Arranged((), entries, list(range(len(names))), tuple(remarks))


def _shown(class_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(printable(name) for name in class_names)


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
