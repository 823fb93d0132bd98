"""A collection to arrays: what is good gets in, in order; what is not gets a reason; memory stays flat."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.arrays import compact_array
from pipeline.artifacts import Artifacts
from pipeline.collection import decoding
from pipeline.collection.ingest import Ingested, check_ingested, ingest
from pipeline.collection.sources.collection import Collection, Entry
from pipeline.collection.sources.folder import folder
from pipeline.errors import MachineError, UserError
from pipeline.images import decode, read_image
from pipeline.params.dataset import Dataset
from pipeline.params.reader import Params
from tests.conftest import ROOT, change_params
from tests.fatal import Aborting, Fatal, FatalLater, Killed, KilledOnce, Sleeping
from tests.processes import obey_permissions, run_stage

SIZE = 16


def noise(seed: int, height: int = 20, width: int = 24) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(seed: int, suffix: str = ".png", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture_format = Image.registered_extensions()[suffix]
    image = Image.fromarray(noise(seed))
    (image.convert("P") if suffix == ".gif" else image).save(buffer, format=picture_format, **options)
    return buffer.getvalue()


def huge_png(side: int = 60_000) -> bytes:
    """A small file that says that it has 3,600 megapixels, and has: 1-bit black, well compressed."""
    row = bytes(1 + side // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = side.to_bytes(4) + side.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def long_gif(num_frames: int = 10_000) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (8, 8), number % 2) for number in range(num_frames)]
    for number, frame in enumerate(frames):
        frame.putpalette([0, 0, 0, 255, 255, number % 256])
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=10)
    return buffer.getvalue()


def own(params: Params, path: Path, **changes: object) -> Dataset:
    return params.dataset.model_copy(
        update={"name": "folder", "path": str(path), "image_size": SIZE} | changes
    )


def ingested(dataset: Dataset, out: Path) -> Ingested:
    out.mkdir()
    return ingest(folder(dataset), dataset, out)


def test_pixels_stand_in_the_order_of_the_manifest_and_are_those_that_a_query_sees(
    params: Params, tmp_path: Path
) -> None:
    suffixes = [".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff"]
    for number in range(300):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}{suffixes[number % 6]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, path.suffix))
    found = ingested(own(params, tmp_path / "photos"), tmp_path / "out")
    arrays = {split: np.load(tmp_path / "out" / f"{split}.npy") for split in ("train", "test")}
    assert {split: len(array) for split, array in arrays.items()} == {"train": 240, "test": 60}
    assert [image.entry.split for image in found.accepted] == ["train"] * 240 + ["test"] * 60
    pixels = np.concatenate([arrays["train"], arrays["test"]])
    for image, stored in zip(found.accepted, pixels, strict=True):
        np.testing.assert_array_equal(stored, read_image(tmp_path / "photos" / image.entry.source, SIZE))
        assert (image.width, image.height) == (24, 20)
    assert found.rejected == []


def test_images_that_stand_in_test_too_are_dropped_from_train_and_counted(
    params: Params, tmp_path: Path
) -> None:
    for split, seeds in (("train", [0, 1, 2, 3, 4, 4]), ("test", [1, 3, 9, 9])):
        for number, seed in enumerate(seeds):
            path = tmp_path / "photos" / split / "a" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(seed))
    dropped = ingested(own(params, tmp_path / "photos"), tmp_path / "dropped")
    assert dropped.num_train_test_duplicates == 2
    assert dropped.num_duplicates == 4  # of ten images, six are different
    sources = [image.entry.source for image in dropped.accepted if image.entry.split == "train"]
    assert sources == [f"train/a/{number}.png" for number in (0, 2, 4, 5)]
    array = np.load(tmp_path / "dropped/train.npy")
    for source, stored in zip(sources, array, strict=True):
        np.testing.assert_array_equal(stored, read_image(tmp_path / "photos" / source, SIZE))
    kept = ingested(own(params, tmp_path / "photos", train_test_duplicates="keep"), tmp_path / "kept")
    assert (len(kept.accepted), kept.num_train_test_duplicates) == (10, 2)


def test_duplicates_that_are_kept_do_not_count_twice_in_the_share_that_is_rejected(
    params: Params, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "a").mkdir(parents=True)
        for number in range(9):
            (tmp_path / "photos" / split / "a" / f"{number}.png").write_bytes(encoded(number))
    for name in ("x", "y"):
        (tmp_path / "photos/train/a" / f"{name}.png").write_bytes(b"")
    found = ingested(own(params, tmp_path / "photos", train_test_duplicates="keep"), tmp_path / "out")
    assert (len(found.accepted), len(found.rejected)) == (18, 2)
    check_ingested(found, 20, 0.1, tmp_path)
    with pytest.raises(
        UserError, match=r"^2 of 20 images cannot be read, 10\.0%, .* allows 9\.0% \(2 empty file\)"
    ):
        check_ingested(found, 20, 0.09, tmp_path)


def test_where_no_training_image_is_left_that_is_said(params: Params, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "a").mkdir(parents=True)
        (tmp_path / "photos" / split / "a" / "0.png").write_bytes(encoded(0))
    found = ingested(own(params, tmp_path / "photos"), tmp_path / "out")
    with pytest.raises(
        UserError, match="no training image is left of 2 images: 0 cannot be read, 1 stand in"
    ):
        check_ingested(found, 2, 1.0, tmp_path)
    nothing = ingest(Collection((), [], lambda: iter(())), own(params, tmp_path), tmp_path)
    with pytest.raises(UserError, match="no training image is left of 0 images"):
        check_ingested(nothing, 0, 0.01, tmp_path)


def of_files(contents: list[bytes]) -> Collection:
    entries = [Entry(f"{number}.png", "train", -1) for number in range(len(contents))]
    return Collection((), entries, lambda: iter(enumerate(contents)))


def test_an_image_that_crashes_its_decoder_is_named_and_all_others_are_read(
    params: Params, tmp_path: Path
) -> None:
    contents = [encoded(number) for number in range(300)]
    for number, fatal in ((5, Fatal), (6, Aborting), (299, Fatal)):
        contents[number] = fatal(contents[number])
    (tmp_path / "out").mkdir()
    found = ingest(of_files(contents), own(params, tmp_path), tmp_path / "out")
    assert [(rejected.source, rejected.reason) for rejected in found.rejected] == [
        ("5.png", "crashes its decoder (SIGSEGV)"),
        ("6.png", "crashes its decoder (SIGABRT)"),
        ("299.png", "crashes its decoder (SIGSEGV)"),
    ]
    pixels = np.load(tmp_path / "out/train.npy")
    assert len(pixels) == len(found.accepted) == 297
    for image, stored in zip(found.accepted, pixels, strict=True):
        number = int(image.entry.source.removesuffix(".png"))
        np.testing.assert_array_equal(stored, decode(encoded(number), SIZE).pixels)


def test_a_process_that_was_killed_costs_no_image_unless_the_same_one_kills_again(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "once"))
    (tmp_path / "out").mkdir()
    once = of_files([encoded(0), KilledOnce(encoded(1)), encoded(2)])
    assert len(ingest(once, own(params, tmp_path), tmp_path / "out").accepted) == 3
    (tmp_path / "again").mkdir()
    again = of_files([encoded(0), Killed(encoded(1)), encoded(2)])
    with pytest.raises(
        MachineError, match=r"^1\.png: the process that decodes it was killed, most likely for"
    ):
        ingest(again, own(params, tmp_path), tmp_path / "again")


def test_a_crash_while_the_next_chunk_is_written_does_not_hang(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers busy, 16 MB half-way into a pipe, and then nobody who reads it: python/cpython#94777."""
    monkeypatch.setattr(decoding, "_num_workers", lambda: 2)
    monkeypatch.setenv("SLEPT_ONCE", str(tmp_path / "once"))
    (tmp_path / "out").mkdir()
    full = b"x" * (16 << 20)  # a chunk ends with it
    contents = [Sleeping(encoded(0)), full, FatalLater(encoded(1)), full, encoded(2), full]
    found = ingest(of_files(contents), own(params, tmp_path), tmp_path / "out")
    assert [image.entry.source for image in found.accepted] == ["0.png", "4.png"]
    assert found.rejected[1].reason == "crashes its decoder (SIGSEGV)"


