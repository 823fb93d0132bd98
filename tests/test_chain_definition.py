"""dvc.yaml against the code: a stage tracks its own params and every module that can change its outputs."""

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.params.reader import Params
from pipeline.provenance.code import WITHOUT_EFFECT, why_without_effect
from tests.conftest import ROOT

STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def imported_modules(file: Path) -> set[Path]:
    """The project's own files that a file imports, at whatever depth, those inside functions included."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        tree = ast.parse(waiting.pop().read_text())
        guarded = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if id(node) in guarded:
                continue
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                path = ROOT / name.replace(".", "/")
                for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                    if candidate.is_file() and candidate not in found:
                        found.add(candidate)
                        waiting.append(candidate)
    return found


def leaves(section: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all typed keys."""
    names: set[str] = set()
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            names.add(prefix + name)
    return names


def keys(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of all keys of a params.yaml."""
    names: set[str] = set()
    for name, value in values.items():
        names |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return names


def expected_deps(stage: str) -> set[str]:
    """The modules that a stage imports, and among them those that can change what it writes."""
    file = ROOT / "stages" / f"{stage}.py"
    imported = {path.relative_to(ROOT).as_posix() for path in imported_modules(file) | {file}}
    (section,) = STAGES[stage]["params"]
    return {path for path in imported if why_without_effect(path, section) is None}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_imported_module_that_can_change_what_the_stage_writes(stage: str) -> None:
    named = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert named == expected_deps(stage)


def test_every_key_of_params_yaml_is_typed_and_tracked_by_a_stage() -> None:
    written = keys(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))
    assert written == leaves(Params)
    tracked = [param for stage in STAGES.values() for param in stage["params"]]
    for key in written:
        assert any(key == param or key.startswith(f"{param}.") for param in tracked), key


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_the_section_that_it_tracks_and_no_other(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    sections = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "load_params()"
    }
    assert sections == set(STAGES[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_does(stage: str) -> None:
    assert len(STAGES[stage]["desc"]) > 20


def test_the_table_of_modules_without_effect_names_files_and_rooms_that_exist() -> None:
    for place, reason in WITHOUT_EFFECT.items():
        assert (ROOT / place).is_dir() if place.endswith("/") else (ROOT / place).is_file(), place
        assert len(reason) > 20, place


def test_an_init_names_things_and_does_nothing() -> None:
    """A docstring, and in `pipeline` the names of its door; so it may be no stage's dependency."""
    files = [
        file for house in ("models", "pipeline", "stages") for file in (ROOT / house).rglob("__init__.py")
    ]
    assert len(files) > 10
    for file in files:
        body = ast.parse(file.read_text()).body
        if file == ROOT / "pipeline/__init__.py":
            assert [ast.unparse(node).split("(")[0].split()[0] for node in body[1:]] == [
                *("from", "if", "__all__", "def")
            ]
        else:
            assert all(isinstance(node, ast.Expr) for node in body), file


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_section_of_the_params_and_on_no_other(stage: str) -> None:
    (section,) = STAGES[stage]["params"]
    typed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/params/")}
    parts = {f"pipeline/params/pretrain_{part}.py" for part in ("backbone", "views") if section == "pretrain"}
    assert typed == parts | {f"pipeline/params/{name}.py" for name in (section, "reader", "section")}
