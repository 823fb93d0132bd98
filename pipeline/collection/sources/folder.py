"""A person's own images: a folder, or an archive that is read in place and never unpacked."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import Collection, Content, Entry, Span, Unreadable, printable
from pipeline.collection.sources.files import has_suffix, is_hidden, source_path, walk
from pipeline.collection.sources.layout import arrange
from pipeline.errors import UserError
from pipeline.images import RAW_SUFFIXES, SUFFIXES, UnreadableImageError, check_num_bytes
from pipeline.params.dataset import Dataset

_LISTED = SUFFIXES | RAW_SUFFIXES
# what the readers of archives raise on bytes that are not whole
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_ENCRYPTED = 1  # bit of the flags of a zip member
_LINK = "a link in an archive: not followed"
_CLIMBS = "its name climbs out of the archive: refused"


@dataclass(frozen=True, slots=True)
class _Member:
    """A file that is called like an image.

    Attributes:
        name: with slashes, relative to the folder or the archive.
        content: or a function that reads it, which works only while the archive stands at this member.
    """

    name: str
    content: Span | Unreadable | Callable[[], Content]

    @property
    def is_raw(self) -> bool:
        return has_suffix(self.name, RAW_SUFFIXES)


def folder(params: Dataset) -> Collection:
    """The images of `dataset.path`, in the layouts of `arrange`.

    The images stand in the order of their names, so that a folder and the archives made of it give the same
    collection.

    Raises:
        UserError: there is no such path, it is no archive of a known kind, it is damaged, or it holds no
            image.
    """
    path = source_path(params)
    members = _reader(path)
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
                yield number_of[row], member.content() if callable(member.content) else member.content

    return Collection(
        class_names=arranged.class_names,
        entries=arranged.entries
        + [Entry(printable(listed[row].name), "train", UNLABELLED) for row in refused],
        contents=contents,
        remarks=(*arranged.remarks, *([f"{raw} are passed over"] if raw else [])),
    )


def _raw(listed: Sequence[_Member]) -> str:
    """`3 camera RAW files (.cr2 2, .dng 1)`, or nothing."""
    kinds = Counter(Path(member.name).suffix.lower() for member in listed if member.is_raw)
    by_kind = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(kinds.items()))
    return f"{kinds.total():,} camera RAW files ({by_kind})" if kinds else ""


def _reader(path: Path) -> Callable[[Path], Iterator[_Member]]:
    if path.is_dir():
        return _in_folder
    for endings, reader in (((".tar",), _in_tar), ((".tar.gz", ".tgz"), _in_tar_gz), ((".zip",), _in_zip)):
        if path.name.lower().endswith(endings):
            return reader
    raise UserError(
        f"{path}: neither a folder nor a .tar, .tar.gz, .tgz or .zip: check dataset.path in params.yaml "
        "(Parquet tables are read with dataset.name parquet)"
    )


def _in_folder(path: Path) -> Iterator[_Member]:
    for found in walk(path, _LISTED):
        if found.problem is None:
            yield _Member(found.name, Span(found.path, 0, found.num_bytes))
        else:
            yield _Member(found.name, Unreadable(found.problem))


def _in_tar(path: Path) -> Iterator[_Member]:
    with _whole_archive(path), tarfile.open(path, "r:") as archive:
        for member in _tar_members(archive):
            problem = _problem(member)
            place = Span(path, member.offset_data, member.size)
            yield _Member(_tidy(member.name), Unreadable(problem) if problem else place)
        # tarfile takes a header that is cut off for the end; a whole archive ends in blocks of zeros
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it does not end as a whole one does")


def _in_tar_gz(path: Path) -> Iterator[_Member]:
    with _whole_archive(path), tarfile.open(path, "r|gz") as archive:
        for member in _tar_members(archive):
            problem = _problem(member)
            read = partial(_read_tar_member, archive, member)
            yield _Member(_tidy(member.name), Unreadable(problem) if problem else read)


def _in_zip(path: Path) -> Iterator[_Member]:
    with _whole_archive(path), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or not _is_image(member.filename):
                continue
            problem = _CLIMBS if _climbs(member.filename) else None
            if stat.S_ISLNK(member.external_attr >> 16):
                problem = _LINK
            elif member.flag_bits & _ENCRYPTED:
                problem = "encrypted"
            read = partial(_read_zip_member, archive, member)
            yield _Member(_tidy(member.filename), Unreadable(problem) if problem else read)


def _tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # or it keeps every header that it passed
        if not member.isdir() and _is_image(member.name):
            yield member


def _read_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Content:
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    return _read(file, member.size)


def _read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Content:
    try:
        with archive.open(member) as file:
            return _read(file, member.file_size)
    except NotImplementedError as error:  # a way of packing that Python cannot undo
        return Unreadable(f"cannot be unpacked ({error})")
    except _DAMAGE as error:
        _pass_on_faults(error)
        return Unreadable(f"damaged in the archive ({error})")


def _read(file: IO[bytes], num_bytes: int) -> Content:
    try:
        check_num_bytes(num_bytes)
    except UnreadableImageError as error:
        return Unreadable(str(error))
    return file.read()


@contextmanager
def _whole_archive(path: Path) -> Iterator[None]:
    """Says in one line that an archive is cut short, or none."""
    try:
        yield
    except _DAMAGE as error:
        _pass_on_faults(error)
        raise UserError(f"{path}: damaged or cut short ({error}): copy or download it again") from None


def _pass_on_faults(error: Exception) -> None:
    """Raises an OSError that is the machine's own; those of gzip and bz2 have no number and mean damage."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _is_image(name: str) -> bool:
    return has_suffix(name, _LISTED) and (_climbs(name) or not is_hidden(name))


def _problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return _LINK
    if _climbs(member.name):
        return _CLIMBS
    return None if member.isreg() and not member.issparse() else "not a regular file"


def _climbs(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or parts[0].endswith(":") or ".." in parts


def _tidy(name: str) -> str:
    """`./a//b.jpg` as `a/b.jpg`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
