"""`lookalike index`: what a person types, what comes back, and whose folder it is."""

import errno
import hashlib
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import Encoder, ImageIndex
from pipeline.artifacts import Artifacts, sha256_of
from pipeline.encoder.from_files import embed_each as module
from pipeline.encoder.from_files.embed_each import Embedded, Passed, Skipped, embed_each
from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.search.changes.next_generation import next_generation
from pipeline.search.changes.owned import owner_of
from pipeline.search.changes.verifying import verify
from tests.conftest import ROOT
from tests.processes import fails, files_of_at_most, run, run_lookalike
from tests.tiny_index import COUNT, SIZE, build, bytes_of, pixels_of, write_photo

SCENES = ROOT / "pipeline/collection/sources/scenes.zip"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    build(folder)
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A place with an index folder in it."""
    shutil.copytree(made, tmp_path / "data/index")
    return tmp_path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs in two folders, one that is cut off, one that is no image, and one of them again."""
    folder = tmp_path_factory.mktemp("scenes") / "places"
    with zipfile.ZipFile(SCENES) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:6]
        for number, name in enumerate(names):
            path = folder / ("sea" if number % 2 else "wood") / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    (folder / "wood/cut.jpg").write_bytes((folder / "wood/0.jpg").read_bytes()[:300])
    (folder / "wood/text.jpg").write_text("hello")
    shutil.copy(folder / "wood/0.jpg", folder / "wood/again.jpg")
    return folder


def test_photographs_are_added_found_removed_and_compacted(home: Path, scenes: Path) -> None:
    with tarfile.open(home / "places.tar", "w") as archive:
        archive.add(scenes / "sea/1.jpg", "sea/1.jpg")
        archive.add(scenes / "sea/3.jpg", "sea/3.jpg")
    lone = shutil.copy(scenes / "sea/5.jpg", home / "lone photo.jpg")
    done = run_lookalike("index", "add", "places.tar", str(lone), str(scenes), "--class", "scene", cwd=home)
    assert done.stdout == f"data/index: 6 added (ids {COUNT} to {COUNT + 5}), 4 already there, 2 unreadable\n"
    lines = [line for line in done.stderr.splitlines() if ": " in line and "images/s" not in line]
    assert lines[0].startswith(f"{scenes}/wood/cut.jpg: damaged image")
    assert lines[1].startswith(f"{scenes}/wood/text.jpg: not an image")
    index = ImageIndex.open(home / "data/index")
    rows = index.rows(COUNT, 10)
    assert [row["source"] for row in rows] == [
        *("sea/1.jpg", "sea/3.jpg", "lone photo.jpg"),
        *("wood/0.jpg", "wood/2.jpg", "wood/4.jpg"),
    ]
    assert {(row["split"], row["class_name"]) for row in rows} == {("added", "scene")}
    # what was stored is what a search would make of the same file
    for row, path in zip(rows, ("sea/1", "sea/3", "sea/5", "wood/0", "wood/2", "wood/4"), strict=True):
        pixels = read_image(scenes / f"{path}.jpg", SIZE)
        expected = index.encoder(pixels[None])[0]
        np.testing.assert_allclose(index.embedding(row["id"]), expected, atol=1e-5)
    answer = run_lookalike("query", str(scenes / "wood/2.jpg"), "-k", "1", "--json", cwd=home).stdout
    assert json.loads(answer)[0]["neighbors"][0]["id"] == COUNT + 4

    assert (
        run_lookalike("index", "remove", f"{COUNT + 4}", "7-9", cwd=home).stdout == "data/index: 4 removed\n"
    )
    answer = run_lookalike("query", str(scenes / "wood/2.jpg"), "-k", "1", "--json", cwd=home).stdout
    assert json.loads(answer)[0]["neighbors"][0]["id"] != COUNT + 4
    described = json.loads(run_lookalike("index", "info", "--json", cwd=home).stdout)
    total = sum(path.stat().st_size for path in (home / "data/index").iterdir())
    index = ImageIndex.open(home / "data/index")
    assert described == {
        "generation": index.generation,
        "images": COUNT + 2,
        "base": COUNT,
        "segments": [{"name": "added-0001", "images": 6}],
        "removed": 4,
        "next_id": COUNT + 6,
        "factory": "Flat",
        "search_parameters": {},
        "recall_at_10": 1.0,
        "target_recall": 1.0,
        "dimension": 12,
        "encoder": {"name": "toy", "version": "0", "sha256": index.encoder.sha256},
        "thumbnails": {
            "size": 8,
            "bytes": sum(path.stat().st_size for path in (home / "data/index").glob("*.arrow")),
        },
        "bytes": total,
        "compact_pays": False,
    }
    assert "segments    1: 6\n" in run_lookalike("index", "info", cwd=home).stdout
    verified = run_lookalike("index", "verify", cwd=home).stdout
    assert verified == f"data/index: {COUNT + 2} images, every file as index.json says, recall@10 1.0000\n"
    assert run_lookalike("index", "compact", cwd=home).stdout == (
        f"data/index: {COUNT + 2} images in one index, of 2; 4 removed went out of its files; "
        "recall@10 1.0000\n"
    )
    assert run_lookalike("index", "compact", cwd=home).stdout == "data/index: nothing to do\n"


