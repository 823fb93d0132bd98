"""`lookalike embed` that was stopped goes on where it was, and ends in the bytes of one that never was."""

import errno
import functools
import os
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.index.changes import write_encoder
from pipeline.collection.worker import Job, Place, Read, Worker
from pipeline.encoder.from_files import embed_each, parts
from pipeline.encoder.from_files.embed_files import embed_files
from pipeline.encoder.runtime import Encoder
from pipeline.errors import StoppedError
from tests.processes import run_lookalike

NUM_PHOTOS = 20
OF_A_PART = 7  # photographs of a part, in batches of
BATCH = 4
SOURCES = ("photos", "photos.zip", "photos.tar.gz", "photos/02.png", "photos/03.png", "photos.zip")
# twenty in three parts, four times, and two files in one of their own; a part of 7 is two batches
BATCHES_OF_A_RUN = 4 * (2 + 2 + 2) + 1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Photographs in a folder and in archives, one of them none, and an encoder."""
    (tmp_path / "photos").mkdir()
    for number in range(NUM_PHOTOS - 1):
        noise = np.random.default_rng(number).integers(0, 256, (17, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{number:02}.png")
    (tmp_path / "photos/10 none.jpg").write_bytes(b"hello")
    names = sorted((tmp_path / "photos").iterdir())
    with (
        zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed,
        tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive,
    ):
        for path in names:
            packed.write(path, path.name)
            archive.add(path, path.name)
    write_encoder(tmp_path / "encoder.onnx", 12, 16)
    return tmp_path


class Counting:
    """An encoder that counts its batches, and is interrupted when there were so many."""

    def __init__(self, path: Path, faults: dict[int, BaseException] | None = None) -> None:
        self._encoder, self._faults = Encoder.open(path, "cpu", num_threads=1), faults or {}
        self.num_batches = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.num_batches in self._faults:
            raise self._faults[self.num_batches]
        self.num_batches += 1
        return self._encoder(images)


@pytest.fixture
def embed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Embeds in this process, and says how many batches that took."""

    def decode_here(
        places: Iterator[tuple[int, Place]], job: Job, name_of: object, num_workers: int | None = None
    ) -> Iterator[tuple[int, Read | str]]:
        worker = Worker(job)
        for number, place in places:
            yield number, worker.decode(place)

    monkeypatch.chdir(home)
    monkeypatch.setattr(embed_each, "decode_all", decode_here)
    monkeypatch.setattr(parts, "_MEMBERS", OF_A_PART)

    def run(fault: tuple[int, BaseException] | None = None, batch_size: int = BATCH) -> int:
        encoder = Counting(home / "encoder.onnx", dict([fault]) if fault else None)
        embed_files(encoder, [*map(Path, SOURCES)], batch_size, Path("out.parquet"))  # type: ignore[arg-type]
        return encoder.num_batches

    return run


