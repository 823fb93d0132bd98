"""An index folder that grows and shrinks answers as brute force over what is left, whatever was done."""

import dataclasses
import errno
import io
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.index.changes import made_up_manifest, write_encoder
from pipeline import ImageIndex
from pipeline.artifacts import Artifacts, sha256_of
from pipeline.atomic import lock
from pipeline.errors import MachineError, UserError
from pipeline.params.index import Index
from pipeline.search.building.index import make_index
from pipeline.search.changes import adding
from pipeline.search.changes.adding import Added
from pipeline.search.changes.compacting import compact
from pipeline.search.changes.describing import describe
from pipeline.search.changes.next_generation import next_generation
from pipeline.search.changes.removing import remove
from pipeline.search.changes.segments import num_absorbed
from pipeline.search.changes.verifying import verify
from pipeline.search.files import settling
from pipeline.search.files.card import segment_name
from pipeline.search.files.thumbnails import encode
from pipeline.search.from_arrays.folder import Given, build_folder
from pipeline.search.index_folder import IndexFolder
from tests.processes import start
from tests.tiny_index import COUNT, DIM, THUMBNAIL, Known, build, bytes_of, embed_here, pixels_of, write_photo


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded in this process; what a test damaged is not waited for."""
    monkeypatch.setattr(adding, "embed_each", embed_here)
    monkeypatch.setattr(settling, "_SETTLED_AFTER_S", 0.0)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Known]]:
    """An index folder of a kind, and its oracle; built once, to be copied."""
    made: dict[str, tuple[Path, Known]] = {}

    def of(factory: str) -> tuple[Path, Known]:
        if factory not in made:
            folder = tmp_path_factory.mktemp("built") / "index"
            made[factory] = folder, build(folder, factory)
        return made[factory]

    return of


@pytest.fixture
def folder(built: Callable[[str], tuple[Path, Known]], tmp_path: Path) -> Path:
    """A copy of the exact one."""
    return shutil.copytree(built("Flat")[0], tmp_path / "index")


def added(folder: Path, *numbers: int, class_name: str | None = None) -> Added:
    photos = folder.with_name("photos")
    return adding.add(folder, [write_photo(photos, number) for number in numbers], class_name, "cpu")


def assert_is_as_known(folder: Path, known: Known, rng: np.random.Generator) -> None:
    """Every door of an index against brute force."""
    index = ImageIndex.open(folder, "cpu", known.encoder)
    assert index.encoder is known.encoder  # which is not opened again
    assert len(index) == index.card.count == len(known.rows)
    ids = sorted(known.rows)
    assert index.rows(0, 10**6) == [known.rows[id_] for id_ in ids]
    assert (
        index.rows(3, 4, class_name="cat")
        == [known.rows[id_] for id_ in ids if known.rows[id_]["class_name"] == "cat"][3:7]
    )
    for counts, column in ((index.classes, "class_name"), (index.splits, "split")):
        words = [row[column] for row in known.rows.values() if row[column] is not None]
        assert counts == {word: words.count(word) for word in sorted(set(words))}
    queries = [rng.standard_normal(DIM).astype(np.float32) for _ in range(3)]
    queries = [query / np.linalg.norm(query) for query in queries]
    for filters in ({}, {"split": "added"}, {"class_name": "dog"}, {"split": "train", "class_name": "eel"}):
        if not set(filters.values()) <= {*index.classes, *index.splits}:
            continue
        k = int(rng.integers(1, len(index) + 1))
        answers = index.answers_of(np.stack(queries), None, k, **filters)
        for query, answer in zip(queries, answers, strict=True):
            expected = known.nearest(query, k, lambda row, f=filters: f.items() <= row.items())
            assert [each.id for each in answer] == [id_ for _, id_ in expected]
            np.testing.assert_allclose([each.score for each in answer], [s for s, _ in expected], atol=1e-5)
            assert [each.rank for each in answer] == list(range(1, len(answer) + 1))
            assert all(known.rows[each.id]["source"] == each.source for each in answer)
    for id_ in rng.choice(ids, 3).tolist():
        np.testing.assert_allclose(index.embedding(id_), known.vectors[id_], atol=1e-6)
        assert index.thumbnail(id_) == encode(pixels_of(known.numbers[id_]), THUMBNAIL)
        (answer,) = index.answers(id_, len(index))
        assert id_ not in [each.id for each in answer]  # its own is left out
        assert len(answer) == len(index) - 1


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])  # all four lists are read, for a recall of 1
def test_after_any_changes_every_answer_is_that_of_brute_force(
    built: Callable[[str], tuple[Path, Known]], tmp_path: Path, factory: str
) -> None:
    source, before = built(factory)
    folder = shutil.copytree(source, tmp_path / "index")
    known = Known(before.encoder, dict(before.vectors), dict(before.numbers), dict(before.rows))
    rng = np.random.default_rng(1)
    numbers, given = itertools.count(10_000), set(known.rows)
    for step in range(24):
        match rng.choice(["add", "add", "remove", "compact"], p=[0.3, 0.3, 0.3, 0.1]):
            case "add":
                new = [next(numbers) for _ in range(rng.integers(1, 5))]
                class_name = rng.choice([None, "cat", "new"])
                done = added(folder, *new, class_name=class_name)
                assert not given & set(done.ids)  # never given before
                given |= set(done.ids)
                for id_, number in zip(done.ids, new, strict=True):
                    known.put(id_, number, "added", class_name, f"{number}.png")
            case "remove":
                leaving = rng.choice(sorted(known.rows), rng.integers(1, 9), replace=False).tolist()
                assert remove(folder, leaving) == len(leaving)
                for id_ in leaving:
                    known.drop(id_)
            case "compact":
                compact(folder)
        if step % 3 == 2:
            assert_is_as_known(folder, known, rng)
            assert verify(folder).faults == []
    compact(folder)
    assert_is_as_known(folder, known, rng)
    assert {"added-0001.faiss", "removed.npy"}.isdisjoint(bytes_of(folder))
    assert verify(folder) == dataclasses.replace(verify(folder), faults=[], recall=1.0)


def test_each_segment_is_at_least_twice_the_next_and_little_is_written_twice() -> None:
    rng = np.random.default_rng(0)
    for sizes_of_adds in ([1] * 1000, rng.integers(1, 40, 500).tolist(), list(range(60, 0, -1))):
        sizes: list[int] = []
        written = 0
        for new in sizes_of_adds:
            absorbed = num_absorbed(sizes, new)
            sizes[len(sizes) - absorbed :] = [new + sum(sizes[len(sizes) - absorbed :])]
            written += sizes[-1]
            assert all(one >= 2 * other for one, other in itertools.pairwise(sizes))
        total = sum(sizes_of_adds)
        assert sum(sizes) == total
        assert len(sizes) <= np.log2(total) + 1
        assert written <= total * (np.log(total) / np.log(1.5) + 1)


def test_an_add_writes_its_own_segment_and_links_everything_else(folder: Path) -> None:
    added(folder, 1000, 1001, 1002, 1003)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    added(folder, 1004)
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    new = {"added-0002.faiss", "added-0002.parquet", "added-0002.arrow", "index.json"}
    assert {name for name in after if before.get(name, (0,))[0] != after[name]} == new
    added(folder, 1005)  # which takes the single one along
    assert [segment.count for segment in IndexFolder(folder).read_card().segments] == [4, 2]
    remove(folder, [3, 242])
    assert {
        path.name for path in folder.iterdir() if before.get(path.name, (0,))[0] == path.stat().st_ino
    } == {name for name in before if name != "index.json"}
    for name, (_, content) in before.items():
        assert name == "index.json" or (folder / name).read_bytes() == content


def test_an_id_is_not_given_again_after_the_last_was_removed_and_compacted(folder: Path) -> None:
    (id_,) = added(folder, 1000).ids
    assert id_ == COUNT
    remove(folder, [id_])
    compact(folder)
    assert added(folder, 1000).ids == range(COUNT + 1, COUNT + 2)  # the same file, as it is there no more
    with pytest.raises(UserError, match=f"there is no image {COUNT}: it was removed"):
        ImageIndex.open(folder).embedding(COUNT)
    with pytest.raises(UserError, match=rf"there is no image 900: the ids go from 0 to {COUNT + 1}$"):
        remove(folder, [5, 900])
    assert len(ImageIndex.open(folder)) == COUNT + 1  # where one is none, none is removed


def test_images_that_are_there_are_counted_and_a_folder_without_news_stays(folder: Path) -> None:
    done = added(folder, 1000, 1001, 1000)
    assert (done.ids, done.num_known) == (range(COUNT, COUNT + 2), 1)
    before = folder.stat().st_ino, bytes_of(folder)
    done = added(folder, 1001, 1000)
    assert (len(done.ids), done.num_known) == (0, 2)
    assert (folder.stat().st_ino, bytes_of(folder)) == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_an_image_that_was_removed_can_be_added_again(folder: Path) -> None:
    (id_,) = added(folder, 1000).ids
    remove(folder, [id_])
    done = added(folder, 1000)
    assert (list(done.ids), done.num_known) == ([id_ + 1], 0)
    assert added(folder, 1000).num_known == 1


def test_the_same_changes_give_the_same_bytes(
    built: Callable[[str], tuple[Path, Known]], tmp_path: Path
) -> None:
    folders = [shutil.copytree(built("IVF4,Flat")[0], tmp_path / name / "index") for name in ("a", "b")]
    for change in (
        lambda folder: added(folder, 1000, 1001),
        lambda folder: remove(folder, [7, COUNT]),
        lambda folder: added(folder, 1002, class_name="cat"),
        compact,
    ):
        for folder in folders:
            change(folder)
        assert bytes_of(folders[0]) == bytes_of(folders[1])
    text = b"".join(bytes_of(folders[0]).values())
    assert b"photos" not in text  # a source is the file's name, and no path of a machine
    assert os.fsencode(tmp_path) not in text


def test_who_has_it_open_is_answered_by_the_old_generation(folder: Path) -> None:
    old = ImageIndex.open(folder)
    query = old.embedding(17)
    before = old.answers(query, COUNT)
    added(folder, 1000)
    remove(folder, [17])
    compact(folder)
    assert old.answers(query, COUNT) == before
    assert old.rows(0, 2) == ImageIndex.open(folder).rows(0, 2)
    assert old.thumbnail(17) is not None
    assert old.generation != ImageIndex.open(folder).generation == sha256_of(folder / "index.json")[:12]


def test_links_of_a_cache_are_followed_and_what_they_lead_to_is_never_written(folder: Path) -> None:
    cache = folder.with_name("cache")
    folder.rename(cache)
    folder.mkdir()
    for path in cache.iterdir():
        path.chmod(0o444)
        (folder / path.name).symlink_to(f"../cache/{path.name}")
    before = bytes_of(cache)
    added(folder, 1000)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "images.faiss").samefile(cache / "images.faiss")
    remove(folder, [1])
    compact(folder)
    assert bytes_of(cache) == before
    assert verify(folder).faults == []


def test_where_no_link_can_be_made_files_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = shutil.copytree(folder, folder.with_name("linked"))
    added(linked, 1000)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), str(target))

    monkeypatch.setattr(os, "link", refuse)
    added(folder, 1000)
    assert bytes_of(folder) == bytes_of(linked)
    assert not (folder / "images.faiss").samefile(linked / "images.faiss")


def change_and_die(folder: Path, what: str, at: int) -> None:
    """In a process of its own: a change that is killed at its n-th step on the disk."""
    steps = itertools.count(1)

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            if next(steps) == at:
                os.kill(os.getpid(), 9)
            return call(*arguments, **options)

        return step

    adding.embed_each = embed_here  # type: ignore[assignment]
    for module, name in ((os, "link"), (os, "fsync"), (os, "rename"), (os, "unlink"), (os, "rmdir")):
        setattr(module, name, counted(getattr(module, name)))
    if what == "add":
        adding.add(folder, [folder.with_name("photo.png")], None, "cpu")
    else:
        compact(folder)


def test_a_change_that_is_killed_at_any_step_leaves_the_old_or_the_new_generation(folder: Path) -> None:
    write_photo(folder.parent, 1000).rename(folder.with_name("photo.png"))
    added(folder, 1001)
    remove(folder, [1])
    start_over = shutil.copytree(folder, folder.with_name("before"))
    counts = {"add": set[int](), "compact": set[int]()}
    for what in counts:
        for at in (*range(1, 60, 5), 10**6):
            shutil.rmtree(folder)
            shutil.copytree(start_over, folder)
            process = start(change_and_die, folder, what, at)
            process.join()
            counts[what].add(len(ImageIndex.open(folder)))
            assert verify(folder).faults == []
            if process.exitcode == 0:
                break
            added(folder, 1002)  # whoever comes next clears up
            assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
        assert process.exitcode == 0  # the last one was not killed
        assert at > 20  # and several were
    assert counts == {"add": {COUNT, COUNT + 1}, "compact": {COUNT}}


def test_a_change_opens_the_folder_to_nobody_else(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        path.chmod(0o700 if path.is_dir() else 0o640)
    added(folder, 1000)
    remove(folder, [3])
    compact(folder)
    added(folder, 1001)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o640"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_who_looks_at_a_folder_whose_swap_was_cut_short_puts_it_back(folder: Path) -> None:
    """Where a file system cannot exchange two folders, a kill may leave the old one under its other name."""
    for look in (verify, describe):
        folder.rename(folder.with_name(f".{folder.name}.previous"))
        look(folder)
        assert folder.is_dir()


def test_two_changes_at_once_are_one_and_a_refusal(folder: Path) -> None:
    with lock(folder), pytest.raises(MachineError, match=f"process {os.getpid()} is writing it"):
        remove(folder, [1])
    with next_generation(folder), pytest.raises(MachineError, match="is writing it"):
        compact(folder)
    assert len(ImageIndex.open(folder)) == COUNT


def test_ctrl_c_in_an_add_leaves_the_folder_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes_of(folder)

    def interrupted(*arguments: object) -> object:
        yield from itertools.islice(embed_here(*arguments), 1)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(adding, "embed_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        added(folder, 1000, 1001)
    assert bytes_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] in (["index", "photos"], ["photos", "index"])


@pytest.mark.parametrize(
    "factory", ["HNSW8", "SQ8", "IVF4,SQ8", "PCA8,IVF4,Flat", "IVF4,PQ4x4", "IVF4,SQ8,RFlat"]
)
def test_compacting_keeps_the_kind_of_index_and_what_it_finds(
    built: Callable[[str], tuple[Path, Known]], tmp_path: Path, factory: str
) -> None:
    folder = shutil.copytree(built(factory)[0], tmp_path / "index")
    before = ImageIndex.open(folder)
    added(folder, *range(1000, 1040))
    remove(folder, range(30))
    rows = ImageIndex.open(folder).rows(0, 1000)
    compacted = compact(folder)
    index = ImageIndex.open(folder)
    base = faiss.read_index(str(folder / "images.faiss"))
    kind = type(faiss.read_index(str(built(factory)[0] / "images.faiss")))
    assert (type(base), base.ntotal) == (kind, COUNT + 10)
    assert index.rows(0, 1000) == rows
    kept = [row["id"] for row in rows if row["id"] < COUNT]
    cosines = [float(index.embedding(id_) @ before.embedding(id_)) for id_ in kept]
    # of an inverted file of codes an image whose decoded vector lies nearer to another list moves there
    assert np.mean(np.array(cosines) > 0.9999) > 0.9
    assert min(cosines) > 0.8
    found = [
        [each.id for each in answer]
        for answer in index.answers_of(np.stack([index.embedding(id_) for id_ in kept]), None, 3)
    ]
    assert np.mean([id_ in answer for id_, answer in zip(kept, found, strict=True)]) > 0.85
    assert 0.3 < compacted.card.recall_at_10 <= 1
    assert compacted.card.recall_at_10 == index.card.recall_at_10
    if factory != "HNSW8":  # what codes decode to is found more easily than what they were made of
        assert compacted.card.recall_at_10 <= before.card.recall_at_10
    assert verify(folder).faults == []


def test_kinds_that_cannot_are_refused_in_a_line_and_stay_as_they_are(
    built: Callable[[str], tuple[Path, Known]], tmp_path: Path
) -> None:
    silent = shutil.copytree(built("IVF4,PQ4x4fs")[0], tmp_path / "silent")
    added(silent, 1000)
    before = bytes_of(silent)
    with pytest.raises(UserError, match="an index of this kind does not give its embeddings back"):
        compact(silent)
    assert bytes_of(silent) == before
    assert verify(silent).recall is None
    refined = shutil.copytree(built("PQ4x4fs,RFlat")[0], tmp_path / "refined")
    added(refined, 1000)
    with pytest.raises(UserError, match=r"cannot leave images out: choose another index\.factory"):
        remove(refined, [1])
    assert compact(refined).card.count == COUNT + 1


def test_a_folder_can_be_emptied_and_filled_again(folder: Path) -> None:
    remove(folder, range(COUNT))
    empty = ImageIndex.open(folder)
    assert (len(empty), empty.classes, empty.rows(0, 5)) == (0, {}, [])
    with pytest.raises(UserError, match="the index holds no images: 'lookalike index add' adds some"):
        empty.answers(np.ones(DIM), 1)
    compact(folder)
    assert verify(folder).faults == []
    with pytest.raises(UserError, match="there is no image 0: the index holds none"):
        remove(folder, [0])
    assert added(folder, 1000).ids == range(COUNT, COUNT + 1)
    assert [each.id for each in ImageIndex.open(folder).answers(np.ones(DIM), 1)[0]] == [COUNT]
    assert verify(folder).faults == []


def test_k_goes_to_the_live_images_and_a_score_cuts_off(folder: Path) -> None:
    remove(folder, [0, 1])
    index = ImageIndex.open(folder)
    query = index.embedding(2)
    (every,) = index.answers(query, COUNT - 2)
    assert len(every) == COUNT - 2
    with pytest.raises(UserError, match=f"choose k from 1 to {COUNT - 2}"):
        index.answers(query, COUNT - 1)
    (near,) = index.answers(query, COUNT - 2, min_score=every[9].score)
    assert near == every[:10]
    (others,) = index.answers_of(query[None], np.array([2]), 5)
    assert [each.id for each in others] == [each.id for each in every[1:6]]
    (same,) = index.answers_of(query[None], np.array([0]), 5)  # one that is no more leaves none out
    assert same == every[:5]
    assert index.search(2, 3, min_score=2.0).empty


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_who_asks_nothing_is_answered_nothing(tmp_path: Path, factory: str) -> None:
    build(tmp_path / "index", factory)
    assert ImageIndex.open(tmp_path / "index", "cpu").answers([], 5) == []


def test_many_threads_are_answered_as_one_is(
    built: Callable[[str], tuple[Path, Known]], tmp_path: Path
) -> None:
    folder = shutil.copytree(built("IVF4,Flat")[0], tmp_path / "index")
    added(folder, 1000, 1001)
    alone, shared = ImageIndex.open(folder), ImageIndex.open(folder)

    def ask(index: ImageIndex, number: int) -> tuple[object, ...]:
        return (
            index.answers(number, 5, class_name="cat"),
            index.embedding(COUNT + number % 2).tolist(),
            index.thumbnail(number),
            index.rows(number, 3, split="test"),
        )

    expected = [ask(alone, number) for number in range(40)]
    found: list[list[tuple[object, ...]]] = [[] for _ in range(8)]
    gate = threading.Barrier(8)

    def run(answers: list[tuple[object, ...]]) -> None:
        gate.wait()
        answers += [ask(shared, number) for number in range(40)]

    threads = [threading.Thread(target=run, args=(answers,)) for answers in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


def carded(**changes: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return write


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (damaged("images.faiss", lambda content: content[:-1] + b"\0"), r"images\.faiss: is .* names"),
        (
            damaged("thumbnails.arrow", lambda content: content.replace(b"JFIF", b"jfif")),
            r"thumbnails\.arrow",
        ),
        (damaged("added-0001.parquet", lambda content: content[:-9]), r"added-0001\.parquet: is .* names"),
        (damaged("removed.npy", lambda content: content + b"\0"), r"removed\.npy: is .* names"),
        (lambda folder: (folder / "added-0001.arrow").unlink(), r"added-0001\.arrow: missing"),
        (carded(next_id=200), "next_id is 200, and image 241 is there already"),
        (carded(search_parameters={"nprobe": 1}), r"recall@10 is 0\.\d+, .* says 1\.0000"),
    ],
)
def test_verify_says_what_is_wrong(
    built: Callable[[str], tuple[Path, Known]],
    tmp_path: Path,
    damage: Callable[[Path], None],
    fault: str,
) -> None:
    folder = shutil.copytree(built("IVF4,Flat")[0], tmp_path / "index")
    added(folder, 1000, 1001)
    remove(folder, [3])
    assert verify(folder).faults == []
    damage(folder)
    (found,) = verify(folder).faults
    assert re.search(fault, found), found
    assert "\n" not in found


def test_verify_asks_with_what_is_found_as_hardly_as_a_new_image_is(tmp_path: Path) -> None:
    """Noise in a thin graph: images find their own others far more easily than new ones do."""
    points = np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    params = Index(
        factory="HNSW12", memory_gib=8, target_recall=0.01, num_queries=400, seed=0, thumbnail_size=0
    )
    made = make_index([points], params)
    index, built_as = made.index, made.built
    folder = tmp_path / "index"
    folder.mkdir()
    write_encoder(tmp_path / "encoder.onnx", 32)
    IndexFolder(folder).write(index, built_as, tmp_path / "encoder.onnx", made_up_manifest(4000, 3), "0" * 64)
    opened = ImageIndex.open(folder)
    _, exact = faiss.knn(points[:200], points, 11, metric=faiss.METRIC_INNER_PRODUCT)
    found = opened.answers(list(range(200)), 10)
    ids = [{each.id for each in answer} for answer in found]
    own = np.mean([len(of_one & set(row[1:])) / 10 for of_one, row in zip(ids, exact.tolist(), strict=True)])
    verified = verify(folder)
    assert verified.faults == []
    assert verified.recall is not None
    of_new = opened.card.recall_at_10
    assert own > of_new + 0.15
    assert of_new - 0.05 < verified.recall < (own + of_new) / 2


def test_in_one_dimension_verify_has_no_direction_to_move_an_image_in(tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", np.where(np.arange(20) % 3 == 0, -1, 1).astype(np.float32)[:, None])
    params = Index(factory="Flat", memory_gib=8, target_recall=0.99, num_queries=2, seed=0, thumbnail_size=0)
    build_folder(Given([tmp_path / "line.npy"]), tmp_path / "index", params)
    verified = verify(tmp_path / "index")
    assert (verified.faults, verified.recall) == ([], 1.0)


def test_thumbnails_of_another_generation_and_names_that_climb_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "index"
    build(other, count=COUNT - 1)
    shutil.copy(other / "thumbnails.arrow", folder)
    with pytest.raises(UserError, match=r"thumbnails\.arrow: is of catalog .* not of one generation"):
        ImageIndex.open(folder)
    segment = {"name": "../../x", "count": 1} | dict.fromkeys(
        ("index_sha256", "index_seal", "catalog_sha256", "thumbnails_sha256"), "0"
    )
    carded(segments=[segment])(folder)
    with pytest.raises(UserError, match=r"index\.json: not of this version of Lookalike"):
        adding.add(folder, [write_photo(tmp_path, 1000)])


def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged() -> None:
    wide = np.zeros((30, 60, 3), dtype=np.uint8)
    for size, expected in ((20, (20, 10)), (60, (60, 30)), (500, (60, 30))):
        jpeg = encode(wide, size)
        image = Image.open(io.BytesIO(jpeg))
        assert (image.format, image.size) == ("JPEG", expected)


def test_stages_that_compare_the_embeddings_refuse_a_folder_that_was_changed(
    folder: Path, tmp_path: Path
) -> None:
    data = Artifacts(tmp_path)
    data.encoder.parent.mkdir()
    data.images.mkdir()
    shutil.copy(folder / "encoder.onnx", data.encoder)
    pd.DataFrame({"id": range(COUNT)}).to_parquet(data.manifest)
    carded(manifest_sha256=sha256_of(data.manifest))(folder)
    IndexFolder(folder).check_made_of(IndexFolder(folder).read_card(), data)
    for change in (lambda: added(folder, 1000), lambda: compact(folder)):
        change()
        with pytest.raises(UserError, match="images were added or removed since stage 'index' made it"):
            IndexFolder(folder).check_made_of(IndexFolder(folder).read_card(), data)


def test_segments_are_numbered_without_an_end() -> None:
    assert [segment_name(number) for number in (1, 9999, 10_000)] == [
        "added-0001",
        "added-9999",
        "added-10000",
    ]
