"""The index folder: files of one generation that answer together, wherever they are copied to."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, read_json, sha256_of, write_json
from pipeline.errors import UserError, damaged_output, existing, missing_output
from pipeline.search.files.card import BASE, Built, IndexCard, PartCard, card_of
from pipeline.search.files.catalog import Catalog, write_catalog
from pipeline.search.files.faiss_file import (
    ids_are_rows,
    looks_up_ids,
    move_sealed,
    read_faiss,
    seal_of,
    write_sealed,
)
from pipeline.search.files.thumbnails import Thumbnails, ThumbnailWriter, encode_all

if TYPE_CHECKING:
    import pandas as pd

# Of a larger images.faiss the seal alone is held against index.json when it is opened: to hash 256 MiB takes
# a fifth of a second, and to open it memory-mapped a thousandth.
_HASHED_UP_TO = 256 << 20

FOREIGN_IDS = "holds ids that are no rows of it"


@dataclass(frozen=True)
class PartFiles:
    """Where the files of the base or of a segment lie."""

    index: Path
    catalog: Path
    thumbnails: Path


@dataclass(frozen=True)
class IndexFolder:
    """Where the files lie, and what of them is read and written."""

    path: Path

    @property
    def index(self) -> Path:
        return self.path / "images.faiss"

    @property
    def card(self) -> Path:
        return self.path / "index.json"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder.onnx"

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.parquet"

    @property
    def thumbnails(self) -> Path:
        return self.path / "thumbnails.arrow"

    @property
    def removed(self) -> Path:
        return self.path / "removed.npy"

    @property
    def curves(self) -> Path:
        """Recall against work, as the base was built; no answer needs it, so index.json does not name it."""
        return self.path / "recall.tsv"

    def files_of(self, part: str) -> PartFiles:
        """Those of the part of this name."""
        if part == BASE:
            return PartFiles(self.index, self.catalog, self.thumbnails)
        return PartFiles(*(self.path / f"{part}.{kind}" for kind in ("faiss", "parquet", "arrow")))

    def named_by(self, card: IndexCard) -> dict[Path, str]:
        """Every file but index.json, and the sha256 that it has."""
        named = {} if card.encoder_sha256 is None else {self.encoder: card.encoder_sha256}
        for part in card.parts():
            files = self.files_of(part.name)
            named |= {files.index: part.index_sha256, files.catalog: part.catalog_sha256}
            if part.thumbnails_sha256 is not None:
                named[files.thumbnails] = part.thumbnails_sha256
        if card.removed_sha256 is not None:
            named[self.removed] = card.removed_sha256
        return named

    def write(
        self,
        index: faiss.Index | Path,
        built: Built,
        encoder: Path | None,
        manifest: "pd.DataFrame | Iterator[pyarrow.Table]",
        manifest_sha256: str | None,
        images: Sequence[NDArray[np.uint8]] = (),
        thumbnail_size: int = 0,
    ) -> IndexCard:
        """Writes all of them, index.json last.

        Args:
            index: of all images; or the file that it lies in already, on the same disk, which is moved here.
            built: how.
            encoder: the ONNX file that made the embeddings; None: they alone are searched with.
            manifest: a row an image, in the order of the ids; or rows of the catalog, as they come.
            manifest_sha256: of its file; None where the chain made none.
            images: their pixels, arrays [N, H, W, 3] one after the other; nothing without thumbnails.
            thumbnail_size: the longer side of the thumbnails at most, in pixels; 0: none are written.

        Raises:
            OSError: the disk has no room for it.
        """
        seal = move_sealed(index, self.index) if isinstance(index, Path) else write_sealed(index, self.index)
        if encoder is not None:
            shutil.copyfile(encoder, self.encoder)
        write_catalog(self.catalog, manifest)
        catalog_sha256 = sha256_of(self.catalog)
        if thumbnail_size:
            write_thumbnails(self.thumbnails, catalog_sha256, encode_all(images, thumbnail_size))
        card = IndexCard(
            index_sha256=sha256_of(self.index),
            index_seal=seal,
            encoder_sha256=None if encoder is None else sha256_of(self.encoder),
            catalog_sha256=catalog_sha256,
            manifest_sha256=manifest_sha256,
            **vars(built),
            base_count=built.count,
            next_id=built.count,
            segments=(),
            removed_count=0,
            removed_sha256=None,
            thumbnail_size=thumbnail_size,
            thumbnails_sha256=sha256_of(self.thumbnails) if thumbnail_size else None,
        )
        self.write_card(card)
        return card

    def write_card(self, card: IndexCard) -> None:
        """Writes index.json."""
        write_json(self.card, asdict(card))

    def read_card(self) -> IndexCard:
        """Reads index.json.

        Raises:
            UserError: the file is missing, damaged or has other keys, or the folder is none.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: a file, not an index folder: name the folder that it lies in")
        if not self.card.exists() and (self.path / "index" / self.card.name).exists():
            raise UserError(f"{self.path}: not an index folder, {self.path / 'index'} is one: name that")
        try:
            return card_of(read_json(self.card, made_by="index"))
        except (TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise damaged_output(self.card, "not of this version of Lookalike", "index") from None

    def read_index(
        self, card: IndexCard, part: PartCard | None = None, *, every_id: bool = False
    ) -> faiss.Index:
        """Opens images.faiss, or a segment's, memory-mapped: what a search touches is read, and not before.

        Args:
            card: of the folder.
            part: of it; None: the base.
            every_id: whether all ids within inverted lists are looked at.

        Raises:
            UserError: the file is missing, damaged, or not the one that index.json names.
        """
        part = card.parts()[0] if part is None else part
        path = existing(self.files_of(part.name).index, made_by="index")
        try:
            index = read_faiss(path)
        except RuntimeError:
            if not path.is_file():
                raise missing_output(path, "index") from None
            path.open("rb").close()  # no permission is not damage: let it be said
            raise damaged_output(path, "not a whole FAISS index", "index") from None
        if (index.d, index.ntotal) != (card.dimension, part.count):
            found = f"{index.ntotal} images of {index.d} dimensions"
            raise self.of_another(path, found, f"{part.count} of {card.dimension}")
        if path.stat().st_size <= _HASHED_UP_TO:
            self.check(path, sha256_of(path), part.index_sha256)
        else:
            self.check(path, seal_of(path), part.index_seal)
        if (every_id or looks_up_ids(index)) and not ids_are_rows(index):
            raise damaged_output(path, FOREIGN_IDS, "index")
        return index

    def read_catalog(self, part: PartCard) -> Catalog:
        """Opens the catalog of a part.

        Raises:
            UserError: the file is missing, damaged, or not the one that index.json names.
        """
        path = existing(self.files_of(part.name).catalog, made_by="index")
        self.check(path, sha256_of(path), part.catalog_sha256)
        try:
            catalog = Catalog(path)
        except pyarrow.ArrowInvalid:
            raise damaged_output(path, "not a parquet file", "index") from None
        if len(catalog) != part.count:
            raise self.of_another(path, f"{len(catalog)} rows", str(part.count))
        return catalog

    def read_thumbnails(self, part: PartCard) -> Thumbnails | None:
        """Opens the thumbnails of a part; None where it has none.

        Raises:
            UserError: the file is missing, damaged, or of another catalog.
        """
        if part.thumbnails_sha256 is None:
            return None
        path = existing(self.files_of(part.name).thumbnails, made_by="index")
        try:
            thumbnails = Thumbnails(path)
        except ValueError:  # as pyarrow's own is one
            raise damaged_output(path, "not a whole file of thumbnails", "index") from None
        if thumbnails.catalog_sha256 != part.catalog_sha256:
            of = f"of catalog {thumbnails.catalog_sha256[:12]}"
            raise self.of_another(path, of, f"catalog {part.catalog_sha256[:12]}")
        if len(thumbnails) != part.count:
            raise self.of_another(path, f"{len(thumbnails)} thumbnails", str(part.count))
        return thumbnails

    def read_removed(self, card: IndexCard) -> NDArray[np.int64]:
        """The ids that stand in the files and are not found any more, ascending.

        Raises:
            UserError: the file is missing, or not the one that index.json names.
        """
        if card.removed_sha256 is None:
            return np.empty(0, dtype=np.int64)
        self.check(self.removed, sha256_of(existing(self.removed, made_by="index")), card.removed_sha256)
        return np.asarray(np.load(self.removed, allow_pickle=False), dtype=np.int64)

    def check_made_of(self, card: IndexCard, data: Artifacts) -> None:
        """Holds that the index is of these images by this encoder, all of them and no others.

        Raises:
            UserError: it is not.
        """
        for path, named in ((data.encoder, card.encoder_sha256), (data.manifest, card.manifest_sha256)):
            found = sha256_of(path)
            if found != named:
                made_with = f"with {path} {named[:12]}" if named is not None else f"without {path}"
                raise UserError(
                    f"{self.path}: was made {made_with}, and that is {found[:12]} now: run 'dvc repro index'"
                )
        num_images = pyarrow.parquet.read_metadata(data.manifest).num_rows
        if not card.count == card.base_count == card.next_id == num_images:
            raise UserError(
                f"{self.path}: images were added or removed since stage 'index' made it: "
                "run 'dvc repro index'"
            )

    def check(self, file: Path, found: str, expected: str) -> None:
        """Holds a file's sha256 against the one that index.json names.

        Raises:
            UserError: they differ.
        """
        if found != expected:
            raise self.of_another(file, found[:12], expected[:12])

    def of_another(self, file: Path, found: str, expected: str) -> UserError:
        """That a file is not the one that index.json names, by some value of both."""
        return UserError(
            f"{file}: is {found}, but {self.card} names {expected}: they are not of one generation: "
            "copy the whole folder to another name and rename it, or run 'dvc repro --force index'"
        )


def no_encoder(path: Path) -> UserError:
    """That an index folder answers vectors alone, and what mends it."""
    return UserError(
        f"{path}: holds no encoder, so it knows no pictures: ask with an id or an embedding, or build it "
        "anew with 'lookalike index build --encoder FILE.onnx'"
    )


def write_thumbnails(path: Path, catalog_sha256: str, jpegs: Iterable[Sequence[bytes]]) -> None:
    """Writes a file of thumbnails, lists of JPEG one after the other."""
    with ThumbnailWriter(path, catalog_sha256) as thumbnails:
        for some in jpegs:
            thumbnails.add(some)
