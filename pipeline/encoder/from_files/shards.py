"""One table on its way, in a folder beside it: the parts that are finished, each whole or not there.

They are what an interrupted `lookalike embed` goes on from. A shard is the finished table of a part; its
metadata has what was left out.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import BinaryIO

import onnxruntime
import pyarrow
import pyarrow.parquet

from pipeline.atomic import atomic_file, lock
from pipeline.collection.known import decoder_sha256
from pipeline.collection.sources.collection import printable
from pipeline.encoder.from_files.embed_each import (
    Embedded,
    Passed,
    Skipped,
    none_can_be_read,
)
from pipeline.encoder.from_files.parts import Part, sha256_of_parts
from pipeline.encoder.from_files.table import Table
from pipeline.encoder.runtime import Encoder
from pipeline.errors import MachineError, StoppedError
from pipeline.provenance.code import code_files
from pipeline.provenance.imports import imported

_SKIPPED = b"skipped"


@dataclass(frozen=True)
class TableShards:
    """The shards of a table, for any number of processes that see the folder.

    Attributes:
        folder: of this table alone.
        parts: of its images; a shard has the number of its part.
    """

    folder: Path
    parts: list[Part]

    @property
    def listing(self) -> Path:
        """Which images can be read one by one, as `list_parts` writes it."""
        return self.folder / "listing.parquet"

    def path(self, number: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"{number:07d}.parquet"

    def missing(self) -> list[int]:
        """The numbers of those that are not there, or are there and damaged, which are removed.

        How many parts are finished is said on standard error, where there are any.
        """
        missing = [number for number in range(len(self.parts)) if not _is_whole(self.path(number))]
        if len(missing) < len(self.parts):
            print(
                f"{len(self.parts) - len(missing):,} of {len(self.parts):,} parts are finished already, in "
                f"{printable(str(self.folder))}",
                file=sys.stderr,
            )
        return missing

    def write(self, number: int, encoder: Encoder, outcomes: Iterable[Embedded | Passed | Skipped]) -> None:
        """Writes a shard, which appears when its last outcome has come."""
        skipped: list[tuple[str, str]] = []
        with atomic_file(self.path(number)) as partial, Table(partial, encoder) as table:
            for outcome in outcomes:
                if isinstance(outcome, Embedded):
                    table.add(outcome)
                elif isinstance(outcome, Skipped):
                    skipped.append((outcome.source, outcome.reason))
            table.note(_SKIPPED.decode(), json.dumps(skipped))

    def assemble(self, encoder: Encoder, output: Path) -> tuple[int, list[Skipped]]:
        """Writes the table, of shards that must all be there.

        Returns:
            How many rows there are, and what was left out.

        Raises:
            UserError: no image can be read.
            MachineError: a shard has been removed or damaged meanwhile.
        """
        skipped: list[Skipped] = []
        with atomic_file(output) as partial, Table(partial, encoder) as table:
            for number in range(len(self.parts)):
                with (
                    _undamaged(self.path(number)),
                    self.path(number).open("rb") as opened,  # pyarrow takes no name that is no UTF-8
                    _reader(opened) as file,
                ):
                    for batch in file.iter_batches():
                        table.append(batch)
                    noted = json.loads(file.metadata.metadata[_SKIPPED])
                skipped.extend(Skipped(source, reason) for source, reason in noted)
            if table.num_rows == 0:
                shutil.rmtree(self.folder)  # nothing goes on from here
                raise none_can_be_read(len(skipped), skipped)
        return table.num_rows, skipped

    def is_begun(self) -> bool:
        """Whether any shard is there."""
        return any(self.folder.glob("[0-9]*.parquet"))


@contextmanager
def shards_of_table(
    output: Path,
    list_parts: Callable[[Path], list[Part]],
    encoder: Encoder,
    made_by: Sequence[object],
) -> Iterator[TableShards]:
    """The shards of a table, those that were made of just these images and this encoder by this code.

    They lie in `.TABLE.shards` beside the table until the context ends without a fault; those that are of
    anything else are removed.

    Args:
        output: the table.
        list_parts: of its images; it is given where the list of those is written that are read one by one.
        encoder: that embeds them.
        made_by: whatever else its bytes depend on; first the module, by its path in the project.

    Raises:
        UserError: as `list_parts` raises it.
        MachineError: another process is writing this table.
        StoppedError: Ctrl-C; the finished shards are kept.
    """
    folder = output.with_name(f".{output.name}.shards").resolve()
    with lock(folder):
        shards = TableShards(folder, [])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shards.parts.extend(list_parts(shards.listing))
            _keep_those_of(shards, encoder, made_by)
            yield shards
        except KeyboardInterrupt:
            if not shards.is_begun():
                raise
            raise StoppedError(
                f"interrupted; the finished parts are kept in {printable(str(folder))}: the same command "
                "goes on from there",
                SIGINT,
            ) from None
        finally:
            if not shards.is_begun():
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder)


def _keep_those_of(shards: TableShards, encoder: Encoder, made_by: Sequence[object]) -> None:
    """Removes every file of the folder that is of other images, another encoder or other code."""
    module = str(made_by[0])
    total = hashlib.sha256(
        json.dumps(
            [
                encoder.sha256,
                onnxruntime.__version__,
                decoder_sha256(encoder.image_size),
                list(made_by),
                sha256_of_parts(shards.parts, shards.listing),
            ]
        ).encode()
    )
    files = code_files()
    for name in sorted(imported(module, files)):
        total.update(files[name].read_bytes())
    noted = shards.folder / "key"
    if not noted.exists() or noted.read_text() != total.hexdigest():
        for old in set(shards.folder.iterdir()) - {shards.listing}:
            old.unlink()
        noted.write_text(total.hexdigest())


def _reader(shard: BinaryIO) -> pyarrow.parquet.ParquetFile:
    """With its checksums held, and a group in memory at a time: a shard of a table's group may be large."""
    return pyarrow.parquet.ParquetFile(shard, page_checksum_verification=True, pre_buffer=False)


def _is_whole(shard: Path) -> bool:
    """Whether it is there and can be read; one that is damaged is removed."""
    try:
        with (
            shard.open("rb") as opened,
            _reader(opened) as file,
        ):
            for _ in file.iter_batches():
                pass
            return _SKIPPED in file.metadata.metadata
    except FileNotFoundError:
        return False
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the machine's fault, and none of the shard's
        shard.unlink()
        return False


@contextmanager
def _undamaged(shard: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, FileNotFoundError) as error:
        raise MachineError(
            f"{printable(str(shard))}: damaged or removed since it was written "
            f"({type(error).__name__}): run the command again"
        ) from None