@pytest.mark.parametrize(("worth_telling", "unreadable_but_known"), [(4, Passed), (5, Skipped)])
def test_what_is_known_is_passed_over_and_of_many_images_not_decoded(
    made: Path,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    worth_telling: int,
    unreadable_but_known: type[Passed | Skipped],
) -> None:
    """Four files, of which the first cannot be decoded: whether that was tried is seen."""
    monkeypatch.setattr(module, "_WORTH_TELLING", worth_telling)
    encoder = Encoder.open(made / "encoder.onnx", "cpu")
    paths = [scenes / "wood" / name for name in ("text.jpg", "2.jpg", "0.jpg", "again.jpg")]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths[:2]]
    known = np.sort(np.array([*digests, b"\xff" * 32], dtype="S32"))
    *passed, embedded = embed_each(encoder, paths, 4, 64, "test", known)
    assert [type(each) for each in passed] == [unreadable_but_known, Passed, Passed]  # again.jpg is 0.jpg
    assert isinstance(embedded, Embedded)
    assert embedded.names == ["0.jpg"]
    (both,) = embed_each(encoder, paths[2:], 2, 64, "test")
    assert isinstance(both, Embedded)
    assert len(both.reads) == 2  # where it is not asked, what comes twice is embedded twice


def test_a_disk_that_takes_no_more_is_told_in_plain_words(home: Path) -> None:
    for number in range(2_000, 2_070):
        write_photo(home / "many", number)
    before = bytes_of(home / "data/index")
    said = fails(1, "lookalike", "index", "add", "many", cwd=home, before=files_of_at_most(4_096))
    assert "larger than a file may be here" in said
    assert bytes_of(home / "data/index") == before


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two of them: that of the index folder, and that of temporary files."""
    build(tmp_path / "index", count=8)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as Python's `write` and pyarrow's have no name

    def fails(*_: object) -> None:
        raise full

    with pytest.raises(OSError, match="No space") as told, next_generation(tmp_path / "index"):
        fails()
    assert told.value.filename == str(tmp_path / "index")
    monkeypatch.setattr(os, "posix_fallocate", fails)
    encoder = Encoder.open(tmp_path / "index/encoder.onnx", "cpu")
    with pytest.raises(OSError, match="No space") as told:
        next(embed_each(encoder, [write_photo(tmp_path, 1)], 1, 1, "add"))
    assert told.value.filename.endswith("/pixels.npy")


def test_what_is_wrong_with_a_command_is_one_line_and_changes_nothing(home: Path, scenes: Path) -> None:
    before = bytes_of(home / "data/index")
    for rule, *arguments in (
        ("'x' is no id: name numbers, as 7, or 7-12", "remove", "x"),
        ("'9-7' ends before it begins", "remove", "9-7"),
        ("there is no image 240: the ids go from 0 to 239", "remove", "0", "240"),
        ("nowhere: no such file or folder", "add", "nowhere"),
        ("no image of 1 can be read, the first is ", "add", str(scenes / "wood/text.jpg")),
        ("--class: '' is no name of a class", "add", str(scenes), "--class", ""),
        ("data/index/index.json: missing", "info", "--index", "elsewhere/data/index"),
    ):
        assert rule in fails(2, "lookalike", "index", *arguments, cwd=home), arguments
    assert bytes_of(home / "data/index") == before
    assert not (home / "elsewhere").exists()
    (home / "data/index/images.faiss").write_bytes(before["images.faiss"][:-1])
    done = run_lookalike("index", "verify", cwd=home, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "data/index: 1 wrong"


@pytest.mark.parametrize(
    ("file", "text", "owned"),
    [
        ("dvc.yaml", "stages: {index: {cmd: x, outs: [data/index: {persist: true}]}}", True),
        ("dvc.yaml", "stages: {index: {cmd: x, outs: [data]}}", True),
        ("dvc.yaml", "stages: {index: {cmd: x, wdir: data, outs: [index]}}", True),
        ("dvc.yaml", "stages: {each: {foreach: [1], do: {cmd: x, wdir: data, outs: ['index']}}}", True),
        ("dvc.yaml", "stages: {index: {cmd: x, deps: [data/index], outs: [data/inde, data/index/x]}}", False),
        ("dvc.yaml", "stages: [", False),
        ("dvc.lock", "stages: {index@1: {outs: [{path: data/index, md5: 0.dir}]}}", True),
        ("data/index.dvc", "outs: [{path: index, md5: 0.dir}]", True),
        ("all.dvc", "wdir: data\nouts: [{path: index}]", True),
        ("data/other.dvc", "outs: [{path: other}]", False),
    ],
)
def test_a_folder_is_dvcs_that_is_an_out_or_lies_in_one(
    tmp_path: Path, file: str, text: str, owned: bool
) -> None:
    folder = tmp_path / "data/index"
    folder.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert owner_of(folder) is None  # there is no DVC here
    (tmp_path / ".dvc").mkdir()
    assert owner_of(folder) == (tmp_path / file if owned else None)
    if file != "data/other.dvc" and "data]" not in text:
        assert owner_of(tmp_path / "data/copy") is None


def test_a_change_of_what_dvc_owns_is_forced_and_leaves_its_cache_as_it_is(home: Path) -> None:
    """With links of the cache's own files in the folder, which nothing may write into."""
    (home / ".dvc").mkdir()
    (home / ".dvc/config").write_text("[core]\n    no_scm = true\n[cache]\n    type = hardlink\n")
    run("dvc", "add", "--quiet", "data/index", cwd=home)
    cached = [path for path in (home / ".dvc/cache").rglob("*") if path.is_file()]
    hashes = {path: hashlib.md5(path.read_bytes()).hexdigest() for path in cached}
    shared = home / "data/index/images.faiss"
    assert shared.stat().st_nlink == 2
    photo = write_photo(home / "photos", 1000)
    before = bytes_of(home / "data/index")
    for arguments in (("add", str(photo)), ("remove", "3"), ("compact",)):
        line = fails(2, "lookalike", "index", *arguments, cwd=home)
        assert line == (
            "data/index: DVC owns it (index.dvc): the next 'dvc repro' drops this change: copy the folder to "
            "another name and change that, or say --force"
        )
        assert bytes_of(home / "data/index") == before
    for arguments in (("add", str(photo)), ("remove", "3"), ("compact",)):
        done = run_lookalike("index", *arguments, "--force", cwd=home)
        assert "data/index: DVC owns it (index.dvc): the next 'dvc repro' drops this change;" in done.stderr
        for path, md5 in hashes.items():
            assert hashlib.md5(path.read_bytes()).hexdigest() == md5, (arguments, path)
    assert verify(home / "data/index").faults == []
    shutil.copytree(home / "data/index", home / "data/mine")
    assert run_lookalike("index", "remove", "4", "--index", "data/mine", cwd=home).stderr == ""


def test_what_a_picture_shows_of_an_added_image_is_its_thumbnail(home: Path) -> None:
    data = Artifacts(home / "data")
    data.images.mkdir()
    np.save(data.images / "train.npy", np.stack([pixels_of(number) for number in range(COUNT)]))
    data.collection.write_text(json.dumps({"num_images": {"train": COUNT}}))
    data.manifest.write_bytes(b"manifest")
    card = home / "data/index/index.json"
    card.write_text(card.read_text().replace("0" * 64, sha256_of(data.manifest)))
    photo = write_photo(home / "photos", 1000)
    run_lookalike("index", "add", str(photo), cwd=home)
    run_lookalike("index", "remove", "3", cwd=home)
    picture = ImageIndex.open(home / "data/index").pictures()
    np.testing.assert_array_equal(picture(7), pixels_of(7))
    shown = picture(COUNT)
    assert shown.shape == (SIZE, SIZE, 3)
    assert abs(float(shown.mean()) - float(pixels_of(1000).mean())) < 10
    with pytest.raises(UserError, match="there is no image 3: it was removed"):
        picture(3)
    run_lookalike("query", os.fspath(photo), "-k", "3", "--gallery", "out.png", cwd=home)
    assert (home / "out.png").stat().st_size > 100
