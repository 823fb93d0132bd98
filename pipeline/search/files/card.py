"""What index.json says of an index folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BASE = "images"
_ADDED = re.compile(r"added-(\d{4,9})")


@dataclass(frozen=True)
class PartCard:
    """A part of the index: its FAISS index, its catalog and its thumbnails, files of one length.

    Attributes:
        name: that its files begin with: `added-0001`; of the base `images`.
        count: rows of its files, those of removed images among them.
        index_sha256: of its FAISS file.
        index_seal: the sha256 of FAISS's own bytes, which the file ends in, behind what FAISS reads: so a
            large one is told from any other without reading it whole.
        catalog_sha256: of its catalog.
        thumbnails_sha256: of its thumbnails; None where the folder has none.
    """

    name: str
    count: int
    index_sha256: str
    index_seal: str
    catalog_sha256: str
    thumbnails_sha256: str | None


@dataclass(frozen=True)
class RunnerUp:
    """A kind of index that was built and not chosen; see `IndexCard`."""

    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float
    recall_at_10_low: float
    recall_at_10_high: float
    work_per_query: float
    bytes_per_vector: float


@dataclass(frozen=True)
class IndexCard:
    """What index.json says of an index.

    Attributes:
        index_sha256: of images.faiss.
        index_seal: see `PartCard`.
        encoder_sha256: of encoder.onnx, whose embeddings are in the index; None where there is none, and
            vectors alone are searched with.
        catalog_sha256: of catalog.parquet.
        manifest_sha256: of data/images/manifest.parquet as it was; the pictures beside it are the index's.
            None where the chain made none.
        dimension: D.
        count: N, of the images that can be found.
        factory: FAISS's factory string, of images.faiss.
        search_parameters: as tuned, like nprobe; empty where there is nothing to tune.
        recall_at_10: share of the true ten nearest others that images.faiss finds, over sampled images.
        recall_at_10_low: lower end of its 95 % interval; so is `recall_at_10_high` the upper end.
        target_recall: that was asked for, of the lower end.
        work_per_query: in distances of an exact search, as pipeline/search/building/cost.py counts them.
        bytes_per_vector: that images.faiss holds of each.
        runners_up: other kinds of index that were built whole, and what they reached.
        base_count: rows of images.faiss and catalog.parquet.
        next_id: that the next image gets; never given before.
        segments: what was added since, in the order of the ids.
        removed_count: images that stand in the files and are not found any more.
        removed_sha256: of removed.npy, which names them; None where there are none.
        thumbnail_size: their longer side at most, in pixels; 0 where the folder has none.
        thumbnails_sha256: of thumbnails.arrow; None where there is none.
    """

    index_sha256: str
    index_seal: str
    encoder_sha256: str | None
    catalog_sha256: str
    manifest_sha256: str | None
    dimension: int
    count: int
    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float
    recall_at_10_low: float
    recall_at_10_high: float
    target_recall: float
    work_per_query: float
    bytes_per_vector: float
    runners_up: tuple[RunnerUp, ...]
    base_count: int
    next_id: int
    segments: tuple[PartCard, ...]
    removed_count: int
    removed_sha256: str | None
    thumbnail_size: int
    thumbnails_sha256: str | None

    def parts(self) -> tuple[PartCard, ...]:
        """The base and the segments, in the order of the ids."""
        base = PartCard(
            name=BASE,
            count=self.base_count,
            index_sha256=self.index_sha256,
            index_seal=self.index_seal,
            catalog_sha256=self.catalog_sha256,
            thumbnails_sha256=self.thumbnails_sha256,
        )
        return (base, *self.segments)


@dataclass(frozen=True)
class Built:
    """How an index was built; see `IndexCard`."""

    dimension: int
    count: int
    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float
    recall_at_10_low: float
    recall_at_10_high: float
    target_recall: float
    work_per_query: float
    bytes_per_vector: float
    runners_up: tuple[RunnerUp, ...]


def card_of(values: Mapping[str, Any]) -> IndexCard:
    """What stands in index.json, read.

    Raises:
        TypeError: keys are missing, or others are there.
        ValueError: a segment has no name of a segment, which could be any file's.
    """
    segments = tuple(PartCard(**segment) for segment in values.get("segments", ()))
    for segment in segments:
        number_of(segment.name)
    runners_up = tuple(RunnerUp(**each) for each in values.get("runners_up", ()))
    return IndexCard(**(dict(values) | {"segments": segments, "runners_up": runners_up}))


def segment_name(number: int) -> str:
    """What the files of a segment begin with."""
    return f"added-{number:04}"


def number_of(name: str) -> int:
    """The number of a segment, by its name.

    Raises:
        ValueError: it is not such a name.
    """
    match = _ADDED.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a segment")
    return int(match[1])
