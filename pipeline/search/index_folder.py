"""The index folder: four files of one generation that answer together, wherever they are copied to."""

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import faiss

from pipeline.artifacts import Artifacts, read_json, sha256_of, write_json
from pipeline.errors import UserError, damaged_output, existing, missing_output
from pipeline.search.catalog import write_catalog

if TYPE_CHECKING:
    import pandas as pd

# Of a larger images.faiss the seal alone is held against index.json when it is opened: to hash 256 MiB takes
# a fifth of a second, and to open it memory-mapped a thousandth.
_HASHED_UP_TO = 256 << 20
_SEAL_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class IndexCard:
    """What index.json says of an index.

    Attributes:
        index_sha256: of images.faiss.
        index_seal: the sha256 of FAISS's own bytes, which images.faiss ends in, behind what FAISS reads: so a
            large one is told from any other without reading it whole.
        encoder_sha256: of encoder.onnx, whose embeddings are in the index.
        catalog_sha256: of catalog.parquet.
        manifest_sha256: of data/images/manifest.parquet as it was; the pictures beside it are the index's.
        dimension: D.
        count: N.
        factory: FAISS's factory string.
        search_parameters: as tuned, like nprobe; empty where there is nothing to tune.
        recall_at_10: share of the true ten nearest others that the search finds, over sampled images.
        target_recall: that was asked for.
    """

    index_sha256: str
    index_seal: str
    encoder_sha256: str
    catalog_sha256: str
    manifest_sha256: str
    dimension: int
    count: int
    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float
    target_recall: float


@dataclass(frozen=True)
class IndexFolder:
    """Where the four files lie."""

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

    def write(
        self,
        index: faiss.Index,
        built: "Built",
        encoder: Path,
        manifest: "pd.DataFrame",
        manifest_sha256: str,
    ) -> IndexCard:
        """Writes all four, index.json last.

        Args:
            index: of all images.
            built: how.
            encoder: the ONNX file that made the embeddings.
            manifest: a row an image, in the order of the ids.
            manifest_sha256: of its file.

        Raises:
            OSError: the disk has no room for it.
        """
        try:
            seal = _write_sealed(index, self.index)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.index)) from None
        shutil.copyfile(encoder, self.encoder)
        write_catalog(self.catalog, manifest)
        card = IndexCard(
            index_sha256=sha256_of(self.index),
            index_seal=seal,
            encoder_sha256=sha256_of(self.encoder),
            catalog_sha256=sha256_of(self.catalog),
            manifest_sha256=manifest_sha256,
            **asdict(built),
        )
        write_json(self.card, asdict(card))
        return card

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
            return IndexCard(**read_json(self.card, made_by="index"))
        except TypeError:
            raise damaged_output(self.card, "not of this version of Lookalike", "index") from None

    def read_index(self, card: IndexCard) -> faiss.Index:
        """Opens images.faiss, memory-mapped: what a search touches is read, and not before.

        Raises:
            UserError: the file is missing, damaged, or not the one that index.json names.
        """
        existing(self.index, made_by="index")
        try:
            index = faiss.read_index(str(self.index), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError:
            if not self.index.is_file():
                raise missing_output(self.index, "index") from None
            self.index.open("rb").close()  # no permission is not damage: let it be said
            raise damaged_output(self.index, "not a whole FAISS index", "index") from None
        if (index.d, index.ntotal) != (card.dimension, card.count):
            raise self.of_another(
                self.index,
                f"{index.ntotal} images of {index.d} dimensions",
                f"{card.count} of {card.dimension}",
            )
        if self.index.stat().st_size <= _HASHED_UP_TO:
            self.check(self.index, sha256_of(self.index), card.index_sha256)
        else:
            self.check(self.index, _seal_of(self.index), card.index_seal)
        return index

    def check_made_of(self, card: IndexCard, data: Artifacts) -> None:
        """Holds that the index is of these images by this encoder.

        Raises:
            UserError: it is not.
        """
        for path, named in ((data.encoder, card.encoder_sha256), (data.manifest, card.manifest_sha256)):
            found = sha256_of(path)
            if found != named:
                raise UserError(
                    f"{self.path}: was made with {path} {named[:12]}, and that is {found[:12]} now: "
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


def _write_sealed(index: faiss.Index, path: Path) -> str:
    """Writes an index, and behind it the sha256 of its bytes; gives that, in hexadecimal."""
    digest = hashlib.sha256()
    # through Python's file: where the disk is full at the last bytes FAISS's own raises nothing
    with path.open("wb") as file:

        def write(content: bytes) -> int:
            digest.update(content)
            return file.write(content)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
        file.write(digest.digest())
    return digest.hexdigest()


def _seal_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(-_SEAL_BYTES, os.SEEK_END)
        return file.read().hex()


@dataclass(frozen=True)
class Built:
    """How an index was built; see `IndexCard`."""

    dimension: int
    count: int
    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float
    target_recall: float
