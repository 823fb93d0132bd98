"""dvc.yaml against the code: a stage tracks its own params and every module that can change its outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.params.reader import Params
from pipeline.provenance import imports as module
from pipeline.provenance.code import WITHOUT_EFFECT, code_files, why_without_effect
from pipeline.provenance.imports import STAGES as CODE
from pipeline.provenance.imports import imported, stage_code, stage_sha256
from tests.conftest import ROOT
from tests.processes import run

STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


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


@pytest.mark.parametrize("stage", CODE)
def test_a_stage_depends_on_the_hash_of_its_code(stage: str) -> None:
    assert f"data/code/{stage}.json" in STAGES[stage]["deps"]
    assert STAGES[stage]["params"] == [CODE[stage]]
    assert not [dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")]


def test_only_what_runs_every_time_has_no_hash_of_its_code() -> None:
    assert {stage for stage in STAGES if STAGES[stage].get("always_changed")} == set(STAGES) - set(CODE)


_LOADED = """
import importlib, json, sys
from pathlib import Path
root, loaded = Path.cwd(), {}
for stage in sys.argv[1:]:
    importlib.import_module(f"stages.{stage}")
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    own = {
        name: Path(file).relative_to(root).as_posix()
        for name, file in files.items()
        if file and Path(file).is_relative_to(root) and ".venv" not in file
    }
    loaded[stage] = sorted(own.values())
    for name in own:  # the next stage finds the libraries, and nothing of the project
        del sys.modules[name]
print(json.dumps(loaded))
"""


def test_the_code_of_a_stage_is_at_least_what_its_process_loads() -> None:
    printed = json.loads(run("python", "-c", _LOADED, *CODE, cwd=ROOT).stdout)
    assert set(printed) == set(CODE)
    for stage, files in printed.items():
        loaded = {name for name in files if not name.endswith("__init__.py")}
        assert f"stages/{stage}.py" in loaded
        assert loaded <= imported(f"stages/{stage}.py", code_files()), stage
        counts = {name for name in loaded if why_without_effect(name, CODE[stage]) is None}
        assert counts <= set(stage_code(stage)), stage


def test_what_is_imported_within_a_function_counts_and_what_is_for_types_does_not() -> None:
    files = code_files()
    # sources/parquet.py reads tables within a function alone; artifacts.py has pandas for its types
    assert "models/published_weights.py" in imported("stages/pretrain.py", files)
    assert "pipeline/params/reader.py" not in imported("pipeline/params/pretrain_backbone.py", files)


def test_a_word_in_a_module_changes_the_hash_of_the_stages_that_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {stage: stage_sha256(stage) for stage in CODE}
    assert len(set(before.values())) == len(CODE)
    for name, changed in {
        "pipeline/errors.py": set(),
        "pipeline/search/building/tuning.py": {"index"},
        "models/simclr.py": {"pretrain"},
        "pipeline/evaluation/verdict.py": {"report"},  # which the others print, and the page says
        "pipeline/report/web/static/page.css": {"report"},
        "pipeline/images.py": {"fetch", "export", "finetune"},
    }.items():
        edited = tmp_path / Path(name).name
        edited.write_text((ROOT / name).read_text() + "# a word\n")
        files = code_files() | {name: edited}
        monkeypatch.setattr(module, "code_files", lambda files=files: files)
        after = {stage: stage_sha256(stage) for stage in CODE}
        assert {stage for stage in CODE if after[stage] != before[stage]} == changed, name


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
    """A docstring, and in `pipeline` the names of its door; so it may be no stage's dependency.

    And before anything imports onnxruntime, its telemetry is off, and of what is started Ctrl-C is answered
    before it has imported its libraries; neither changes an output.
    """
    files = [
        file for house in ("models", "pipeline", "stages") for file in (ROOT / house).rglob("__init__.py")
    ]
    assert len(files) > 10
    for file in files:
        body = ast.parse(file.read_text()).body
        if file == ROOT / "pipeline/__init__.py":
            assert [ast.unparse(node).split("(")[0].split()[0] for node in body[1:]] == [
                *("import", "from", "if", "os.environ.setdefault", "__all__", "def")
            ]
        elif file in (ROOT / "stages/__init__.py", ROOT / "pipeline/cli/__init__.py"):
            assert [ast.unparse(node) for node in body[1:]] == [
                *("from pipeline.errors import leave_on_ctrl_c", "leave_on_ctrl_c()")
            ]
        else:
            assert all(isinstance(node, ast.Expr) for node in body), file


@pytest.mark.parametrize("stage", CODE)
def test_a_stage_depends_on_its_own_section_of_the_params_and_on_no_other(stage: str) -> None:
    section = CODE[stage]
    typed = {name for name in stage_code(stage) if name.startswith("pipeline/params/")}
    parts = {f"pipeline/params/pretrain_{part}.py" for part in ("backbone", "views") if section == "pretrain"}
    assert typed == parts | {f"pipeline/params/{name}.py" for name in (section, "reader", "section")}
