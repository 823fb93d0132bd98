"""What several test files share: the project's root, typed params, and one small run of the whole chain."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.params.reader import Params, load_params
from tests.processes import NUM_CORES, run, use_every_core
from tests.tiny_run import images, tiny  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from tests.serving import Served

ROOT = Path(__file__).resolve().parent.parent

# The default run, made small: every stage does its whole work on the real digits.
SMALL_RUN = {
    "pretrain.epochs": 1,
    "pretrain.backbone.width": 8,
    "pretrain.views.size": 16,
    "evaluate.linear.C": [0.01, 1.0],
    "evaluate.linear.max_iterations": 20,
    "evaluate.linear.few_label_seeds": [0, 1],
    "evaluate.retrieval.num_queries": 100,
    "report.map_images": 500,
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share a chain go to one process, so that it runs once."""
    for chain in ("small_chain", "chain"):
        if chain in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(chain))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, or two cores would end in one that waits for the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """As in a terminal: a suite that was started in the background would inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def params() -> Params:
    """The params.yaml of the project."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def changed_params(tmp_path: Path) -> Callable[..., Path]:
    """Writes the project's params.yaml with some keys changed; returns the file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "params.yaml"
        shutil.copy(ROOT / "params.yaml", path)
        change_params(path, changes)
        return path

    return write


def change_params(path: Path, changes: dict[str, Any]) -> None:
    """Sets dotted keys of a params.yaml; None takes a key out."""
    yaml = YAML()
    values = yaml.load(path.read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
    with path.open("w") as file:
        yaml.dump(values, file)


def clone_project(folder: Path) -> Path:
    """A clone of the project as it stands in the working tree, with no outputs and no cache."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in listed.splitlines():
        if (ROOT / name).exists():  # a file may be deleted and not yet committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *author, "commit", "--quiet", "--message", "clone", cwd=folder)
    return folder


def repro(clone: Path, *stages: str) -> None:
    """`dvc repro`, of some stages or all, with a thread a core, as a user's, also under pytest-xdist."""
    run("env", f"OMP_NUM_THREADS={NUM_CORES}", "dvc", "repro", *stages, cwd=clone)


@pytest.fixture
def every_core() -> Iterator[None]:
    """As many threads as there are cores: sums in threads are where the same run could give other bytes."""
    before = torch.get_num_threads()
    use_every_core()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` ran to its end with small params. Tests read it and leave it whole."""
    clone = clone_project(tmp_path_factory.mktemp("small_chain"))
    change_params(clone / "params.yaml", SMALL_RUN)
    repro(clone)
    return clone


@pytest.fixture(scope="module")
def served(small_chain: Path) -> "Iterator[Served]":
    """The small run's index, served."""
    # not above: the key of a run has all that its process imported, which is this file in some tests
    from tests.serving import serving

    with serving(small_chain / "data/index") as server:
        yield server


@pytest.fixture
def chain_copy(small_chain: Path, tmp_path: Path) -> Path:
    """The small run's outputs in a folder of their own, to be broken."""
    shutil.copytree(small_chain / "data", tmp_path / "data")
    shutil.copy(small_chain / "params.yaml", tmp_path / "params.yaml")
    return tmp_path