@pytest.mark.parametrize("seed", range(5))
def test_closing_up_an_array_keeps_the_rows_that_are_kept(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (rng.integers(1, 3000), 3, 2), dtype=np.uint8)
    kept = rng.random(len(array)) < rng.random()
    kept[0] = True
    np.save(tmp_path / "a.npy", array)
    compact_array(tmp_path / "a.npy", kept)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array[kept])
    np.save(tmp_path / "b.npy", array[kept])
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_an_array_of_which_nothing_is_kept_is_removed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    compact_array(tmp_path / "a.npy", np.zeros(3, dtype=np.bool_))
    assert not (tmp_path / "a.npy").exists()


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 files: 1,800 good ones, strange ones among them, and 200 that are damaged in eight ways."""
    top = tmp_path_factory.mktemp("damaged") / "photos"
    suffixes = [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"]
    for class_name in ("Cat", "cat", "dog"):
        (top / class_name).mkdir(parents=True)
    good = 0
    for number in range(1790):
        suffix = suffixes[number % 6]
        name = f"{('Cat', 'cat', 'dog')[number % 3]}/{number}{suffix}"
        (top / name).write_bytes(encoded(number, suffix))
        good += 1
    strange = {
        "long.gif": long_gif(),
        "UPPER.JPG": encoded(5000, ".jpg"),
        "png called.jpg": encoded(5001, ".png"),
        "new\nline.png": encoded(5002),
        "été.png": encoded(5003),
        "caf\udce9.png": encoded(5004),
    }
    for mode, name in (("CMYK", "cmyk.tif"), ("L", "grey.png"), ("RGBA", "alpha.png"), ("P", "palette.png")):
        buffer = io.BytesIO()
        Image.fromarray(noise(6000)).convert(mode).save(buffer, format=name[-3:].replace("tif", "tiff"))
        strange[name] = buffer.getvalue()
    for name, content in strange.items():
        with open(os.fsencode(top / "dog") + b"/" + os.fsencode(name), "wb") as file:  # noqa: PTH123
            file.write(content)
        good += 1
    assert good == 1800
    jpeg, png = encoded(1, ".jpg"), encoded(2, ".png")
    big = huge_png()
    assert len(big) < 600_000
    ways = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.png": b"hello, I am a text",
        "huge.png": big,
        "denied.jpg": jpeg,
        "broken.png": None,
        "pipe.png": None,
    }
    for number in range(200):
        kind = list(ways)[number % len(ways)]
        path = top / "cat" / f"{number:03d} {kind}"
        content = ways[kind]
        if content is not None:
            path.write_bytes(content)
        elif kind == "pipe.png":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere")
        if kind == "denied.jpg":
            path.chmod(0)
    return top


def fetch(folder_: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Stages scan and fetch as a user who is no administrator."""
    run_stage("scan", folder_, before=obey_permissions)
    return run_stage("fetch", folder_, before=obey_permissions, check=check)


