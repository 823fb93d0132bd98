"""What stands under data/: whole or not at all, and errors that name the stage that mends them."""

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Stacked, create_array, read_array
from pipeline.artifacts import Artifacts, read_json, write_json, write_tsv
from pipeline.errors import UserError, existing


def test_a_full_disk_is_found_before_the_map_is_filled(tmp_path: Path) -> None:
    """A real limit of the system: a page that finds the disk full in a map kills the process (SIGBUS)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            create_array(tmp_path / "a.npy", np.uint8, (2_000_000,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG


def test_an_array_has_its_space_from_the_start(tmp_path: Path) -> None:
    array = create_array(tmp_path / "a.npy", np.float32, (1000, 100))
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= array.nbytes  # noqa: PTH116
    array[:] = 7
    del array
    assert (read_array(tmp_path / "a.npy", "embed") == 7).all()


def test_a_missing_output_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.npy: missing, stage 'embed' makes it: run 'dvc repro embed'"):
        existing(tmp_path / "a.npy", made_by="embed")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello"])
def test_a_damaged_array_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npy: not a whole array .* run 'dvc repro --force embed'"):
        read_array(path, made_by="embed")


def test_a_truncated_array_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.npy: not a whole array"):
        read_array(path, made_by="embed")


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_json_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.json: not (JSON|a JSON object).*run 'dvc repro --force index'"):
        read_json(path, made_by="index")


def test_a_number_that_json_does_not_know_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_tables_have_a_header_and_six_digits(tmp_path: Path) -> None:
    write_tsv(tmp_path / "h.tsv", [{"epoch": 0, "loss": 1 / 3}, {"epoch": 1, "loss": 1e-7}])
    assert (tmp_path / "h.tsv").read_text() == "epoch\tloss\n0\t0.333333\n1\t1e-07\n"


def test_splits_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = Artifacts(tmp_path)
    write_json(data.collection, {"num_images": {"unlabelled": 2, "train": 2}})
    assert data.splits() == ["train", "unlabelled"]


def test_without_images_the_splits_name_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run 'dvc repro fetch'"):
        Artifacts(tmp_path).splits()


def test_json_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1, 2]})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]


def test_stacked_arrays_are_read_as_one() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (count, 2, 3), dtype=np.uint8) for count in (5, 1, 7)]
    whole, rows = np.concatenate(parts), rng.permutation(13)
    stacked = Stacked(parts)
    assert len(stacked) == 13
    np.testing.assert_array_equal(stacked[rows], whole[rows])
    np.testing.assert_array_equal(Stacked(parts[:1])[rows[rows < 5]], whole[rows[rows < 5]])
