"""A server under which the index grows and is replaced: is every answer of exactly one generation?

    python -m benchmarks.serve.swaps
    python -m benchmarks.serve.swaps --adds 200 --swaps 5 --searches 10000

In a clone of this project with its outputs: `lookalike serve`, clients that ask for the neighbours of the
same images, 200 times `add` of an image, and five times `dvc repro index`, which puts the stage's own index
back. After each change the folder is opened anew and asked the same: what the server says of a generation
must be that.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serve.load import start
from pipeline import ImageIndex
from pipeline.search.changes.adding import add

K = 10
QUERIES = list(range(0, 400, 20))
Answer = list[list[int]]


def clone(folder: Path) -> Path:
    """This project with its outputs and DVC's cache, elsewhere."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
    shutil.copytree("data", folder / "data", dirs_exist_ok=True)
    if Path(".dvc/cache").exists():
        (folder / ".dvc/cache").symlink_to(Path(".dvc/cache").resolve())
    return folder


def expected_of(folder: Path) -> tuple[str, Answer]:
    """The generation that lies there, and the ids that it answers with."""
    index = ImageIndex.open(folder, "cpu")
    return index.generation, [[each.id for each in answer] for answer in index.answers(QUERIES, K)]


def ask(port: int) -> tuple[str, Answer]:
    """One search for each query; all must be of one generation, or it is asked again."""
    generation, found = "", []
    for query in QUERIES:
        url = f"http://127.0.0.1:{port}/v1/search?k={K}&id={query}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30) as response:
            said = json.load(response)
        if generation not in ("", said["generation"]):
            return ask(port)
        generation = said["generation"]
        found.append([each["id"] for each in said["answers"][0]["neighbors"]])
    return generation, found


class Clients:
    """What the server says while it goes on."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[str, Answer]] = []
        self.failures: list[Exception] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(port,)) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    @property
    def num_searches(self) -> int:
        return len(self.answers) * len(QUERIES)

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, port: int) -> None:
        while not self._done.is_set():
            try:
                self.answers.append(ask(port))
            except Exception as error:
                self.failures.append(error)


def change(project: Path, num_adds: int, num_swaps: int) -> Iterator[tuple[str, Answer]]:
    """Adds and swaps in turns; gives what each generation must say."""
    folder, photo = project / "data/index", project.parent / "photo.png"
    rng, added = np.random.default_rng(0), 0
    yield expected_of(folder)
    for swap in range(num_swaps):
        while added < (swap + 1) * num_adds // num_swaps:
            Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(photo)
            add(folder, [photo], device="cpu")
            added += 1
            yield expected_of(folder)
        subprocess.run(["dvc", "repro", "--quiet", "index"], cwd=project, check=True)
        yield expected_of(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adds", type=int, default=200)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--searches", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = clone(Path(scratch) / "project")
        process, port, _ = start(project / "data/index")
        clients = Clients(port)
        try:
            expected = dict(change(project, asked.adds, asked.swaps))
            while clients.num_searches < asked.searches and not clients.failures:
                time.sleep(0.1)
        finally:
            clients.stop()
            process.terminate()
            process.wait()
    seen = {generation for generation, _ in clients.answers}
    wrong = [generation for generation, found in clients.answers if expected.get(generation) != found]
    print(f"{clients.num_searches:,} searches during {asked.adds} adds and {asked.swaps} swaps by DVC")
    print(f"{len(expected)} generations, {len(seen)} of them seen")
    print(f"{len(clients.failures)} failed, {len(wrong)} rounds of another answer than their generation's")
    if wrong or clients.failures:
        sys.exit(f"wrong: {clients.failures[:1]} {wrong[:1]}")


if __name__ == "__main__":
    main()
