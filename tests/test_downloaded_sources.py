"""CIFAR-10 and STL-10 from small archives of the true layout, beside torchvision's own loaders."""

import hashlib
import io
import itertools
import os
import pickle
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, STL10

from pipeline.collection.sources.cifar10 import cifar10
from pipeline.collection.sources.collection import Collection, Pixels
from pipeline.collection.sources.stl10 import stl10
from pipeline.errors import MachineError, UserError
from pipeline.params.dataset import Dataset
from pipeline.params.reader import Params

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_UNLABELLED = 60


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@dataclass(frozen=True)
class Made:
    """A small archive, the class of torchvision that reads it, and the source under test."""

    theirs: Any
    ours: Callable[[Dataset], Collection]
    files: dict[str, bytes]
    archive: bytes

    @property
    def filename(self) -> str:
        return str(self.theirs.filename)

    @property
    def folder(self) -> str:
        return str(self.theirs.base_folder)

    def unpack(self, root: Path) -> None:
        (root / self.folder).mkdir(parents=True)
        for name, content in self.files.items():
            (root / self.folder / name).write_bytes(content)


def packed(folder: str, files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        head = tarfile.TarInfo(folder)
        head.type = tarfile.DIRTYPE
        head.mode = 0o755
        tar.addfile(head)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def pickled_as_in_2009(value: dict[str, Any]) -> bytes:
    """As Python 2 and its NumPy pickled: module numpy.core, a dtype's flags as integers."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=2)
    dtype = np.dtype(np.uint8)
    pickler.dispatch_table = {type(dtype): lambda _: (np.dtype, ("u1", 0, 1), dtype.__reduce__()[2])}
    pickler.dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def make_cifar10() -> Made:
    rng = np.random.default_rng(10)

    def batch(name: str, num_images: int) -> bytes:
        return pickled_as_in_2009(
            {
                "batch_label": name,
                "labels": rng.integers(10, size=num_images).tolist(),
                "data": rng.integers(256, size=(num_images, 3072), dtype=np.uint8),
                "filenames": [f"{name}_{row}.png" for row in range(num_images)],
            }
        )

    files = {f"data_batch_{number}": batch(f"batch {number} of 5", 4) for number in range(1, 6)}
    files["test_batch"] = batch("testing batch 1 of 1", 6)
    meta = {"num_cases_per_batch": 4, "label_names": CLASSES, "num_vis": 3072}
    files["batches.meta"] = pickled_as_in_2009(meta)
    files["readme.html"] = b"<meta>"
    return Made(CIFAR10, cifar10, files, packed(CIFAR10.base_folder, files))


def make_stl10() -> Made:
    rng = np.random.default_rng(11)
    files = {
        "train_X.bin": rng.bytes(12 * 3 * 96 * 96),
        "train_y.bin": rng.integers(1, 11, size=12, dtype=np.uint8).tobytes(),
        "test_X.bin": rng.bytes(7 * 3 * 96 * 96),
        "test_y.bin": rng.integers(1, 11, size=7, dtype=np.uint8).tobytes(),
        "unlabeled_X.bin": rng.bytes(NUM_UNLABELLED * 3 * 96 * 96),
        "class_names.txt": "".join(f"{name}\n" for name in CLASSES).encode(),
        "fold_indices.txt": b"0 1 2 3 \n" * 10,
    }
    return Made(STL10, stl10, files, packed(STL10.base_folder, files))


MADE = {"cifar10": make_cifar10(), "stl10": make_stl10()}


@pytest.fixture(params=sorted(MADE))
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Made:
    """An archive whose md5s are those that torchvision expects, for the time of the test."""
    return expected_by_torchvision(MADE[request.param], monkeypatch)


def expected_by_torchvision(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(made.theirs, "tgz_md5", md5(made.archive))
    for listed in ("train_list", "test_list"):
        pairs = [[name, md5(made.files[name])] for name, _ in getattr(made.theirs, listed)]
        monkeypatch.setattr(made.theirs, listed, pairs)
    if made.theirs is CIFAR10:
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(made.files["batches.meta"])})
    return made


class Mirror(ThreadingHTTPServer):
    """Serves a folder and remembers what was asked for."""

    daemon_threads = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(MirrorHandler, directory=str(folder)))
        self.folder = folder
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class MirrorHandler(SimpleHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def mirror(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A server that has the archive, which torchvision takes for the archive's home."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / made.filename).write_bytes(made.archive)
    monkeypatch.setenv("no_proxy", "*")
    with Mirror(folder) as server:
        monkeypatch.setattr(made.theirs, "url", f"{server.url}/{made.filename}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def dataset(params: Params, root: Path) -> Dataset:
    return params.dataset.model_copy(update={"root": str(root), "mirror": None})


def assert_same(collection: Collection, split: str, theirs: Any) -> None:
    """A split's images, labels and order are those of a loader of torchvision."""
    found = [
        (collection.entries[row], content)
        for row, content in collection.contents()
        if collection.entries[row].split == split
    ]
    assert len(found) == len(theirs) > 0
    for row, ((entry, content), (image, label)) in enumerate(zip(found, theirs, strict=True)):
        assert isinstance(content, Pixels)
        pixels = np.asarray(image)
        assert content.values.dtype == np.uint8
        assert content.values.flags.c_contiguous
        np.testing.assert_array_equal(content.values, pixels)
        assert (content.height, content.width) == pixels.shape[:2]
        assert content.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert entry.label == label
        assert entry.source.endswith(f"/{split}/{row}")


def assert_whole(made: Made, collection: Collection, root: Path) -> None:
    for name, content in made.files.items():
        assert (root / made.folder / name).read_bytes() == content
    assert list(collection.class_names) == CLASSES
    assert [row for row, _ in collection.contents()] == list(range(len(collection.entries)))
    assert not list(root.glob("*.partial")) + list(root.glob(".*"))


def test_cifar10_is_torchvisions(dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected_by_torchvision(MADE["cifar10"], monkeypatch).unpack(root)
    collection = cifar10(dataset)
    assert_same(collection, "train", CIFAR10(root, train=True))
    assert_same(collection, "test", CIFAR10(root, train=False))
    assert list(collection.class_names) == CIFAR10(root).classes
    assert [entry.split for entry in collection.entries] == ["train"] * 20 + ["test"] * 6
    assert collection.entries[3].source == "cifar10/train/3"


def test_stl10_is_torchvisions(dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected_by_torchvision(MADE["stl10"], monkeypatch).unpack(root)
    collection = stl10(dataset)
    assert_same(collection, "train", STL10(root, split="train"))
    assert_same(collection, "test", STL10(root, split="test"))
    assert_same(collection, "unlabelled", STL10(root, split="unlabeled"))
    assert list(collection.class_names) == STL10(root).classes
    splits = ["train"] * 12 + ["test"] * 7 + ["unlabelled"] * NUM_UNLABELLED
    assert [entry.split for entry in collection.entries] == splits
    assert collection.entries[-1].source == f"stl10/unlabelled/{NUM_UNLABELLED - 1}"
    assert collection.entries[-1].label == -1


def test_stl10_reads_image_by_image(dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected_by_torchvision(MADE["stl10"], monkeypatch).unpack(root)
    collection = stl10(dataset)
    tracemalloc.start()
    try:
        for _ in collection.contents():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 3 * 96 * 96  # of 79 images


def test_contents_can_be_read_twice(made: Made, dataset: Dataset, root: Path) -> None:
    made.unpack(root)
    collection = made.ours(dataset)
    first, second = ([content.sha256 for _, content in collection.contents()] for _ in range(2))  # type: ignore[union-attr]
    assert first == second
    assert len(set(first)) == len(collection.entries)


def test_the_archive_is_downloaded_from_its_home_and_kept(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror
) -> None:
    assert_whole(made, made.ours(dataset), root)
    assert mirror.asked == [f"/{made.filename}"]
    assert (root / made.filename).read_bytes() == made.archive

    assert_whole(made, made.ours(dataset), root)
    assert len(mirror.asked) == 1


@pytest.mark.parametrize("ending", ["", "/", "/{filename}"])
def test_a_mirror_is_a_base_address_or_the_archives_own(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(made.theirs, "url", "http://127.0.0.1:9/never-asked")
    (mirror.folder / "files").mkdir()
    (mirror.folder / made.filename).rename(mirror.folder / "files" / made.filename)
    address = f"{mirror.url}/files" + ending.format(filename=made.filename)
    assert_whole(made, made.ours(dataset.model_copy(update={"mirror": address})), root)
    assert mirror.asked == [f"/files/{made.filename}"]


def test_an_archive_in_the_root_is_unpacked_and_nothing_asked_for(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror
) -> None:
    root.mkdir()
    (root / made.filename).write_bytes(made.archive)
    assert_whole(made, made.ours(dataset), root)
    assert mirror.asked == []
    assert (root / made.filename).exists()


def test_an_unpacked_folder_needs_neither_archive_nor_address(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror
) -> None:
    made.unpack(root)
    assert_whole(made, made.ours(dataset), root)
    assert mirror.asked == []
    assert [file.name for file in root.iterdir()] == [made.folder]


def test_a_half_unpacked_folder_is_made_whole_and_other_files_stay(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / made.folder).mkdir(parents=True)
    (root / made.filename).write_bytes(made.archive)
    half = made.theirs.train_list[0][0]
    (root / made.folder / half).write_bytes(made.files[half][:100])
    (root / made.folder / "notes.txt").write_text("mine")
    assert_whole(made, made.ours(dataset), root)
    assert mirror.asked == []
    assert (root / made.folder / "notes.txt").read_text() == "mine"
    assert "not whole, unpacked again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b""])
def test_a_lost_or_empty_list_of_classes_is_unpacked_again(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, content: bytes | None
) -> None:
    made.unpack(root)
    names = root / made.folder / ("batches.meta" if made.theirs is CIFAR10 else "class_names.txt")
    names.unlink()
    if content is not None:
        names.write_bytes(content)
    assert_whole(made, made.ours(dataset), root)


def test_an_interrupted_unpacking_leaves_no_folder_and_is_done_again(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack_file = tarfile.TarFile.makefile
    count = itertools.count(1)

    def interrupted(self: tarfile.TarFile, *args: Any) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt
        unpack_file(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tarfile.TarFile, "makefile", interrupted)
        made.ours(dataset)
    assert [file.name for file in root.iterdir()] == [made.filename]
    assert_whole(made, made.ours(dataset), root)
    assert len(mirror.asked) == 1


def test_what_a_killed_unpacking_left_is_cleared_away(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror
) -> None:
    left = root / f".{made.folder}.partial" / made.folder
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    assert_whole(made, made.ours(dataset), root)
    assert not (root / made.folder / "half").exists()


def test_a_damaged_archive_is_set_aside_and_downloaded_again(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    root.mkdir()
    (root / made.filename).write_bytes(made.archive[:5000])
    assert_whole(made, made.ours(dataset), root)
    assert (root / made.filename).read_bytes() == made.archive
    assert (root / f"{made.filename}.damaged").read_bytes() == made.archive[:5000]
    assert f"set aside as {made.filename}.damaged" in capsys.readouterr().err


def test_a_damaged_archive_that_cannot_be_had_again_is_one_line(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror
) -> None:
    root.mkdir()
    (root / made.filename).write_bytes(made.archive[:5000])
    (mirror.folder / made.filename).unlink()
    with pytest.raises(MachineError, match="404") as raised:
        made.ours(dataset)
    assert "\n" not in str(raised.value)
    assert not (root / made.folder).exists()


def test_files_that_come_out_damaged_are_not_used(
    made: Made, dataset: Dataset, root: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [[name, md5(b"another")] for name, _ in made.theirs.test_list]
    monkeypatch.setattr(made.theirs, "test_list", others)
    with pytest.raises(MachineError, match="its files came out damaged") as raised:
        made.ours(dataset)
    assert "\n" not in str(raised.value)
    assert not (root / made.folder).exists()


def test_the_root_may_begin_with_a_tilde(
    made: Made, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.unpack(root)
    monkeypatch.setenv("HOME", str(root.parent))
    collection = made.ours(dataset.model_copy(update={"root": f"~/{root.name}"}))
    assert_whole(made, collection, root)


@pytest.mark.parametrize("below", ["", "/downloads"])
def test_a_root_that_is_a_file_is_a_mistake(made: Made, dataset: Dataset, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"^params\.yaml: dataset\.root: ") as raised:
        made.ours(dataset.model_copy(update={"root": f"{tmp_path}/file{below}"}))
    assert "is no folder and cannot be made one" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_home_that_nobody_has_is_a_mistake(made: Made, dataset: Dataset) -> None:
    with pytest.raises(UserError, match="names no known home folder"):
        made.ours(dataset.model_copy(update={"root": "~no-such-person/downloads"}))


def test_a_root_that_may_not_be_written_to_is_a_mistake(
    made: Made, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    # root may write everywhere, so the system's answer is given here
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="may not be written to") as raised:
        made.ours(dataset)
    assert "\n" not in str(raised.value)


def test_a_mirror_that_is_no_address_is_a_mistake(made: Made, dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: dataset\.mirror: '/mnt/files/"):
        made.ours(dataset.model_copy(update={"mirror": "/mnt/files"}))
