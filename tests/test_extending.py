"""docs/extending.md, followed line by line in a copy of the project: what it adds is checked, and runs."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL_RUN, change_params, clone_project
from tests.processes import run

PAGE = (ROOT / "docs/extending.md").read_text()
# a block follows the file's name, `new` where there is none yet, or another block of the same file
BLOCKS = re.findall(r"(?:`([\w./]+)`(, new)?:\n\n)?```(python|diff)\n(.*?)```", PAGE, re.DOTALL)
ADDED = {
    "dataset.name": "uci_digits",
    "dataset.image_size": 16,
    "pretrain.method": "barlow_twins",
    "pretrain.backbone.name": "conv_mixer",
    "pretrain.backbone.width": 8,
}
CHAIN = """
from stages import export, fetch, pretrain, weights
for stage in (fetch, weights, pretrain, export):
    stage.main()
"""


def follow(page: list[tuple[str, str, str, str]], project: Path) -> None:
    """Writes the new files, and replaces what stands there by what shall."""
    file = project
    for name, is_new, kind, block in page:
        file = project / name if name else file
        if kind == "python":
            assert is_new
            assert not file.exists()
            file.write_text(block)
            continue
        lines = block.splitlines()
        before, after = (
            "\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in ("-", "+")
        )
        text = file.read_text()
        assert text.count(before) == 1, (name, before)
        file.write_text(text.replace(before, after))


@pytest.mark.slow
def test_the_page_adds_a_method_a_source_and_a_backbone_that_run(tmp_path: Path) -> None:
    copy = clone_project(tmp_path / "copy")
    follow(BLOCKS, copy)
    run("ruff", "check", ".", cwd=copy)
    run("ruff", "format", "--check", ".", cwd=copy)
    # nothing was forgotten: the types of params.yaml and the documents name what was added
    places = ("tests/test_chain_definition.py", "tests/test_docs.py", "tests/test_params.py")
    run("python", "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *places, cwd=copy)

    change_params(copy / "params.yaml", SMALL_RUN | ADDED)
    run("python", "-c", CHAIN, cwd=copy)
    history = (copy / "data/pretrain/history.tsv").read_text().splitlines()
    assert len(history) == 3  # the header, the start and one epoch
    assert json.loads((copy / "data/metrics/fetch.json").read_text())["num_classes"] == 10
    assert json.loads((copy / "data/metrics/export.json").read_text())["min_cosine"] >= 0.99999
