"""A person's own images: a folder or an archive of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import Collection, Content, Entry, Unreadable, printable
from pipeline.collection.sources.files import source_path
from pipeline.collection.sources.layout import arrange
from pipeline.collection.sources.members import Member, reader_of
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset


def folder(params: Dataset) -> Collection:
    """The images of `dataset.path`.

    Raises:
        UserError: there is no such path, it is no archive of a known kind, it is damaged, or it holds no
            image.
    """
    return images_of(source_path(params), params)


def images_of(path: Path, params: Dataset) -> Collection:
    """The images of a folder or an archive, in the layouts of `arrange`.

    The images stand in the order of their names, so that a folder and the archives made of it give the same
    collection.

    Raises:
        UserError: as `folder`, for a path that exists.
    """
    members = reader_of(path)
    if members is None:
        raise UserError(
            f"{path}: neither a folder nor a .tar, .tar.gz, .tgz or .zip: check dataset.path in params.yaml "
            "(Parquet tables are read with dataset.name parquet)"
        )
    # what must be read from front to back is read a second time when the images are wanted
    listed = list(members(path))
    raw = _raw(listed)
    images = [row for row, member in enumerate(listed) if not member.is_raw]
    if not images:
        raise UserError(
            f"{path}: holds no image, that is no file that ends in .jpg, .png, .webp, .heic, .tif or the like"
            f"{f', but {raw}: export them as JPEG' if raw else ''}: check dataset.path in params.yaml"
        )
    by_name = sorted(images, key=lambda row: listed[row].name.encode("utf-8", "surrogateescape"))
    # a name that is refused says nothing about the layout
    usable = [row for row in by_name if not isinstance(listed[row].content, Unreadable)]
    refused = [row for row in by_name if isinstance(listed[row].content, Unreadable)]
    names = [listed[row].name for row in usable]
    arranged = arrange(names, params.labels, params.test_fraction, params.seed)
    rows = [usable[row] for row in arranged.rows] + refused
    number_of = {row: number for number, row in enumerate(rows)}

    def contents() -> Iterator[tuple[int, Content]]:
        again = members(path) if any(callable(member.content) for member in listed) else listed
        for row, member in enumerate(again):
            if row in number_of:
                yield number_of[row], member.read()

    return Collection(
        class_names=arranged.class_names,
        entries=arranged.entries
        + [Entry(printable(listed[row].name), "train", UNLABELLED) for row in refused],
        contents=contents,
        remarks=(*arranged.remarks, *([f"{raw} are passed over"] if raw else [])),
    )


def _raw(listed: Sequence[Member]) -> str:
    """`3 camera RAW files (.cr2 2, .dng 1)`, or nothing."""
    kinds = Counter(Path(member.name).suffix.lower() for member in listed if member.is_raw)
    by_kind = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(kinds.items()))
    return f"{kinds.total():,} camera RAW files ({by_kind})" if kinds else ""