@pytest.fixture
def project(tmp_path: Path, damaged_folder: Path) -> Path:
    """A folder with code and params, in which a stage runs."""
    for name in ("stages", "pipeline"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(
        tmp_path / "params.yaml",
        {"dataset.name": "folder", "dataset.path": str(damaged_folder), "dataset.image_size": SIZE},
    )
    return tmp_path


@pytest.mark.slow
def test_of_2000_files_the_1800_good_ones_get_in_and_200_get_a_reason(
    project: Path, damaged_folder: Path
) -> None:
    change_params(project / "params.yaml", {"dataset.max_rejected": 0.1})
    printed = fetch(project).stdout
    data = Artifacts(project / "data")
    manifest = data.read_manifest()
    assert len(manifest) == 1800
    assert sum(len(data.read_images(split)) for split in data.splits()) == 1800
    assert "Cat and cat are 2 classes: their names differ in case alone" in printed
    assert "1,800" not in printed or "200 could not be read" in printed
    with (data.images / "rejected.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    kinds = Counter((Path(row["source"]).name[4:], row["reason"].partition(" (")[0]) for row in rows)
    assert kinds == {
        ("cut.jpg", "damaged image"): 25,
        ("cut.png", "damaged image"): 25,
        ("empty.jpg", "empty file"): 25,
        ("text.png", "not an image of a format that is read"): 25,
        ("huge.png", "too many pixels, at most 100,000,000 are read"): 25,
        ("denied.jpg", "Permission denied"): 25,
        ("broken.png", "broken link"): 25,
        ("pipe.png", "not a regular file"): 25,
    }
    sources = set(manifest["source"])
    for name in ("long.gif", "UPPER.JPG", "png called.jpg", r"new\x0aline.png", "été.png", r"caf\xe9.png"):
        assert f"dog/{name}" in sources
    metrics = json.loads(data.metrics("fetch").read_text())
    assert metrics["num_rejected"] == 200
    pixels = {split: data.read_images(split) for split in data.splits()}
    stored = np.concatenate([pixels["train"], pixels["test"]])
    for row in manifest.sample(50, random_state=0).itertuples():
        if (damaged_folder / row.source).exists():
            np.testing.assert_array_equal(stored[row.id], read_image(damaged_folder / row.source, SIZE))


@pytest.mark.slow
def test_more_than_the_allowed_share_stops_with_a_summary_and_nothing_is_lost(project: Path) -> None:
    images = project / "data/images"
    images.mkdir(parents=True)
    (images / "train.npy").write_bytes(b"of the run before")
    done = fetch(project, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: 200 of 2,000 images cannot be read, 10.0%, where dataset.max_rejected allows"
    )
    assert "50 damaged image" in line
    assert "data/rejected.csv" in line
    assert len(pd.read_csv(project / "data/rejected.csv")) == 200
    assert (images / "train.npy").read_bytes() == b"of the run before"
    assert sorted(path.name for path in (project / "data").iterdir()) == [
        "code",
        "images",
        "rejected.csv",
        "source.json",
    ]


def fetch_under_way(project: Path) -> subprocess.Popen[str]:
    """Stage fetch in a process group of its own, as soon as its workers may be at it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.fetch"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(project.glob("data/.images.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    return process


def assert_nobody_is_left(group: int) -> None:
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)  # finds somebody
            time.sleep(0.05)


@pytest.mark.slow
def test_an_interrupted_fetch_leaves_what_stood_before_and_no_process(project: Path) -> None:
    images = project / "data/images"
    images.mkdir(parents=True)
    (images / "train.npy").write_bytes(b"of the run before")
    process = fetch_under_way(project)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors
    assert [path.name for path in (project / "data").iterdir()] == ["images"]
    assert (images / "train.npy").read_bytes() == b"of the run before"
    assert_nobody_is_left(process.pid)


@pytest.mark.slow
def test_a_killed_fetch_takes_its_workers_along(project: Path) -> None:
    """They would wait for work for ever, each with its memory."""
    process = fetch_under_way(project)
    process.kill()
    process.communicate(timeout=10)  # what they print to is closed when the last of them has ended
    assert_nobody_is_left(process.pid)
