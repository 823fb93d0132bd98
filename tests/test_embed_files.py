"""`lookalike embed`: any files become the embeddings that a search would give them."""

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline import Encoder
from pipeline.collection import decoding
from pipeline.collection.sources.members import Member
from pipeline.encoder.from_files import embed_files as local
from pipeline.encoder.from_files import table as tables
from pipeline.encoder.from_files.embed_files import embed_files
from pipeline.encoder.from_files.parts import Part
from pipeline.images import read_image
from tests.fatal import Fatal
from tests.processes import fails, files_of_at_most, run, run_lookalike

pytestmark = pytest.mark.slow

NUM_PHOTOS = 150  # more than two chunks of the decoder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two folders, two files that are none, a camera RAW and a text."""
    photos = tmp_path_factory.mktemp("home") / "photos"
    for number in range(NUM_PHOTOS):
        path = photos / ("a" if number % 2 else "b") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((44, 40 + number % 7)).save(path)
    (photos / "a/000 no image.jpg").write_bytes(b"hello")
    (photos / "b/099 cut.png").write_bytes((photos / "b/098.png").read_bytes()[:200])
    (photos / "b/1.nef").write_bytes(b"raw")
    (photos / "notes.txt").write_text("hello")
    return photos


@pytest.fixture
def encoder(small_chain: Path) -> Encoder:
    return Encoder.open(small_chain / "data/encoder/encoder.onnx")


def pack(photos: Path, archive: Path) -> Path:
    names = sorted(path for path in photos.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed_zip:
            for path in names:
                packed_zip.write(path, str(path.relative_to(photos)))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
            for path in names:
                packed.add(path, str(path.relative_to(photos)))
    return archive


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz", ".zip", "files"])
def test_the_table_has_each_image_with_the_embedding_that_a_search_gives_it(
    small_chain: Path, photos: Path, encoder: Encoder, tmp_path: Path, kind: str
) -> None:
    readable = sorted(path for path in photos.rglob("*.png") if " " not in path.name)
    paths = [pack(photos, tmp_path / f"photos{kind}")] if kind.startswith(".") else [photos]
    if kind == "files":
        paths = [*readable, *sorted(photos.rglob("* *"))]
    done = run_lookalike("embed", *map(str, paths), "-o", str(tmp_path / "out.parquet"), cwd=small_chain)
    assert (
        done.stdout
        == f"{tmp_path / 'out.parquet'}: {NUM_PHOTOS} embeddings of 32 dimensions; 2 could not be read\n"
    )
    reasons = [line for line in done.stderr.splitlines() if ": " in line]
    around = photos if kind in ("folder", "files") else paths[0]
    assert reasons[0].startswith(f"{around}/a/000 no image.jpg: not an image")
    assert reasons[1].startswith(f"{around}/b/099 cut.png: damaged image")
    assert len(reasons) == 2

    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == ["source", "sha256", "width", "height", "embedding"]
    assert table["source"].tolist() == [f"{around}/{path.relative_to(photos)}" for path in readable]
    expected = encoder(np.stack([read_image(path, encoder.image_size) for path in readable]))
    found = np.stack(table["embedding"].to_list())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)  # batches of other sizes round differently
    assert table["width"].tolist() == [44] * NUM_PHOTOS
    assert table["height"].tolist() == [40 + int(path.stem) % 7 for path in readable]
    card = json.loads(pyarrow.parquet.read_schema(tmp_path / "out.parquet").metadata[b"encoder"])
    assert card["sha256"] == encoder.sha256
    assert card["image_size"] == 32


