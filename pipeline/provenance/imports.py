"""The code of a stage in one hash: all modules that it imports and that can change what it writes.

DVC does not follow Python's imports, and a path of site-packages must not get into dvc.lock. So stage `scan`,
which runs every time, writes the hash of each stage's code to a file in the project, which the stage depends
on: after an edit or an upgrade just those stages run again whose results may differ.
"""

import ast
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.provenance.code import READ_BY, code_files, why_without_effect

# Those that depend on the hash of their code, and the section of params.yaml that each reads: of the others
# it takes no value. Stages `scan` and `weights` run every time.
STAGES = {
    "fetch": "dataset",
    "pretrain": "pretrain",
    "export": "export",
    "finetune": "finetune",
    "embed": "embed",
    "index": "index",
    "evaluate": "evaluate",
    "report": "report",
}


def stage_sha256(stage: str) -> str:
    """The hash of names and contents of the modules that can change what a stage writes."""
    total = hashlib.sha256()
    for name, path in sorted(stage_code(stage).items()):
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def stage_code(stage: str) -> dict[str, Path]:
    """These modules, by their path in the project, like `pipeline/artifacts.py`."""
    files = code_files()
    found = imported(f"stages/{stage}.py", files)
    return {name: files[name] for name in found if why_without_effect(name, STAGES[stage]) is None}


def imported(module: str, files: Mapping[str, Path]) -> set[str]:
    """A module and what it imports or reads at any depth, also within functions, but not for types alone."""
    found, waiting = {module}, [module]
    while waiting:
        module = waiting.pop()
        found |= {name for name in files if name.startswith(READ_BY.get(module, ()))}
        for name in _imports(files[module]):
            for candidate in (f"{name}.py", f"{name}/__init__.py"):
                if candidate in files and candidate not in found:
                    found.add(candidate)
                    waiting.append(candidate)
    return found


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """What one file imports, each as the path that it would have in the project, without its suffix."""
    tree = ast.parse(path.read_bytes())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return frozenset(name.replace(".", "/") for name in names)
