"""A folder and the archives made of it are one collection; archives are read in place, never followed out."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.collection.sources.collection import Collection, Content, Span, Unreadable
from pipeline.collection.sources.folder import folder
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset
from pipeline.params.reader import Params


def picture(seed: int, picture_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=picture_format)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of eight pictures, and what else lies in people's folders."""
    for number in range(16):
        path = tmp_path / "photos" / ("cat" if number < 8 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    (tmp_path / "photos/cat/.DS_Store").write_bytes(b"x")
    (tmp_path / "photos/cat/._0.png").write_bytes(b"x")
    (tmp_path / "photos/notes.txt").write_text("hello")
    return tmp_path / "photos"


def dataset(params: Params, path: Path) -> Dataset:
    return params.dataset.model_copy(update={"name": "folder", "path": str(path)})


def read(content: Content) -> bytes | str:
    if isinstance(content, Unreadable):
        return content.reason
    if isinstance(content, Span):
        with content.path.open("rb") as file:
            file.seek(content.offset)
            return file.read(content.length)
    assert isinstance(content, bytes)
    return content


def listed(collection: Collection) -> list[tuple[str, str, int, bytes | str]]:
    contents = {number: read(content) for number, content in collection.contents()}
    assert sorted(contents) == list(range(len(collection.entries)))
    return [
        (entry.source, entry.split, entry.label, contents[number])
        for number, entry in enumerate(collection.entries)
    ]


def pack(photos: Path, archive: Path) -> Path:
    names = sorted((path for path in photos.rglob("*") if path.is_file()), reverse=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed_zip:
            for path in names:
                packed_zip.write(path, f"./{path.relative_to(photos)}")
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as packed:
            for path in names:
                packed.add(path, f"./{path.relative_to(photos)}")
    return archive


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip", "A.ZIP"])
def test_a_folder_and_the_archives_made_of_it_are_one_collection(
    params: Params, photos: Path, tmp_path: Path, name: str
) -> None:
    archive = pack(photos, tmp_path / name.lower())
    archive = archive.rename(tmp_path / name)
    of_folder, of_archive = (folder(dataset(params, path)) for path in (photos, archive))
    assert of_archive.class_names == of_folder.class_names == ("cat", "dog")
    assert listed(of_archive) == listed(of_folder)
    assert len(of_folder.entries) == 16
    assert {entry.source for entry in of_folder.entries} >= {"cat/0.png", "dog/15.png"}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_members_that_climb_out_or_are_links_are_refused(
    params: Params, photos: Path, tmp_path: Path, kind: str
) -> None:
    archive = pack(photos, tmp_path / f"a.{kind}")
    evil = ["../up.png", "/absolute.png", "cat/../../up.png", r"..\windows.png", r"C:\windows.png"]
    whole = tmp_path / f"evil.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "a") as packed_zip:
            for name in evil:
                packed_zip.writestr(name, picture(99))
            link = zipfile.ZipInfo("cat/link.png")
            link.external_attr = 0o120777 << 16
            packed_zip.writestr(link, "/etc/passwd")
        archive.rename(whole)
    else:
        with tarfile.open(whole, "w" if kind == "tar" else "w:gz") as packed, tarfile.open(archive) as before:
            for member in before:
                packed.addfile(member, before.extractfile(member))
            for name in evil:
                member = tarfile.TarInfo(name)
                member.size = len(picture(99))
                packed.addfile(member, io.BytesIO(picture(99)))
            for name, kind_of_link in (("cat/link.png", tarfile.SYMTYPE), ("cat/hard.png", tarfile.LNKTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind_of_link, "/etc/passwd"
                packed.addfile(member)
    found = listed(folder(dataset(params, whole)))
    refused = {source: content for source, _, _, content in found if isinstance(content, str)}
    assert len(refused) == len(evil) + (1 if kind == "zip" else 2)
    assert set(refused.values()) == {
        "its name climbs out of the archive: refused",
        "a link in an archive: not followed",
    }
    # what is refused changes nothing for the others
    assert [row for row in found if not isinstance(row[3], str)] == listed(folder(dataset(params, photos)))


def test_an_encrypted_or_damaged_member_is_a_reason_and_the_others_go_on(
    params: Params, photos: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(4):
            packed.writestr(f"{number}.png", picture(number))
    content = bytearray(archive.read_bytes())
    content[content.index(b"2.png") + 60] ^= 0xFF  # in the pixels of the third
    directory = content.index(b"PK\x01\x02")
    content[directory + 8] |= 1  # the first says that it is encrypted
    archive.write_bytes(content)
    reasons = [row[3] for row in listed(folder(dataset(params, archive))) if isinstance(row[3], str)]
    assert reasons == ["damaged in the archive (Bad CRC-32 for file '2.png')", "encrypted"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_member_is_a_reason_whatever_packed_it(
    params: Params, tmp_path: Path, method: int
) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.writestr("0.png", picture(0))
        packed.writestr("1.png", picture(1))
    content = bytearray(archive.read_bytes())
    start = content.index(b"0.png") + len(b"0.png")
    content[start + 12 : start + 40] = bytes(28)
    archive.write_bytes(content)
    rows = {source: content for source, _, _, content in listed(folder(dataset(params, archive)))}
    assert isinstance(rows["0.png"], str)
    assert rows["0.png"].startswith("damaged in the archive (")
    assert rows["1.png"] == picture(1)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_archive_is_one_line(
    params: Params, photos: Path, tmp_path: Path, kind: str, damage: str
) -> None:
    archive = pack(photos, tmp_path / f"a.{kind}")
    whole = archive.read_bytes()
    archive.write_bytes({"cut": whole[: len(whole) // 2 + 7], "text": b"hello" * 300, "empty": b""}[damage])
    with pytest.raises(UserError, match=r"damaged or cut short|holds no image") as error:
        list(folder(dataset(params, archive)).contents())
    assert str(error.value).startswith(f"{archive}: ")
    assert "\n" not in str(error.value)


def test_a_zip_damaged_anywhere_is_one_line_or_reasons(params: Params, tmp_path: Path) -> None:
    """Names that are not ASCII: bytes of theirs that are no UTF-8 are damage too."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(8):
            packed.writestr(f"{'ab'[number % 2]}/é{number}.png", picture(number))
    whole, rng = archive.read_bytes(), np.random.default_rng(0)
    lines = []
    for number in range(400):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole)))
        bad = rng.integers(0, 256, 8 if number % 2 else 1, dtype=np.uint8).tobytes()
        damaged[place : place + len(bad)] = bad
        archive.write_bytes(damaged)
        try:
            list(folder(dataset(params, archive)).contents())
        except UserError as error:
            lines.append(str(error))
    assert len(lines) > 20
    assert all(line.startswith(f"{archive}: ") and "\n" not in line for line in lines)


def test_links_are_followed_but_never_in_circles(params: Params, photos: Path) -> None:
    (photos / "cat/loop").symlink_to(photos)
    (photos / "cat/again.png").symlink_to(photos / "dog/15.png")
    (photos / "cat/broken.png").symlink_to("nowhere.png")
    found = {row[0]: row[3] for row in listed(folder(dataset(params, photos)))}
    assert found["cat/again.png"] == picture(15)
    assert found["cat/broken.png"] == "broken link"
    assert len(found) == 18


def test_a_linked_class_folder_is_a_class(params: Params, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_bytes(picture(50))
    (photos / "bird").symlink_to(tmp_path / "elsewhere")
    assert folder(dataset(params, photos)).class_names == ("bird", "cat", "dog")


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz", ".zip"])
def test_raw_files_beside_their_jpegs_are_passed_over_and_counted(
    kind: str, params: Params, photos: Path, tmp_path: Path
) -> None:
    expected = listed(folder(dataset(params, photos)))
    for number in range(8):
        (photos / f"cat/{number}.CR2").write_bytes(b"what a sensor saw")
    (photos / "dog/8.dng").write_bytes(b"what a sensor saw")
    path = photos if kind == "folder" else pack(photos, tmp_path / f"photos{kind}")
    found = folder(dataset(params, path))
    assert listed(found) == expected
    assert found.remarks[-1] == "9 camera RAW files (.cr2 8, .dng 1) are passed over"


def test_a_folder_of_raw_files_alone_says_what_to_do(params: Params, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.nef").write_bytes(b"x")
    with pytest.raises(UserError, match=r"but 1 camera RAW files \(\.nef 1\): export them as JPEG: check"):
        folder(dataset(params, tmp_path / "raw"))


def test_a_pipe_is_not_waited_for(params: Params, photos: Path) -> None:
    os.mkfifo(photos / "cat/pipe.png")
    assert "not a regular file" in [row[3] for row in listed(folder(dataset(params, photos)))]


def test_a_name_that_is_not_utf8_is_an_image_like_any_other(params: Params, photos: Path) -> None:
    with open(os.fsencode(photos) + b"/cat/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(picture(70))
    found = {row[0]: row[3] for row in listed(folder(dataset(params, photos)))}
    assert found[r"cat/caf\xe9.png"] == picture(70)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("missing", None, "no such file or folder: check dataset.path"),
        ("a.rar", b"Rar!", "neither a folder nor a .tar, .tar.gz, .tgz or .zip"),
        ("empty", "folder", "holds no image"),
    ],
)
def test_what_is_no_collection_is_one_line(
    params: Params, tmp_path: Path, name: str, content: bytes | str | None, line: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(UserError, match=line) as error:
        folder(dataset(params, path))
    assert str(error.value).startswith(f"{path}: ")
