"""Where images lie as files: a folder, or an archive that is read in place and never unpacked."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from pipeline.collection.sources.collection import Content, Span, Unreadable
from pipeline.collection.sources.files import has_suffix, is_hidden, walk
from pipeline.collection.sources.remote import RemoteFile
from pipeline.errors import UserError
from pipeline.images import RAW_SUFFIXES, SUFFIXES, UnreadableImageError, check_num_bytes

_LISTED = SUFFIXES | RAW_SUFFIXES
# what the readers of archives raise on bytes that are not whole: names that are no UTF-8 and versions of the
# format that there are not among them
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(UnicodeDecodeError, NotImplementedError),
)
_ENCRYPTED = 1  # bit of the flags of a zip member
_LINK = "a link in an archive: not followed"
_CLIMBS = "its name climbs out of the archive: refused"


@dataclass(frozen=True, slots=True)
class Member:
    """A file that is called like an image.

    Attributes:
        name: with slashes, relative to the folder or the archive.
        content: or a function that reads it, which works only while the archive stands at this member.
    """

    name: str
    content: Span | Unreadable | Callable[[], Content]

    @property
    def is_raw(self) -> bool:
        """Whether a camera's sensor wrote it, which nothing here develops."""
        return has_suffix(self.name, RAW_SUFFIXES)

    def read(self) -> Content:
        """Its content; for a member of an archive while the archive stands at it."""
        return self.content() if callable(self.content) else self.content


def reader_of(path: Path) -> Callable[[Path], Iterator[Member]] | None:
    """What lists the members of a folder or an archive, by its name; None for any other file.

    The members come in the order in which they are quickest to read. The reader raises UserError where an
    archive is damaged or cut short.
    """
    return _in_folder if path.is_dir() else reader_of_archive(path.name)


def reader_of_archive(name: str) -> Callable[[Any], Iterator[Member]] | None:
    """The same for a file of this name, here or elsewhere."""
    for endings, reader in (((".tar",), _in_tar), ((".tar.gz", ".tgz"), _in_tar_gz), ((".zip",), _in_zip)):
        if name.lower().endswith(endings):
            return reader
    return None


def is_listed(name: str) -> bool:
    """Whether a file is called like an image, or like what a camera's sensor wrote."""
    return has_suffix(name, _LISTED)


def _in_folder(path: Path) -> Iterator[Member]:
    for found in walk(path, _LISTED):
        if found.problem is None:
            yield Member(found.name, Span(found.path, 0, found.num_bytes))
        else:
            yield Member(found.name, Unreadable(found.problem))


def _in_tar(path: Path | RemoteFile) -> Iterator[Member]:
    with _whole_archive(path), path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in _tar_members(archive):
            problem = _problem(member)
            place = Span(path, member.offset_data, member.size)
            yield Member(_tidy(member.name), Unreadable(problem) if problem else place)
        # tarfile takes a header that is cut off for the end; a whole archive ends in blocks of zeros
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it does not end as a whole one does")


def _in_tar_gz(path: Path | RemoteFile) -> Iterator[Member]:
    with _whole_archive(path), path.open("rb") as file, tarfile.open(fileobj=file, mode="r|gz") as archive:
        for member in _tar_members(archive):
            problem = _problem(member)
            read = partial(_read_tar_member, path, archive, member)
            yield Member(_tidy(member.name), Unreadable(problem) if problem else read)


def _in_zip(path: Path | RemoteFile) -> Iterator[Member]:
    with _whole_archive(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir() or not _is_image(member.filename):
                continue
            problem = _CLIMBS if _climbs(member.filename) else None
            if stat.S_ISLNK(member.external_attr >> 16):
                problem = _LINK
            elif member.flag_bits & _ENCRYPTED:
                problem = "encrypted"
            read = partial(_read_zip_member, archive, member)
            yield Member(_tidy(member.filename), Unreadable(problem) if problem else read)


def _tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # or it keeps every header that it passed
        if not member.isdir() and _is_image(member.name):
            yield member


def _read_tar_member(path: Path | RemoteFile, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Content:
    with _whole_archive(path):  # it is read while the archive stands here, by whoever lists it
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
def _whole_archive(path: Path | RemoteFile) -> Iterator[None]:
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
