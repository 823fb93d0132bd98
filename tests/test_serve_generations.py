"""A server whose index folder changes under it: every answer is of exactly one generation."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipeline import ImageIndex
from pipeline.atomic import atomic_folder
from pipeline.search.changes import adding
from pipeline.search.changes.removing import remove
from tests.processes import wait_until
from tests.serving import Served, serving
from tests.tiny_index import build, embed_here, write_photo

pytestmark = pytest.mark.slow

NUM_CHANGES = 40
K = 5
QUERIES = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)


def expected_of(folder: Path) -> tuple[str, list[list[int]]]:
    """The generation that lies there, and the ids that it answers with."""
    index = ImageIndex.open(folder, "cpu")
    return index.generation, [[each.id for each in answer] for answer in index.answers_of(QUERIES, None, K)]


@dataclass
class Said:
    """What clients were answered: generation and ids."""

    answers: list[tuple[str, list[list[int]]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def ask_on(self, server: Served) -> None:
        while not self.done.is_set():
            answer = server.post(f"/v1/search?k={K}", json={"embeddings": QUERIES.tolist()})
            if answer.status_code != 200:
                self.failures.append(answer.text)
                continue
            found = answer.json()
            ids = [[each["id"] for each in of["neighbors"]] for of in found["answers"]]
            self.answers.append((found["generation"], ids))


def test_every_answer_is_of_one_generation_while_images_come_and_go_and_the_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "embed_each", embed_here)
    folder, other = tmp_path / "index", tmp_path / "other"
    build(folder)
    build(other, count=120)
    expected = dict([expected_of(folder)])
    said = Said()
    with serving(folder) as server:
        clients = [threading.Thread(target=said.ask_on, args=(server,)) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for number in range(NUM_CHANGES):
                if number % 10 == 9:  # as a stage replaces it
                    with atomic_folder(folder) as partial:
                        shutil.copytree(other, partial, dirs_exist_ok=True)
                elif number % 10 == 5:
                    remove(folder, [3 * number])
                else:
                    adding.add(folder, [write_photo(tmp_path / "photos", 1_000 + number)], device="cpu")
                expected |= dict([expected_of(folder)])
            last, _ = expected_of(folder)
            wait_until(lambda: bool(said.answers) and said.answers[-1][0] == last, timeout_s=5)
        finally:
            said.done.set()
            for client in clients:
                client.join()
        metrics = server.get("/metrics").text
    assert said.failures == []
    assert len(said.answers) > 100
    assert len({generation for generation, _ in said.answers}) >= 5
    for generation, ids in said.answers:
        assert ids == expected[generation]
    assert f'lookalike_index_generation{{generation="{last}"}} 1.0' in metrics


def not_a_table(folder: Path) -> None:
    (folder / "catalog.parquet").write_bytes(b"not a table")


def values_of_other_types(folder: Path) -> None:
    card = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {"index_sha256": None, "search_parameters": [1]}))


def test_a_thumbnail_is_of_the_collection_that_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(folder, count=8)
    with serving(folder) as server:
        manifest = server.get("/v1/collection").json()["manifest"]
        assert server.get("/v1/images/3", params={"manifest": manifest}).status_code == 200
        remove(folder, [2])  # the ids hold
        wait_until(lambda: server.get("/v1/collection").json()["count"] == 7, timeout_s=5)
        assert server.get("/v1/images/3", params={"manifest": manifest}).status_code == 200
        refused = server.get("/v1/images/3", params={"manifest": "f" * 12})
        assert refused.status_code == 404
        assert refused.json()["title"] == "another collection"


@pytest.mark.parametrize("damage", [not_a_table, values_of_other_types])
def test_a_damaged_folder_is_not_taken_and_the_next_whole_one_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder, other = tmp_path / "index", tmp_path / "other"
    build(folder)
    build(other, count=120)
    with serving(folder) as server:
        assert server.get("/v1/collection").json()["count"] == 240
        with atomic_folder(folder) as partial:
            shutil.copytree(other, partial, dirs_exist_ok=True)
            damage(partial)
        wait_until(lambda: any("not taken" in line for line in server.log), timeout_s=40)
        assert server.get("/v1/collection").json()["count"] == 240
        with atomic_folder(folder) as partial:
            shutil.copytree(other, partial, dirs_exist_ok=True)
        wait_until(lambda: server.get("/v1/collection").json()["count"] == 120, timeout_s=5)