def test_files_that_are_named_are_left_out_where_a_folders_would_be(
    photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """A pipe would be waited for until somebody writes to it, and a camera's TIFF taken for a photograph."""
    os.mkfifo(tmp_path / "pipe.jpg")
    raw = tmp_path / "raw.nef"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(raw, format="TIFF")
    odd = tmp_path / os.fsdecode(b"\xe9.parquet")
    paths = [tmp_path / "pipe.jpg", raw, photos / "a/001.png"]
    num_rows, skipped = embed_files(
        encoder, paths, 10**9, odd
    )  # no more rows are reserved than there are images
    assert num_rows == 1
    assert [image.reason for image in skipped] == ["not a regular file", "camera RAW: export it as JPEG"]
    with odd.open("rb") as file:
        assert pyarrow.parquet.read_table(file)["source"].to_pylist() == [f"{photos}/a/001.png"]


def test_files_that_come_meanwhile_are_left_out(
    photos: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos / "a", tmp_path / "a")
    listed = local.list_for_one_reader

    def list_before_others_come(*arguments: Any) -> list[Part]:
        parts = listed(*arguments)
        shutil.copy(photos / "a/001.png", tmp_path / "a/000.png")
        return parts

    monkeypatch.setattr(local, "list_for_one_reader", list_before_others_come)
    num_rows, skipped = embed_files(encoder, [tmp_path / "a"], 64, tmp_path / "out.parquet")
    assert (num_rows, len(skipped)) == (NUM_PHOTOS // 2, 1)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_rows_that_are_used_again_keep_no_image_of_before(
    photos: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """Chunks of three and two that wait: the scratch array is used some twelve times over."""
    monkeypatch.setattr(decoding, "_IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(decoding, "_CHUNKS_WAITING_PER_WORKER", 1)
    monkeypatch.setattr(tables, "_ROWS_A_GROUP", 40)
    num_rows, skipped = embed_files(encoder, [photos], batch_size, tmp_path / "out.parquet")
    assert (num_rows, len(skipped)) == (NUM_PHOTOS, 2)
    table = pd.read_parquet(tmp_path / "out.parquet")
    pixels = np.stack([read_image(Path(source), encoder.image_size) for source in table["source"]])
    np.testing.assert_allclose(np.stack(table["embedding"].to_list()), encoder(pixels), atol=1e-5)


def test_embedding_imports_no_training_stack(small_chain: Path, photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['lookalike', 'embed', sys.argv[1], '-o', sys.argv[2]]\n"
        "from pipeline.cli.main import main\n"
        "if __name__ == '__main__':\n"
        "    try:\n        main()\n    except SystemExit as left:\n        assert not left.code\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert not loaded & {'torch', 'torchvision', 'models', 'sklearn', 'faiss'}, loaded\n"
    )
    (tmp_path / "program.py").write_text(program)
    table = str(tmp_path / "out.parquet")
    run("python", str(tmp_path / "program.py"), str(photos / "a"), table, cwd=small_chain)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing.jpg", "-o", "out.parquet"], "missing.jpg: no such file or folder"),
        (["empty", "-o", "out.parquet"], "empty: holds no image that is read (camera RAW is not): name"),
        (["no.png", "-o", "out.parquet"], "no image of 1 can be read, the first is no.png: not an image"),
        (["cut.tar", "-o", "out.parquet"], "cut.tar: damaged or cut short"),
        (["no.png", "-o", "empty.parquet"], "--output: 'empty.parquet' is a folder: name a file"),
        (["no.png", "-o", "out.csv"], "--output: 'out.csv' does not end in .parquet"),
        (["no.png", "-o", "out.parquet", "--batch-size", "0"], "--batch-size: 0 is below 1"),
        (["no.png", "-o", "out.parquet", "--device", "gpu"], "--device: 'gpu' is none of auto, cpu, cuda"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_the_table_that_stood_there(
    chain_copy: Path, photos: Path, arguments: list[str], line: str
) -> None:
    (chain_copy / "empty").mkdir()
    (chain_copy / "empty.parquet").mkdir()
    (chain_copy / "no.png").write_bytes(b"hello")
    (chain_copy / "cut.tar").write_bytes(pack(photos, chain_copy / "whole.tar").read_bytes()[:9000])
    (chain_copy / "out.parquet").write_bytes(b"before")
    assert fails(2, "lookalike", "embed", *arguments, cwd=chain_copy).startswith(line)
    assert (chain_copy / "out.parquet").read_bytes() == b"before"
    assert not list(chain_copy.glob(".*partial"))


def test_a_full_disk_is_one_line_and_leaves_the_table_that_stood_there(
    chain_copy: Path, photos: Path
) -> None:
    (chain_copy / "out.parquet").write_bytes(b"before")
    line = fails(
        1,
        "lookalike",
        "embed",
        str(photos / "a"),
        "-o",
        "out.parquet",
        cwd=chain_copy,
        before=files_of_at_most(4096),
    )
    assert "larger than a file may be" in line
    assert (chain_copy / "out.parquet").read_bytes() == b"before"


def test_a_file_that_crashes_its_decoder_costs_itself_alone(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's other chunks are decoded one by one then, and keep their names."""

    read = local.read_parts

    def with_a_fatal_one(*arguments: Any) -> Iterator[tuple[int, Iterator[tuple[str, Member]]]]:
        for number, members in read(*arguments):
            yield number, map(fatal_where_it_should_be, members)

    def fatal_where_it_should_be(member: tuple[str, Member]) -> tuple[str, Member]:
        is_fatal = member[1].name == "b/010.png"
        return (member[0], Member(member[1].name, lambda: Fatal(b"x"))) if is_fatal else member

    monkeypatch.setattr(local, "read_parts", with_a_fatal_one)
    num_rows, skipped = embed_files(encoder, [photos], 64, tmp_path / "out.parquet")
    assert num_rows == NUM_PHOTOS - 1
    assert [image.reason for image in skipped if image.source.endswith("010.png")] == [
        "crashes its decoder (SIGSEGV)"
    ]
    table = pd.read_parquet(tmp_path / "out.parquet")
    pixels = np.stack([read_image(Path(source), encoder.image_size) for source in table["source"]])
    np.testing.assert_allclose(np.stack(table["embedding"].to_list()), encoder(pixels), atol=1e-5)
