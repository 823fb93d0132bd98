"""Any image files to a table of embeddings by Ray's workers: `lookalike embed --engine ray`."""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from pipeline.atomic import atomic_file, lock
from pipeline.collection.places import Place
from pipeline.encoder.embed_each import Embedded, Skipped, embed_members, none_can_be_read, nothing_to_read
from pipeline.encoder.embed_files import Table
from pipeline.encoder.on_ray.cluster import begin_try, cluster, end_tries, on_actors
from pipeline.encoder.on_ray.parts import Part, list_parts, members_in, sha256_of_parts
from pipeline.encoder.runtime import Encoder
from pipeline.errors import StoppedError
from pipeline.provenance.code import code_files
from pipeline.provenance.imports import imported

if TYPE_CHECKING:
    from pipeline.params.section import Device

_SKIPPED = b"skipped"


def embed_files_on_ray(
    encoder: Path,
    paths: Sequence[Place],
    batch_size: int,
    output: Path,
    device: "Device",
    address: str | None,
) -> tuple[int, list[Skipped]]:
    """Writes the table that `embed_files` does, and goes on with the shards that a run before it left.

    The shards lie in a folder beside the table, until that is there: as much disk again. Of a cluster of
    several machines each must see that folder, and every local path, under the same name.

    Args:
        encoder: the file.
        paths: image files, folders, archives, and tables of images, here or elsewhere.
        batch_size: images that the encoder is given at a time.
        output: of the table, which appears when all of it is written.
        device: what the workers embed on; `auto` is the GPUs where the cluster has some.
        address: of the cluster; None: RAY_ADDRESS, or this machine alone.

    Returns:
        How many rows there are, and what was left out.

    Raises:
        UserError: there is no such path, an archive or a table is damaged, or no image can be read.
        MachineError: Ray is not installed or not there, a file elsewhere cannot be reached, or workers were
            killed again and again.
        StoppedError: Ctrl-C; the finished shards are kept.
    """
    opened = Encoder.open(encoder, "cpu")
    folder = output.with_name(f".{output.name}.shards").resolve()
    with lock(folder):
        try:
            job = _open_job(folder, encoder.resolve(), opened, paths, batch_size)
            _embed_missing(job, device, address)
        except KeyboardInterrupt:
            raise StoppedError(
                f"interrupted; the finished shards are kept in {folder}: the same command goes on from there",
                SIGINT,
            ) from None
        num_rows, skipped = _assemble(job, opened, output)
        shutil.rmtree(folder)
    return num_rows, skipped


@dataclass(frozen=True)
class _Job:
    """What a worker is told once."""

    folder: Path
    encoder: Path
    batch_size: int
    parts: list[Part]

    @property
    def listing(self) -> Path:
        return self.folder / "listing.parquet"

    def shard(self, number: int) -> Path:
        return self.folder / f"{number:07d}.parquet"


class FilesWorker:
    """One session and one process that decodes, which write shard after shard.

    Args:
        job: what there is.
        cuda: whether it has a GPU; else it has one core, and one thread.
    """

    def __init__(self, job: _Job, *, cuda: bool) -> None:
        self._job = job
        self._encoder = Encoder.open(job.encoder, "cuda" if cuda else "cpu", num_threads=1)

    def __call__(self, item: dict[str, int]) -> int:
        """Writes a shard, if it is not there; gives its number."""
        number = item["shard"]
        path = self._job.shard(number)
        if not path.exists():  # else its worker was killed after it had written it
            begin_try(path, f"shard {number}, {self._job.parts[number].place or 'of files'}")
            self._write(self._job.parts[number], path)
            end_tries(path)
        return number

    def _write(self, part: Part, path: Path) -> None:
        members = members_in(part, self._job.listing)
        skipped: list[tuple[str, str]] = []
        with atomic_file(path) as partial, Table(partial, self._encoder) as table:
            for outcome in embed_members(
                self._encoder, members, sys.maxsize, self._job.batch_size, num_workers=1
            ):
                if isinstance(outcome, Embedded):
                    table.add(outcome)
                elif isinstance(outcome, Skipped):
                    skipped.append((outcome.source, outcome.reason))
            table.note(_SKIPPED.decode(), json.dumps(skipped))


def _open_job(folder: Path, encoder: Path, opened: Encoder, paths: Sequence[Place], batch_size: int) -> _Job:
    """The shards of just these images by this encoder and this code; those of any others are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    job = _Job(folder, encoder, batch_size, [])
    job.parts.extend(list_parts(paths, job.listing))
    if not job.parts:
        shutil.rmtree(folder)
        raise nothing_to_read(paths)
    key = hashlib.sha256(
        json.dumps([opened.sha256, batch_size, sha256_of_parts(job.parts, job.listing)]).encode()
    )
    files = code_files()
    for name in sorted(imported("pipeline/encoder/on_ray/files.py", files)):
        key.update(files[name].read_bytes())
    noted = folder / "key"
    if not noted.exists() or noted.read_text() != key.hexdigest():
        for old in set(folder.iterdir()) - {job.listing}:
            old.unlink()
        noted.write_text(key.hexdigest())
    return job


def _embed_missing(job: _Job, device: "Device", address: str | None) -> None:
    items = [{"shard": number} for number in range(len(job.parts)) if not _is_whole(job.shard(number))]
    if not items:
        return
    for item in items:
        end_tries(job.shard(item["shard"]))
    done = len(job.parts) - len(items)
    with (
        cluster(address),
        tqdm(total=len(job.parts), initial=done, desc="embed on Ray", unit=" shards", disable=None) as bar,
    ):
        for _ in on_actors(FilesWorker, [job], items, device):
            bar.update()


def _is_whole(shard: Path) -> bool:
    """Whether it is there and can be read; one that is damaged is removed."""
    if not shard.exists():
        return False
    try:
        with pyarrow.parquet.ParquetFile(shard, page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
            return _SKIPPED in file.metadata.metadata
    except (pyarrow.ArrowException, OSError):
        shard.unlink()
        return False


def _assemble(job: _Job, encoder: Encoder, output: Path) -> tuple[int, list[Skipped]]:
    skipped: list[Skipped] = []
    with atomic_file(output) as partial, Table(partial, encoder) as table:
        for number in range(len(job.parts)):
            with pyarrow.parquet.ParquetFile(job.shard(number)) as file:
                for batch in file.iter_batches():
                    table.append(batch)
                noted = json.loads(file.metadata.metadata[_SKIPPED])
                skipped.extend(Skipped(source, reason) for source, reason in noted)
        if table.num_rows == 0:
            raise none_can_be_read(len(skipped), skipped)
    return table.num_rows, skipped
