"""Images that are decoded already: a collection that has grown costs the decoding of what is new.

A note in `.lookalike/` says which arrays stage fetch wrote last, and by what. Where `data/images` still holds
those, and the same code would decode now, pixels are taken from there by the sha256 of the file's bytes; so
the arrays are those of a fetch that knew nothing.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pipeline.images
from pipeline.artifacts import Artifacts, sha256_of, write_json

_DECODERS = ("numpy", "pillow", "pillow-heif")
_PLACE = np.dtype([("split", "<u1"), ("row", "<i8"), ("width", "<i4"), ("height", "<i4")])


@dataclass(frozen=True)
class KnownImages:
    """Where the pixels of decoded images stand, for any number of processes.

    Attributes:
        digests: .npy of the files' sha256, S32 [N], sorted.
        places: .npy of what belongs to each, [N].
        arrays: of the pixels, uint8 [N, size, size, 3], by the number in `places`.
    """

    digests: Path
    places: Path
    arrays: tuple[Path, ...]


class Lookup:
    """Known images by the hash of their bytes; everything is mapped into memory, and nothing is copied."""

    def __init__(self, known: KnownImages) -> None:
        self._digests = np.load(known.digests, mmap_mode="r")
        self._places = np.load(known.places, mmap_mode="r")
        self._arrays = [np.load(path, mmap_mode="r") for path in known.arrays]

    def find(self, sha256: bytes) -> tuple[NDArray[np.uint8], int, int] | None:
        """Pixels, uint8 [size, size, 3], width and height as stored; None for an image that is not known."""
        if not is_among(sha256, self._digests):
            return None
        row = int(np.searchsorted(self._digests, np.array(sha256, dtype="S32")))
        split, place, width, height = self._places[row].item()
        return self._arrays[split][place], width, height


def is_among(sha256: bytes, digests: NDArray[np.bytes_]) -> bool:
    """Whether a hash is one of these, S32 [N], sorted."""
    row = int(np.searchsorted(digests, np.array(sha256, dtype="S32")))
    return row < len(digests) and digests[row] == sha256.rstrip(b"\0")  # as NumPy keeps them


@contextmanager
def known_images(data: Artifacts, size: int, note: Path, scratch: Path) -> Iterator[KnownImages | None]:
    """What stands in `data/images`, as long as the context lasts; None where it may not be used.

    Args:
        data: of the run before.
        size: height and width that are wanted, in pixels.
        note: that `note_decoded` wrote.
        scratch: a folder in which tables lie meanwhile.
    """
    if not _is_what_was_noted(data, size, note):
        yield None
        return
    manifest = data.read_manifest(["split", "width", "height"])
    digests = data.read_digests().view("S32")[:, 0]
    places = np.empty(len(manifest), dtype=_PLACE)
    splits = data.splits()
    for number, split in enumerate(splits):
        rows = np.flatnonzero(manifest["split"] == split)
        places["split"][rows], places["row"][rows] = number, np.arange(len(rows))
    places["width"], places["height"] = manifest["width"], manifest["height"]
    order = np.argsort(digests, kind="stable")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        paths = Path(folder) / "digests.npy", Path(folder) / "places.npy"
        np.save(paths[0], digests[order])
        np.save(paths[1], places[order])
        yield KnownImages(*paths, tuple(data.images / f"{split}.npy" for split in splits))


def note_decoded(data: Artifacts, size: int, note: Path) -> None:
    """Notes what `data/images` holds, and what decoded it."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, _state(data, size))


def _is_what_was_noted(data: Artifacts, size: int, note: Path) -> bool:
    try:
        noted = json.loads(note.read_text())
    except (OSError, ValueError):
        return False
    # the hash of the arrays last: it reads them
    return (
        isinstance(noted, dict)
        and noted.get("decoder") == decoder_sha256(size)
        and data.manifest.exists()
        and noted == _state(data, size)
    )


def _state(data: Artifacts, size: int) -> dict[str, Any]:
    files = sorted(path for path in data.images.iterdir() if path.suffix in (".npy", ".parquet"))
    return {"decoder": decoder_sha256(size), "files": {path.name: sha256_of(path) for path in files}}


def decoder_sha256(size: int) -> str:
    """All that pixels depend on besides a file's bytes."""
    versions = [f"{name} {version(name)}" for name in _DECODERS]
    code = Path(pipeline.images.__file__).read_bytes()
    return hashlib.sha256("\n".join([str(size), *versions]).encode() + code).hexdigest()
