"""An index folder of embeddings in files: what stage `index` makes, without the chain."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from pipeline.atomic import atomic_folder
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.search.building.curve import write_curves
from pipeline.search.building.index import make_index
from pipeline.search.files.card import IndexCard
from pipeline.search.from_arrays.names import Names
from pipeline.search.from_arrays.vectors import VectorFile
from pipeline.search.index_folder import IndexFolder

if TYPE_CHECKING:
    from pipeline.params.index import Index

_OF_AN_INDEX = re.compile(
    r"images\.faiss|index\.json|encoder\.onnx|catalog\.parquet|thumbnails\.arrow|removed\.npy|recall\.tsv|"
    r"added-\d+\.(faiss|parquet|arrow)"
)


@dataclass(frozen=True)
class Given:
    """What an index folder is made of.

    Attributes:
        arrays: .npy files of embeddings, [N, D] each, in the order of their ids.
        encoder: the ONNX file that made them; None: the folder answers ids and embeddings alone.
        catalog: a Parquet file of what is known of each; see `Names`.
    """

    arrays: Sequence[Path]
    encoder: Path | None = None
    catalog: Path | None = None


def build_folder(given: Given, path: Path, params: "Index", *, replace: bool = False) -> IndexCard:
    """Makes an index folder of embeddings.

    They are read a chunk at a time, as often as the kinds of index that are built ask for it; no copy of them
    is made but what an index holds, and of the catalog some rows are in memory.

    Args:
        given: the embeddings, and what belongs to them.
        path: of the folder, which appears whole or not at all.
        params: as of stage `index`; thumbnails are not made.
        replace: an index folder that stands there.

    Raises:
        UserError: something that is given is not what it should be, or the folder is there already.
        SettingError: a kind of index cannot be built.
        MachineError: another process is writing the folder.
    """
    _check_place(path, replace)
    with _Progress() as progress:
        files = [VectorFile(array, progress.read) for array in given.arrays]
        dimension = _one_dimension(files, given.encoder)
        names = Names(files, given.catalog)
        progress.begin("check", sum(len(file) for file in files))
        with atomic_folder(path) as partial:
            _check_rows(files, progress)
            made = make_index(files, params, progress.note, partial)
            assert made.index.d == dimension
            progress.note("write")
            folder = IndexFolder(partial)
            card = folder.write(
                made.file or made.index, made.built, given.encoder, names.tables(), manifest_sha256=None
            )
            write_curves(folder.curves, made.curves)
    return card


def _one_dimension(files: Sequence[VectorFile], encoder: Path | None) -> int:
    first = files[0]
    dimension = first.shape[1]
    for file in files:
        if file.shape[1] != dimension:
            raise UserError(
                f"{file.path}: embeddings of {file.shape[1]} dimensions, those of {first.path} have "
                f"{dimension}: one encoder makes all of an index"
            )
    if encoder is not None and (found := Encoder.open(encoder, "cpu").dim) != dimension:
        raise UserError(
            f"{encoder}: makes embeddings of {found} dimensions, those of {first.path} have {dimension}: "
            "name the encoder that made them"
        )
    return dimension


def _check_rows(files: Sequence[VectorFile], progress: "_Progress") -> None:
    others = [(file.path, file.check(), len(file)) for file in files]
    if num_others := sum(count for _, count, _ in others):
        first = next(path for path, count, _ in others if count)
        total = sum(length for _, _, length in others)
        progress.say(
            f"{first}: {num_others:,} of {total:,} rows are not of length 1 and are made so: "
            "the score is the cosine similarity"
        )


def _check_place(path: Path, replace: bool) -> None:
    """Refuses to put the folder where something else would be lost."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path}: a file: choose another name for the folder")
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return
    others = [name for name in names if not _OF_AN_INDEX.fullmatch(name)]
    if "index.json" not in names or others:
        raise UserError(
            f"{path}: holds {others[0] if others else names[0]}, and is no index folder alone: "
            "choose another name"
        )
    if not replace:
        raise UserError(f"{path}: is there already: choose another name, or replace it with --force")


class _Progress:
    """A bar of the vectors that are read, again from its beginning for each pass; none without a terminal."""

    def __enter__(self) -> Self:
        self._bar: tqdm[Any] = tqdm(unit=" vectors", unit_scale=True, disable=None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def begin(self, told: str, total: int) -> None:
        """The first pass, over so many vectors."""
        self._bar.reset(total)
        self.note(told)

    def note(self, told: str) -> None:
        """What is under way."""
        self._bar.set_description(told)

    def read(self, count: int) -> None:
        """So many more vectors were read."""
        if self._bar.total is not None and self._bar.n >= self._bar.total:
            self._bar.reset()
        self._bar.update(count)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line, file=sys.stderr)
