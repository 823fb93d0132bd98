"""An index folder of seconds: a toy encoder, noise for photographs, and what is known of each image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from benchmarks.index.changes import write_encoder
from pipeline import Encoder
from pipeline.collection.worker import Read
from pipeline.encoder.from_files.embed_each import Embedded, Passed, Skipped
from pipeline.images import read_image
from pipeline.params.index import Index
from pipeline.search.building.index import make_index
from pipeline.search.index_folder import IndexFolder

SIZE, DIM, COUNT = 16, 12, 240
THUMBNAIL = 8


def pixels_of(number: int) -> NDArray[np.uint8]:
    """Photograph `number`: noise over one of a few patterns, so that some are alike."""
    rng = np.random.default_rng(number)
    pattern = np.random.default_rng(number % 7 + 10**6).integers(0, 256, (SIZE, SIZE, 3))
    noise = rng.integers(0, 256, (SIZE, SIZE, 3))
    return ((pattern + noise) // 2).astype(np.uint8)


def write_photo(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.png"
    Image.fromarray(pixels_of(number)).save(path)
    return path


@dataclass
class Known:
    """What an oracle knows of a folder: brute force over a dictionary."""

    encoder: Encoder
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    rows: dict[int, dict[str, object]] = field(default_factory=dict)

    def put(self, id_: int, number: int, split: str, class_name: str | None, source: str) -> None:
        self.vectors[id_] = self.encoder(pixels_of(number)[None])[0]
        self.numbers[id_] = number
        self.rows[id_] = {"id": id_, "split": split, "class_name": class_name, "source": source}

    def drop(self, id_: int) -> None:
        for each in (self.vectors, self.numbers, self.rows):
            del each[id_]

    def nearest(
        self, query: NDArray[np.float32], k: int, of: Callable[[dict[str, object]], bool] = lambda row: True
    ) -> list[tuple[float, int]]:
        found = [(float(vector @ query), id_) for id_, vector in self.vectors.items() if of(self.rows[id_])]
        return sorted(found, key=lambda each: (-each[0], each[1]))[:k]


def build(folder: Path, factory: str = "Flat", count: int = COUNT) -> Known:
    """An index folder of the first `count` photographs, in two splits and three classes, or none."""
    folder.mkdir(parents=True)
    write_encoder(folder.with_suffix(".onnx"), DIM, SIZE)
    known = Known(Encoder.open(folder.with_suffix(".onnx"), "cpu"))
    for number in range(count):
        class_name = (None, "cat", "dog", "eel")[number % 4]
        known.put(number, number, "test" if number >= 0.8 * count else "train", class_name, f"{number}.png")
    pixels = np.stack([pixels_of(number) for number in range(count)])
    vectors = np.stack(list(known.vectors.values()))
    params = Index(
        factory=factory, memory_gib=8, target_recall=1.0, num_queries=24, seed=0, thumbnail_size=THUMBNAIL
    )
    made = make_index([vectors], params)
    index, built = made.index, made.built
    manifest = pd.DataFrame(known.rows.values())
    manifest["sha256"] = [sha256(b"%d" % number).hexdigest() for number in range(count)]
    IndexFolder(folder).write(
        index, built, folder.with_suffix(".onnx"), manifest, "0" * 64, [pixels[:100], pixels[100:]], THUMBNAIL
    )
    return known


def embed_here(
    encoder: Encoder,
    paths: Sequence[Path],
    total: int,
    batch_size: int,
    description: str,
    known: NDArray[np.bytes_],
) -> Iterator[Embedded | Passed | Skipped]:
    """In place of `embed_each`, which starts a process a core: the same for files, in this one."""
    seen = {bytes(digest).ljust(32, b"\0") for digest in known}
    for path in paths:
        digest = sha256(path.read_bytes()).digest()
        if digest in seen:
            yield Passed(str(path))
            continue
        seen.add(digest)
        pixels = read_image(path, encoder.image_size)[None]
        yield Embedded([str(path)], [path.name], [Read(SIZE, SIZE, digest)], pixels, encoder(pixels))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
