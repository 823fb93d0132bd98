"""Writes that are whole or not at all, wherever the process that writes is killed."""

import fcntl
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import atomic
from pipeline.artifacts import read_json, write_json
from pipeline.atomic import atomic_file, atomic_folder, lock, recover, writer
from pipeline.errors import MachineError, UserError
from tests.processes import start, wait_until

# What a process does to the disk, as Python tells it to whoever listens (sys.addaudithook).
_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym")


def test_a_file_whose_writing_fails_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half of it")
        raise RuntimeError
    assert read_json(path, "fetch") == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_whose_writing_fails_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with atomic_folder(path) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "new").write_text("half of it")
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_holds_nothing_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for name in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "nested").mkdir()
            (folder / "nested" / name).write_text(name)
    assert [file.name for file in (path / "nested").iterdir()] == ["new"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "index"
    (tmp_path / ".index.0a1b2c3d.partial").mkdir()
    (tmp_path / ".index.0a1b2c3d.partial" / "stale").write_text("stale")
    with atomic_folder(path) as folder:
        (folder / "new").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(params=["one exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As this system does it, and as one does that has no exchange."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    return str(request.param)


def test_wherever_a_swap_is_killed_the_old_or_the_new_stands_whole_after_the_next_start(
    tmp_path: Path, swap: str
) -> None:
    kept = set()
    for step in range(1, 200):
        folder = tmp_path / str(step)
        write_generation(folder / "index", "old")
        if not killed_at(step, lambda path=folder / "index": write_generation(path, "new")):
            assert generation(folder / "index") == "new"
            assert [path.name for path in folder.iterdir()] == ["index"]
            break
        if swap == "one exchange":  # a reader needs no recovery
            assert generation(folder / "index") in ("old", "new")
        with lock(folder / "index"):  # the dead one's is free
            recover(folder / "index")
        kept.add(generation(folder / "index"))
        write_generation(folder / "index", "next")
        assert generation(folder / "index") == "next"
        assert [path.name for path in folder.iterdir()] == ["index"]
    else:
        pytest.fail("it never came to its end")
    assert kept == {"old", "new"}
    assert step > 10


def test_wherever_the_writing_of_a_file_is_killed_the_old_or_the_new_stands_whole(tmp_path: Path) -> None:
    kept = set()
    for step in range(1, 100):
        path = tmp_path / str(step) / "a.json"
        write_json(path, {"generation": "old"})
        if not killed_at(step, lambda path=path: write_json(path, {"generation": "new"})):
            break
        kept.add(read_json(path, "fetch")["generation"])
        write_json(path, {"generation": "next"})
        assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    assert kept == {"old", "new"}


def test_a_folder_that_is_checked_and_refused_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("params.yaml: changed")

    path = tmp_path / "index"
    write_generation(path, "old")
    with pytest.raises(UserError), atomic_folder(path, check=refuse) as folder:
        (folder / "a").write_text("new")
    assert generation(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_is_told_who_writes_and_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "index"
    write_generation(path, "old")
    process = start(_write_and_wait, path, tmp_path / "go")
    wait_until(lambda: writer(path) is not None)
    assert writer(path) == process.pid
    with (
        pytest.raises(MachineError, match=re.escape(f"{path}: process {process.pid} is writing it: wait")),
        atomic_folder(path),
    ):
        pass
    (tmp_path / "go").touch()
    process.join()
    assert process.exitcode == 0
    assert generation(path) == "new"
    assert writer(path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["go", "index"]


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "index"
    process = start(_write_and_wait, path, tmp_path / "never")
    wait_until(lambda: writer(path) is not None)
    process.kill()
    process.join()
    assert writer(path) is None
    write_generation(path, "next")
    assert generation(path) == "next"


def test_two_writers_of_a_file_do_not_take_each_others_partial(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_file(path) as first:
        with atomic_file(path) as second:
            assert first != second
            second.write_text("second")
        assert path.read_text() == "second"
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_that_another_writer_clears_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    flock, cleared = fcntl.flock, []

    def clear_first(file: int, how: int) -> None:
        if not cleared:
            cleared.extend(tmp_path.glob(".a.json.*.partial"))
            cleared[0].unlink()  # as `_clear_files` of a second writer does with what nobody has locked
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", clear_first)
    write_json(path, {"generation": "new"})
    assert len(cleared) == 1
    assert read_json(path, "fetch") == {"generation": "new"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_link_is_replaced_where_it_points_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "other disk/index"
    write_generation(elsewhere, "old")
    link = tmp_path / "index"
    link.symlink_to(elsewhere)
    with atomic_folder(link) as folder:
        assert writer(link) == os.getpid()
        (folder / "a").write_text("new")
        (folder / "nested").mkdir()
        (folder / "nested" / "b").write_text("new")
    assert link.is_symlink()
    assert generation(link) == generation(elsewhere) == "new"
    assert [path.name for path in elsewhere.parent.iterdir()] == ["index"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "other disk"]


def write_generation(path: Path, name: str) -> None:
    """A folder of two files that say the same word."""
    with atomic_folder(path) as folder:
        (folder / "a").write_text(name)
        (folder / "nested").mkdir()
        (folder / "nested" / "b").write_text(name)


def generation(path: Path) -> str:
    """The word that both files say."""
    word, again = (path / "a").read_text(), (path / "nested" / "b").read_text()
    assert word == again
    assert len(list(path.rglob("*"))) == 3
    return word


def killed_at(step: int, write: Callable[[], None]) -> bool:
    """Whether a process of its own, that writes, was killed; it is, before its so manyth step on the disk."""
    child = os.fork()
    if child == 0:
        _kill_before(step)
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _kill_before(step: int) -> None:
    left = step

    def count(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal left
        left -= event in _STEPS
        if left == 0:
            left = -1  # what follows is an event too
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _write_and_wait(path: Path, go: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "a").write_text("new")
        (folder / "nested").mkdir()
        (folder / "nested" / "b").write_text("new")
        wait_until(go.exists)
