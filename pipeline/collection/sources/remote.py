"""Files elsewhere: in object stores, and wherever else pyarrow or fsspec has a file system for."""

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

import pyarrow
import pyarrow.fs
from pyarrow.fs import FileSelector, FileType

from pipeline.errors import MachineError, UserError

# The headers of a tar lie as far apart as its images are large; a request that brings many is one of a few.
_READ_AT_ONCE = 8 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or a folder of a file system that an address names.

    Attributes:
        address: that somebody gave, with whatever it says of the file system.
        path: within the file system.
        modified: what the file system says of when; another value is another file.
    """

    address: str
    path: str
    modified: str = ""

    def __str__(self) -> str:
        scheme = self.address.partition("://")[0]
        return self.path if "://" in self.path else f"{scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, to be read from any place.

        Raises:
            MachineError: it cannot be reached.
        """
        assert mode == "rb"
        file = _reached(self, lambda: _file_system(self.address)[0].open_input_file(self.path))
        return cast(BinaryIO, io.BufferedReader(file, _READ_AT_ONCE))

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes of it.

        Raises:
            MachineError: it cannot be reached: that is no reason to leave an image out.
        """

        def read() -> bytes:
            with _file_system(self.address)[0].open_input_file(self.path) as file:
                return bytes(file.read_at(length, offset))

        return _reached(self, read)


def is_address(text: str) -> bool:
    """Whether somebody means a file elsewhere, like `s3://bucket/photos/`, and no path."""
    return "://" in text


def remote_file(address: str) -> RemoteFile:
    """What an address names.

    Raises:
        UserError: neither pyarrow nor fsspec knows such addresses.
        MachineError: it cannot be reached.
    """
    return RemoteFile(address, _file_system(address)[1])


def kind_of(file: RemoteFile) -> tuple[FileType, int, str]:
    """Whether it is a file, a folder or nothing, its bytes, and when it was modified."""
    info = _reached(file, lambda: _file_system(file.address)[0].get_file_info(file.path))
    return info.type, info.size or 0, str(info.mtime_ns)


def walk_remote(folder: RemoteFile) -> Iterator[tuple[str, RemoteFile, int]]:
    """The files below a folder, hidden ones too: name in it, file, bytes; in the order of `walk`."""
    yield from _walk(folder, folder.path, "")


def _walk(folder: RemoteFile, path: str, prefix: str) -> Iterator[tuple[str, RemoteFile, int]]:
    infos = _reached(folder, lambda: _file_system(folder.address)[0].get_file_info(FileSelector(path)))
    for info in sorted(infos, key=lambda info: info.base_name.encode()):
        name = prefix + info.base_name
        if info.type == FileType.Directory:
            yield from _walk(folder, info.path, f"{name}/")
        elif info.base_name:
            yield name, RemoteFile(folder.address, info.path, str(info.mtime_ns)), info.size or 0


@functools.cache
def _file_system(address: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """pyarrow's own file system where it has one, else fsspec's, and the path within it."""
    scheme = address.partition("://")[0]
    try:
        found: tuple[pyarrow.fs.FileSystem, str] = pyarrow.fs.FileSystem.from_uri(address)
        return found
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
    except OSError as error:
        raise MachineError(f"{address}: cannot be reached: {_first_line(error)}") from None
    try:
        from fsspec.core import url_to_fs

        file_system, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{address}: neither pyarrow ({reason}) nor fsspec ({_first_line(error)}) reads {scheme}://"
        ) from None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(file_system)), path


def _reached(file: RemoteFile, ask: Callable[[], T]) -> T:
    """What a question to a file system is answered with.

    Raises:
        UserError: there is no such file or folder.
        MachineError: it cannot be reached.
    """
    try:
        return ask()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file or folder") from None
    except OSError as error:
        raise MachineError(f"{file}: cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
