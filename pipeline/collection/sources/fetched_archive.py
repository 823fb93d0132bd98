"""What the collections that torchvision knows share: an archive, found or downloaded, unpacked whole."""

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.sources.collection import Pixels
from pipeline.collection.sources.download import download, md5_of
from pipeline.errors import MachineError, UserError
from pipeline.params.dataset import Dataset


class TorchvisionArchive(Protocol):
    """What a dataset class of torchvision knows of its archive.

    Attributes:
        url: where it lies.
        filename: of the archive.
        tgz_md5: of the archive.
        base_folder: the folder in it.
        train_list: pairs of a file's name in that folder and its md5.
        test_list: likewise.
    """

    url: str
    filename: str
    tgz_md5: str
    base_folder: str
    train_list: list[list[str]]
    test_list: list[list[str]]


def extracted(archive: TorchvisionArchive, others: Mapping[str, str | None], params: Dataset) -> Path:
    """The archive's folder under `dataset.root`, every file of it whole.

    It is taken as it stands if its md5s are right; else it is unpacked from the archive that lies in
    `dataset.root`; else the archive is downloaded there first. The archive stays.

    Args:
        archive: a dataset class of torchvision.
        others: the files that stand in neither of its lists, by name: their md5, or None where it is not
            known.
        params: `root` and `mirror` are read.

    Returns:
        `dataset.root` / `base_folder`.

    Raises:
        UserError: `dataset.root` is no folder or may not be written to, or `dataset.mirror` is no address.
        MachineError: the archive cannot be downloaded, or not unpacked as it was made.
        OSError: the disk is full.
    """
    md5s = {**dict(archive.train_list + archive.test_list), **others}
    root = _root(params)
    folder = root / archive.base_folder
    if _is_whole(folder, md5s):
        return folder
    _make_writable(root, archive.filename)
    path = root / archive.filename
    if path.exists() and (found := md5_of(path)) != archive.tgz_md5:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        print(
            f"{path}: its md5 is {found}, expected {archive.tgz_md5}: set aside as {aside.name}",
            file=sys.stderr,
        )
    if not path.exists():
        url = _address(archive, params.mirror)
        print(f"downloading {url} to {root}")
        download(url, path, archive.tgz_md5)
    if folder.exists():
        print(f"{folder}: not whole, unpacked again", file=sys.stderr)
    _extract(path, folder, md5s)
    return folder


def pixels(image: NDArray[np.uint8]) -> Pixels:
    """An image as the archive holds it.

    Args:
        image: RGB, uint8 [H, W, 3], in any layout of memory.

    Returns:
        Values in C order, and their sha256.
    """
    values = np.ascontiguousarray(image)
    return Pixels(
        values=values,
        width=values.shape[1],
        height=values.shape[0],
        sha256=hashlib.sha256(values.tobytes()).hexdigest(),
    )


def _root(params: Dataset) -> Path:
    try:
        return Path(params.root).expanduser()
    except RuntimeError:
        raise UserError(
            f"params.yaml: dataset.root: {params.root!r} names no known home folder: write it in full"
        ) from None


def _make_writable(root: Path, filename: str) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"params.yaml: dataset.root: '{root}' is no folder and cannot be made one ({error.strerror}): "
            f"name a folder for {filename}"
        ) from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError(
            f"params.yaml: dataset.root: '{root}' may not be written to, and {filename} is to be unpacked "
            "there: name another folder"
        )


def _address(archive: TorchvisionArchive, mirror: str | None) -> str:
    if mirror is None:
        return archive.url
    base = mirror.rstrip("/")
    return base if base.endswith(f"/{archive.filename}") else f"{base}/{archive.filename}"


def _is_whole(folder: Path, md5s: Mapping[str, str | None]) -> bool:
    for name, md5 in md5s.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            return False
        if md5 is not None and md5_of(path) != md5:
            return False
    return True


def _extract(path: Path, folder: Path, md5s: Mapping[str, str | None]) -> None:
    """Unpacks beside the folder, and moves the files into it once all of them are whole."""
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    print(f"unpacking {path}")
    try:
        with tarfile.open(path) as tar:
            # Python 3.12 warns if no filter is chosen; the first of 3.11 have none to choose
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(staging)
        if not _is_whole(staging / folder.name, md5s):
            raise MachineError(
                f"{path}: right md5, but its files came out damaged: check the disk of {folder.parent}"
            )
        folder.mkdir(exist_ok=True)
        for file in (staging / folder.name).iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
