"""A stage `embed` that was stopped goes on where it was, and ends in the bytes of one that never was."""

import errno
import functools
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts
from pipeline.encoder import passes, shards
from pipeline.encoder.embed import embed_shards
from pipeline.encoder.runtime import Encoder
from pipeline.encoder.shards import Shards
from pipeline.errors import MachineError
from pipeline.params.embed import Embed
from pipeline.params.reader import Params
from tests.processes import run_stage, start_stage
from tests.tiny_embed import embeddings_of, write_project

EMBEDDED = Path(".lookalike/embedded")
SMALL = 200  # images of a shard at least: seven batches of 32
NUM_IMAGES = 50
ROWS = np.arange(NUM_IMAGES)[::-1].copy()
DIGESTS = np.random.default_rng(1).integers(0, 256, (2 * NUM_IMAGES, 32), dtype=np.uint8)


class Mean:
    """In place of an encoder: a row's mean and how often it was asked."""

    dim = 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        return images.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 2, 2, 3), dtype=np.uint8)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Of the rows backwards, whose ids are 50 more; eight rows a shard, in two batches of four."""
    monkeypatch.setattr(shards, "_ROWS_AT_LEAST", 7)
    monkeypatch.setattr(shards, "_IN_A_FOLDER", 3)
    return Shards.open(tmp_path / "shards", ROWS, ROWS + NUM_IMAGES, DIGESTS, batch_size=4)


def test_a_shard_says_what_it_is_of(opened: Shards, images: NDArray[np.uint8]) -> None:
    assert embed_shards(Mean(), images, opened, "test") == NUM_IMAGES  # type: ignore[arg-type]
    files = sorted(opened.folder.rglob("*.parquet"))
    assert len(files) == 7  # 6 of 8 and one of 2
    rows = pyarrow.parquet.read_table(files[1])
    assert rows.column_names == ["id", "sha256", "embedding"]
    for row, (id_, digest, embedding) in enumerate(zip(*rows.to_pydict().values(), strict=True), start=8):
        assert id_ == NUM_IMAGES + NUM_IMAGES - 1 - row
        assert digest == DIGESTS[id_].tobytes()
        np.testing.assert_allclose(embedding, images[NUM_IMAGES - 1 - row].mean(axis=(0, 1)), rtol=1e-6)


def test_what_is_there_is_not_embedded_again_and_batches_stay_the_same(
    opened: Shards, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    undisturbed = Mean()
    embed_shards(undisturbed, images, opened, "test")  # type: ignore[arg-type]
    assert undisturbed.batches == [4] * 12 + [2]
    opened.assemble(tmp_path / "whole.npy", 3)
    expected = np.stack([images[row].mean(axis=(0, 1)) for row in ROWS]).astype(np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), expected)
    for number in (1, 6):
        opened.path(number).unlink()
    again = Mean()
    assert embed_shards(again, images, opened, "test") == 10  # type: ignore[arg-type]
    assert again.batches == [4, 4, 2]
    opened.assemble(tmp_path / "again.npy", 3)
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_shard_is_embedded_again(
    damage: str, opened: Shards, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    embed_shards(Mean(), images, opened, "test")  # type: ignore[arg-type]
    opened.assemble(tmp_path / "whole.npy", 3)
    path = opened.path(2)
    content = bytearray(path.read_bytes())
    place = content.index(opened_embedding(path))
    content[place] ^= 1  # in the numbers themselves
    other = opened.path(3).read_bytes()
    path.write_bytes({"cut": content[:-9], "flipped": content, "empty": b"", "other": other}[damage])
    with pytest.raises(MachineError, match=r"00000/002\.parquet: damaged or removed since it was written"):
        opened.assemble(tmp_path / "again.npy", 3)
    again = Mean()
    assert embed_shards(again, images, opened, "test") == 8  # type: ignore[arg-type]
    opened.assemble(tmp_path / "again.npy", 3)
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_disk_that_cannot_be_read_costs_no_shard(
    opened: Shards, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_shards(Mean(), images, opened, "test")  # type: ignore[arg-type]

    def unreadable(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(pyarrow.parquet, "read_table", unreadable)
        opened.missing()
    assert opened.missing() == []


def opened_embedding(path: Path) -> bytes:
    """The bytes of the first embedding of a shard."""
    first = pyarrow.parquet.read_table(path)["embedding"][0].as_py()
    return np.array(first, np.float32).tobytes()


def test_the_name_of_the_scratch_is_of_all_that_an_embedding_depends_on(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Artifacts(project / "data")
    encoder, start = (Encoder.open(path, "cpu") for path in (data.encoder, data.start_encoder))

    def name(params: Embed = params.embed, networks: tuple[Encoder, Encoder] = (encoder, start)) -> str:
        return passes.scratch_name(params, data, *networks)

    def changed(**values: Any) -> str:
        return name(params.embed.model_copy(update=values))

    assert changed(ray_address="127.0.0.1:6379") == name()
    names = [name(), changed(batch_size=7), changed(engine="ray")]
    names += [name(networks=(start, start)), name(networks=(encoder, encoder))]
    for what, value in {"stage_sha256": lambda _: "ab", "os.cpu_count": lambda: 99}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.encoder.passes.{what}", value)
            names.append(name())
    for path in (data.manifest, data.augmented):
        before = path.read_bytes()
        path.write_bytes(before + b"x")
        names.append(name())
        path.write_bytes(before)
    data.collection.write_text(data.collection.read_text().replace("noise", "noises"))
    names.append(name())
    assert len(set(names)) == len(names) == 10


def test_the_scratch_of_another_state_is_removed_and_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, root = Artifacts(project / "data"), project / EMBEDDED
    for name in ("one", "two", "one"):
        with passes.scratch_of(root, name, data):
            (root / name / "shard").touch()
        assert [path.name for path in root.iterdir()] == [name]
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [str(root / "one"), str(root / "two")]
    manifest = pyarrow.parquet.read_table(data.manifest)["sha256"].to_pylist()
    assert [bytes(digest).hex() for digest in np.load(root / "one/digests.npy")] == manifest


@pytest.mark.slow
def test_a_killed_stage_goes_on_with_the_shards_that_are_there_and_changes_no_byte(project: Path) -> None:
    """kill -9 and then Ctrl-C, each in the midst of a shard; the third start goes to the end."""
    run_stage("embed", project, before=functools.partial(count_images, project / "all"))
    undisturbed = embeddings_of(project)
    assert set(undisturbed) == {
        *("train.npy", "test.npy", "augmented.npy", "embeddings.json"),
        *("start/train.npy", "start/test.npy", "start/augmented.npy"),
    }
    num_images = int((project / "all").read_text())
    said = [project / name for name in ("stdout", "stderr")]
    # seven batches a shard: five and three batches; then the other two of train (12) and three of the start
    for number, code, num_whole in ((signal.SIGKILL, -9, 5), (signal.SIGINT, 130, 10)):
        process = start_stage("embed", project, *said, before=functools.partial(ended_by, number, 38))
        process.join()
        assert process.exitcode == code, said[1].read_text()
        kept = list((project / EMBEDDED).rglob("*.parquet"))
        assert len(kept) == num_whole
        assert embeddings_of(project) == undisturbed  # of before
    assert said[1].read_text().splitlines()[-1] == (
        "error: interrupted; what was embedded is kept: the same command goes on from there"
    )
    num_kept = sum(pyarrow.parquet.read_metadata(path).num_rows for path in kept)
    shutil.rmtree(project / "data/embeddings")
    run_stage("embed", project, before=functools.partial(count_images, project / "rest"))
    assert int((project / "rest").read_text()) == num_images - num_kept
    assert embeddings_of(project) == undisturbed
    assert list((project / EMBEDDED).iterdir()) == []


def ended_by(number: int, after: int) -> None:
    """Before a stage: small shards, and the signal instead of the batch that comes after so many."""
    shards._ROWS_AT_LEAST = SMALL
    call, calls = Encoder.__call__, iter(range(10**6))

    def counted(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if next(calls) == after:
            os.kill(os.getpid(), number)
        return call(encoder, images)

    Encoder.__call__ = counted  # type: ignore[method-assign]


def count_images(into: Path) -> None:
    """Before a stage: small shards, and a file that says how many images the networks were given."""
    shards._ROWS_AT_LEAST = SMALL
    call, num_images = Encoder.__call__, 0

    def counted(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal num_images
        num_images += len(images)
        into.write_text(str(num_images))
        return call(encoder, images)

    Encoder.__call__ = counted  # type: ignore[method-assign]
