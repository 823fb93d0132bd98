"""An images.faiss that was made to harm, and an index.json for it: ids in its lists are no rows of it."""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from pipeline import ImageIndex
from pipeline.artifacts import sha256_of
from pipeline.errors import DamagedError
from pipeline.search.changes.compacting import compact
from pipeline.search.changes.removing import remove
from pipeline.search.changes.verifying import verify
from pipeline.search.files.faiss_file import ids_are_rows, read_faiss, write_sealed
from pipeline.search.index_folder import IndexFolder
from tests.processes import fails, run_lookalike
from tests.serving import serving
from tests.tiny_index import COUNT, DIM, build, bytes_of, pixels_of, write_photo

WRONG = "images.faiss: holds ids that are no rows of it: run 'dvc repro --force index'"


def put_ids(folder: Path, *ids: int) -> None:
    """Writes them over the first of every list, and what index.json says of the file."""
    index = read_faiss(folder / "images.faiss", into_memory=True)
    inverted: Any = faiss.extract_index_ivf(index)
    for number in range(inverted.nlist):
        size = inverted.invlists.list_size(number)
        kinds: Any = faiss
        kinds.rev_swig_ptr(inverted.invlists.get_ids(number), size)[:] = np.resize(ids, size)
    write_with_card(folder, index)


def write_with_card(folder: Path, index: faiss.Index) -> None:
    """The index, and what index.json says of its file."""
    path = folder / "images.faiss"
    path.unlink()
    seal = write_sealed(index, path)
    card = json.loads((folder / "index.json").read_text())
    card |= {"index_sha256": sha256_of(path), "index_seal": seal}
    (folder / "index.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("factory", "foreign"),
    [
        ("IVF4,Flat", 2**62),
        ("IVF4,Flat", COUNT),
        ("IVF4,Flat", -7),
        ("IVF4,PQ4x4fs,RFlat", 2**62),  # where FAISS would read beyond its vectors
        ("PCA8,IVF4,SQ8", COUNT),
        ("IDMap,IVF4,Flat", 2**62),  # likewise beyond its map of ids
    ],
)
def test_a_search_says_that_the_file_is_damaged(tmp_path: Path, factory: str, foreign: int) -> None:
    folder = tmp_path / "index"
    build(folder, factory)
    assert ids_are_rows(read_faiss(folder / "images.faiss"))
    assert not verify(folder).faults
    put_ids(folder, foreign)
    with pytest.raises(DamagedError, match=WRONG):
        ImageIndex.open(folder, "cpu").answers(pixels_of(3)[None], 5)
    assert [fault.endswith(WRONG) for fault in verify(folder).faults] == [True]


def test_an_id_that_stands_twice_in_place_of_another_is_found_by_verify(tmp_path: Path) -> None:
    build(tmp_path / "index", "IVF4,Flat")
    put_ids(tmp_path / "index", 5)
    (fault,) = verify(tmp_path / "index").faults
    assert fault.endswith(WRONG)


def test_an_id_that_stands_a_second_time_is_found_by_verify(tmp_path: Path) -> None:
    """Beside all others, in an index that does not count it."""
    folder = tmp_path / "index"
    build(folder, "IVF4,Flat")
    index = read_faiss(folder / "images.faiss", into_memory=True)
    index.add_with_ids(np.eye(1, DIM, dtype=np.float32), np.array([5]))
    index.ntotal -= 1
    write_with_card(folder, index)
    (fault,) = verify(folder).faults
    assert fault.endswith(WRONG)


def test_who_asks_for_all_neighbours_hears_of_it_first(tmp_path: Path) -> None:
    """As stage `evaluate` does, whose numbers of 32 bits would make another id of it."""
    build(tmp_path / "index", "IVF4,Flat")
    folder = IndexFolder(tmp_path / "index")
    assert folder.read_index(folder.read_card(), every_id=True).ntotal == COUNT
    put_ids(folder.path, 2**62)
    with pytest.raises(DamagedError, match=WRONG):
        folder.read_index(folder.read_card(), every_id=True)


@pytest.mark.parametrize("ids", [(2**62,), (5,)], ids=["foreign", "twice"])
def test_what_is_damaged_is_not_compacted(tmp_path: Path, ids: tuple[int, ...]) -> None:
    folder = tmp_path / "index"
    build(folder, "IVF4,Flat")
    remove(folder, [3])
    put_ids(folder, *ids)
    before = bytes_of(folder)
    with pytest.raises(DamagedError, match=WRONG):
        compact(folder)
    assert bytes_of(folder) == before


def test_every_door_says_so_in_a_line_and_the_server_lives_on(tmp_path: Path) -> None:
    folder = tmp_path / "data/index"
    folder.parent.mkdir()
    build(folder, "IVF4,Flat")
    photo = write_photo(tmp_path, 3)
    put_ids(folder, 2**62)
    assert fails(2, "lookalike", "query", str(photo), cwd=tmp_path).endswith(WRONG)
    assert fails(2, "lookalike", "query", "--id", "3", cwd=tmp_path).endswith(WRONG)
    done = run_lookalike("index", "verify", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert WRONG in done.stdout + done.stderr
    with serving(folder) as server:  # whose stderr must hold no traceback
        for question in ({"files": {"image": photo.read_bytes()}}, {"params": {"id": 3}}):
            answer = server.post("/v1/search", **question)
            assert answer.status_code == 500
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["title"] == "damaged index"
            assert str(tmp_path) not in answer.text
        assert server.get("/v1/images").status_code == 200
        assert any(WRONG in line for line in server.log)
