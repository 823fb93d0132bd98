"""The fingerprint of a source changes when a file does, and only then."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.collection.sources import fingerprint as module
from pipeline.collection.sources.fingerprint import Fingerprint, fingerprint
from pipeline.errors import MachineError, UserError
from pipeline.params.dataset import Dataset
from pipeline.params.reader import Params


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a/1.png", "a/2.png", "b/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def take(params: Params, path: Path, name: str = "folder") -> Fingerprint:
    chosen = params.dataset.model_copy(update={"name": name, "path": str(path)})
    return fingerprint(chosen, path.parent / ".lookalike/hashes.sqlite")


def test_nothing_changed_is_the_same_and_reads_no_file_again(
    params: Params, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(params, photos)
    assert (first.num_files, first.num_bytes) == (3, 21)

    def no_reading(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(module, "sha256_of", no_reading)
    assert take(params, photos) == first


def test_a_file_that_comes_goes_changes_or_is_renamed_is_noticed(params: Params, photos: Path) -> None:
    seen = {take(params, photos).sha256}
    (photos / "a/new.png").write_bytes(b"new")
    seen.add(take(params, photos).sha256)
    (photos / "a/1.png").unlink()
    seen.add(take(params, photos).sha256)
    (photos / "a/2.png").write_bytes(b"A/2.png")  # of the same size
    seen.add(take(params, photos).sha256)
    (photos / "a/2.png").rename(photos / "b/2.png")
    seen.add(take(params, photos).sha256)
    (photos / "a/broken.png").symlink_to("nowhere")
    seen.add(take(params, photos).sha256)
    assert len(seen) == 6


def test_a_touched_file_another_kind_of_file_and_another_place_change_nothing(
    params: Params, photos: Path
) -> None:
    first = take(params, photos)
    os.utime(photos / "a/1.png", (1, 1))
    (photos / "a/notes.txt").write_text("hello")
    (photos / ".DS_Store").write_text("hello")
    assert take(params, photos) == first
    moved = photos.parent / "moved"
    photos.rename(moved)
    assert take(params, moved) == first


def test_names_and_contents_cannot_be_exchanged(params: Params, tmp_path: Path) -> None:
    prints = []
    for name, content in (("a.png", b"b"), ("ab.png", b"")):
        folder = tmp_path / name / "photos"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
        prints.append(take(params, folder).sha256)
    assert prints[0] != prints[1]


def test_an_archive_counts_as_its_bytes(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"one")
    first = take(params, path)
    path.write_bytes(b"two")
    assert take(params, path).sha256 != first.sha256


def test_parquet_looks_at_tables_alone(params: Params, photos: Path) -> None:
    first = take(params, photos, "parquet")
    assert first.num_files == 0
    (photos / "train.parquet").write_bytes(b"x")
    assert take(params, photos, "parquet").num_files == 1


def test_a_source_without_files_of_its_own_is_its_name(params: Params, tmp_path: Path) -> None:
    known = tmp_path / "hashes.sqlite"
    first, second = (
        fingerprint(Dataset(**(params.dataset.model_dump() | {"name": name})), known)
        for name in ("mnist5k", "cifar10")
    )
    assert first.num_files == 0
    assert first.sha256 != second.sha256
    assert not known.exists()


def test_a_path_that_is_not_there_is_one_line(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder: check dataset\.path"):
        take(params, tmp_path / "nowhere")


def test_a_home_that_nobody_has_is_one_line(params: Params, tmp_path: Path) -> None:
    chosen = params.dataset.model_copy(update={"name": "folder", "path": "~nosuchuser/x"})
    with pytest.raises(
        UserError, match=r"dataset\.path: '~nosuchuser/x' names no known home folder"
    ) as error:
        fingerprint(chosen, tmp_path / "hashes.sqlite")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["text", "cut", "pages", "another table"])
def test_damaged_hashes_are_taken_anew_and_said(
    params: Params, photos: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first = take(params, photos)
    known = photos.parent / ".lookalike/hashes.sqlite"
    whole = known.read_bytes()
    if damage == "another table":
        known.unlink()
        with closing(sqlite3.connect(known)) as database:
            database.execute("CREATE TABLE hashes (path BLOB)")
    else:
        broken = {"text": b"hello", "cut": whole[:5000], "pages": whole[:4096] + b"\xff" * 8192}
        known.write_bytes(broken[damage])
    assert take(params, photos) == first
    assert capsys.readouterr().err.startswith(f"{known}: damaged (")
    assert take(params, photos) == first
    assert capsys.readouterr().err == ""


def test_hashes_that_another_program_holds_are_one_line(params: Params, photos: Path) -> None:
    take(params, photos)
    known = photos.parent / ".lookalike/hashes.sqlite"
    with closing(sqlite3.connect(known)) as database, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WAIT_S", 0.01)
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MachineError, match=r"hashes\.sqlite: database is locked"):
            take(params, photos)
    assert take(params, photos).num_files == 3
