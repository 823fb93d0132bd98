"""What a process that decodes does: a file's bytes become pixels in their row of the arrays."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.known import KnownImages, Lookup, is_among
from pipeline.collection.sources.collection import Content, Pixels, Span, Unreadable
from pipeline.collection.sources.remote import RemoteFile
from pipeline.images import UnreadableImageError, check_num_bytes, decode, fit


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels go, and what they come from."""

    split: str
    row: int
    content: Content


@dataclass(frozen=True, slots=True)
class Read:
    """What a worker says of an image whose pixels it has written.

    Attributes:
        width: of the image as it is stored, in pixels.
        height: likewise.
        sha256: of the file's bytes.
        was_known: whether its pixels were taken from where they stood decoded, or nobody wants them.
    """

    width: int
    height: int
    sha256: bytes
    was_known: bool = False


@dataclass(frozen=True)
class Job:
    """What a worker is told once.

    Attributes:
        paths: of the arrays by split, uint8 [N, size, size, 3], in which a place is a row.
        size: height and width in pixels.
        known: images whose pixels need no decoding; None where there are none.
        unwanted: .npy of the sha256 of files that nobody wants decoded, S32 [N], sorted; None: of none.
    """

    paths: dict[str, Path]
    size: int
    known: KnownImages | None = None
    unwanted: Path | None = None


class Worker:
    """Decodes into the arrays of a job, which it maps into its memory."""

    def __init__(self, job: Job) -> None:
        self._size = job.size
        self._known = None if job.known is None else Lookup(job.known)
        self._unwanted = None if job.unwanted is None else np.load(job.unwanted, mmap_mode="r")
        self._arrays: dict[str, NDArray[np.uint8]] = {
            split: np.load(path, mmap_mode="r+") for split, path in job.paths.items()
        }

    def decode(self, place: Place) -> Read | str:
        """Writes one image's pixels to their row; what comes back is what was read, or why it was not."""
        try:
            if isinstance(place.content, Unreadable):
                return place.content.reason
            if isinstance(place.content, Pixels):
                return self._fit(place, place.content)
            return self._decode(place, _read(place.content))
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            return error.strerror or type(error).__name__
        except MemoryError:
            return "needs more memory than there is"

    def _fit(self, place: Place, image: Pixels) -> Read:
        self._arrays[place.split][place.row] = fit(image.values, self._size)
        return Read(image.width, image.height, bytes.fromhex(image.sha256))

    def _decode(self, place: Place, content: bytes) -> Read:
        sha256 = hashlib.sha256(content).digest()
        if self._unwanted is not None and is_among(sha256, self._unwanted):
            return Read(0, 0, sha256, was_known=True)
        known = None if self._known is None else self._known.find(sha256)
        if known is not None:
            self._arrays[place.split][place.row], width, height = known
            return Read(width, height, sha256, was_known=True)
        image = decode(content, self._size)
        self._arrays[place.split][place.row] = image.pixels
        return Read(image.width, image.height, sha256)


def _read(content: bytes | Span) -> bytes:
    if not isinstance(content, Span):
        return content
    check_num_bytes(content.length)
    if isinstance(content.path, RemoteFile):
        return content.path.read(content.offset, content.length)
    with content.path.open("rb") as file:
        file.seek(content.offset)
        return file.read(content.length)