@pytest.mark.parametrize(
    "fault",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MemoryError()],
    ids=["Ctrl-C", "full disk", "full memory"],
)
def test_finished_parts_are_not_embedded_again_and_no_byte_changes(
    home: Path, embed: Callable[..., int], fault: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed() == BATCHES_OF_A_RUN
    whole = (home / "out.parquet").read_bytes()
    expected = [
        f"{source}/{path.name}" for source in SOURCES[:3] for path in sorted(Path("photos").glob("*.png"))
    ]
    expected += [*SOURCES[3:5], *(f"photos.zip/{path.name}" for path in sorted(Path("photos").glob("*.png")))]
    assert pd.read_parquet("out.parquet")["source"].tolist() == expected
    assert capsys.readouterr().err == ""
    (home / "out.parquet").unlink()
    with pytest.raises(StoppedError if isinstance(fault, KeyboardInterrupt) else type(fault)) as stopped:
        embed((11, fault))  # within the sixth part
    if isinstance(fault, KeyboardInterrupt):
        assert str(stopped.value).startswith("interrupted; the finished parts are kept in ")
    assert not (home / "out.parquet").exists()
    with pytest.raises((StoppedError, type(fault))):
        embed((5, fault))  # which comes two parts and a batch later
    shards = home / ".out.parquet.shards"
    assert len(list(shards.glob("0*.parquet"))) == 7
    (shards / "0000003.parquet").write_bytes((shards / "0000003.parquet").read_bytes()[:-20])
    capsys.readouterr()
    assert embed() == BATCHES_OF_A_RUN - 14 + 2
    assert capsys.readouterr().err == f"6 of 13 parts are finished already, in {shards}\n"
    assert (home / "out.parquet").read_bytes() == whole
    assert not shards.exists()


def test_a_disk_that_cannot_be_read_costs_no_finished_part(
    home: Path, embed: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        embed((11, KeyboardInterrupt()))

    def unreadable(_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr("pipeline.encoder.from_files.shards._reader", unreadable)
        embed()
    assert embed() == BATCHES_OF_A_RUN - 10


@pytest.mark.parametrize("what", ["encoder", "image", "archive", "batch size", "cores", "code", "decoder"])
def test_parts_of_anything_else_are_not_used(
    home: Path, embed: Callable[..., int], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        embed((11, KeyboardInterrupt()))
    if what == "encoder":
        write_encoder(home / "encoder.onnx", 12, 16, seed=1)
    elif what == "image":
        os.utime(home / "photos/00.png", (1, 1))
    elif what == "archive":
        os.utime(home / "photos.tar.gz", (1, 1))
    elif what == "cores":
        monkeypatch.setattr("os.cpu_count", lambda: 99)
    elif what == "code":
        monkeypatch.setattr("pipeline.encoder.from_files.shards.imported", lambda *_: {"pipeline/atomic.py"})
    elif what == "decoder":
        monkeypatch.setattr("pipeline.collection.known.version", lambda _: "99")
    batch_size = 8 if what == "batch size" else BATCH
    assert embed(batch_size=batch_size) == {BATCH: BATCHES_OF_A_RUN, 8: 13}[batch_size]
    undisturbed = (home / "out.parquet").read_bytes()
    embed(batch_size=batch_size)
    assert (home / "out.parquet").read_bytes() == undisturbed


def test_a_killed_command_goes_on_and_ends_in_the_bytes_of_one_that_was_not(home: Path) -> None:
    """kill -9 in the midst of a part, of the real command; Ctrl-C before any is finished keeps nothing."""
    arguments = [
        "embed",
        *SOURCES,
        "-o",
        "out.parquet",
        "--encoder",
        "encoder.onnx",
        "--batch-size",
        str(BATCH),
    ]

    def run(*ends: tuple[int, int]) -> tuple[int, int, str]:
        """Exit code, batches that were asked for, and what was said."""
        (home / "batches").write_text("")
        before = functools.partial(ended_at, home / "batches", dict(ends))
        done = run_lookalike(*arguments, cwd=home, check=False, before=before)
        return done.returncode, len((home / "batches").read_text()), done.stderr

    code, num_batches, said = run((1, signal.SIGINT))
    assert (code, num_batches) == (130, 1)
    assert said == "error: interrupted; what stood before is untouched, the same command starts again\n"
    assert not list(home.glob(".out*"))
    assert run()[:2] == (0, BATCHES_OF_A_RUN)
    whole = (home / "out.parquet").read_bytes()
    (home / "out.parquet").unlink()
    assert run((11, signal.SIGKILL))[:2] == (-9, 11)
    code, num_batches, said = run()
    assert (code, num_batches) == (0, BATCHES_OF_A_RUN - 10)
    assert said.startswith("5 of 13 parts are finished already, in ")
    assert said.count("10 none.jpg: not an image") == 4  # of the finished parts too
    assert (home / "out.parquet").read_bytes() == whole
    assert not list(home.glob(".out*"))


def ended_at(batches: Path, ends: dict[int, int]) -> None:
    """Before the command: small parts, a byte for each batch, and a signal in place of some."""
    parts._MEMBERS = OF_A_PART
    call = Encoder.__call__

    def counted(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if (number := ends.get(batches.stat().st_size)) is not None:
            os.kill(os.getpid(), number)
        with batches.open("a") as file:
            file.write(".")
        return call(encoder, images)

    Encoder.__call__ = counted  # type: ignore[method-assign]
