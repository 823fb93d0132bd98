"""Every command and example of the README does what it says; every link leads somewhere."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import run

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]
RECIPE = "lookalike recipe"
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if not c.startswith(("make", RECIPE))}))
def test_a_command_of_the_readme_runs(small_chain: Path, command: str) -> None:
    run(*command.removeprefix(".venv/bin/").split(), cwd=small_chain)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith(RECIPE)}))
def test_a_recipe_of_the_readme_applies(tmp_path: Path, command: str) -> None:
    """To the default params: tests/test_collections.py runs the chain with one."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert run(*command.split(), cwd=tmp_path).stdout.endswith("next: dvc repro\n")


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make")}))
def test_a_make_target_of_the_readme_exists(command: str) -> None:
    """Not run: `make test` would run this very test, and tests/test_chain.py runs `make repro`'s chain."""
    run(*command.split(), "--dry-run", cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_readme_runs(small_chain: Path, example: str) -> None:
    run("python", "-W", "error", "-c", example, cwd=small_chain)


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) > 8
    assert len(EXAMPLES) > 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    for name, is_new in re.findall(
        r"`((?:pipeline|models|stages|tests|docs|benchmarks)/[\w/.]*)`(, new:)?", document.read_text()
    ):
        assert (ROOT / name).exists() != bool(is_new), name
