"""A run is what it loaded: params or code that change under a stage are refused, never recorded as used."""

import functools
import os
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.provenance import loaded as module
from pipeline.provenance.loaded import Loaded
from tests.conftest import ROOT, change_params
from tests.processes import run, run_stage, use_every_core

PARAMS = "dataset: {name: mnist5k, seed: 0}\nindex: {seed: 0, recall: {target: 0.9}}\n"

# A key of each stage's own section, and another value of it.
OWN_KEYS = {
    "scan": ("dataset.seed", 0, 7),
    "fetch": ("dataset.seed", 0, 7),
    "pretrain": ("pretrain.monitor.k", 10, 9),
    "export": ("export.version", "1", "2"),
    "finetune": ("finetune.seed", 0, 7),
    "embed": ("embed.batch_size", 256, 100),
    "index": ("index.num_queries", 2000, 10),
    "evaluate": ("evaluate.linear.seed", 0, 7),
    "report": ("report.num_queries", 8, 9),
}


@pytest.mark.parametrize(
    ("edited", "what"),
    [
        (PARAMS.replace("0.9", "0.8"), "index.recall.target went from 0.9 to 0.8"),
        (PARAMS.replace("index: {seed: 0, ", "index: {"), "index.seed went from 0 to None"),
        (PARAMS.replace("index: {", "index: {k: 1, "), "index.k went from None to 1"),
        (PARAMS.replace("index", "indexes"), "index can no longer be read, it changed"),
        ("[", "index can no longer be read, it changed"),
    ],
)
def test_a_key_that_changed_is_named_with_both_values(tmp_path: Path, edited: str, what: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS)
    loaded = Loaded("index", "index", file)
    file.write_text(edited)
    with pytest.raises(UserError) as error:
        loaded.check()
    assert str(error.value) == (
        f"{file}: {what} while stage 'index' ran, so it wrote nothing: put it back and run 'dvc repro' "
        "(a finished training is kept), or run it with what stands there now"
    )
    file.write_text(PARAMS)
    loaded.check()


def test_another_section_and_a_comment_may_change(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS)
    loaded = Loaded("index", "index", file)
    file.write_text("# words\n" + PARAMS.replace("mnist5k", "folder"))
    loaded.check()


@pytest.mark.parametrize(
    ("name", "is_its_own"),
    [
        ("pipeline/search/building/index.py", True),
        ("stages/index.py", True),
        ("stages/embed.py", False),
        ("pipeline/errors.py", False),
        ("pipeline/params/embed.py", False),
    ],
)
def test_only_a_module_that_can_change_the_outputs_must_not_change(
    name: str, is_its_own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.embed
    import stages.index  # noqa: F401

    (tmp_path / "params.yaml").write_text(PARAMS)
    loaded = Loaded("index", "index", tmp_path / "params.yaml")
    files = module.loaded_code()
    edited = tmp_path / "edited.py"
    edited.write_bytes(files[name].read_bytes() + b"# edited")
    monkeypatch.setattr(module, "loaded_code", lambda: files | {name: edited})
    if is_its_own:
        with pytest.raises(UserError, match=f"{name}: changed while stage 'index' ran"):
            loaded.check()
    else:
        loaded.check()


def assert_refuses_an_edit(stage: str, project: Path) -> None:
    """Of params while the stage runs; what stood before stays."""
    key, value, other = OWN_KEYS[stage]
    before = contents(project / "data")
    # the line alone is what a stage that fails may print; pretrain's table goes before it
    done = run_stage(stage, project, check=False, before=functools.partial(edit_late, key, other))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"error: params.yaml: {key} went from {value!r} to {other!r} while stage '{stage}' ran"
    )
    assert contents(project / "data") == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(OWN_KEYS.keys() - {"pretrain"}))
def test_params_edited_while_a_stage_runs_are_refused_and_what_stood_before_stays(
    stage: str, chain_copy: Path
) -> None:
    assert_refuses_an_edit(stage, chain_copy)


@pytest.mark.slow
def test_a_training_refused_for_an_edit_ends_without_training_when_it_is_put_back(
    small_chain: Path, chain_copy: Path
) -> None:
    assert_refuses_an_edit("pretrain", chain_copy)
    change_params(chain_copy / "params.yaml", {"pretrain.monitor.k": 10})
    again = run_stage("pretrain", chain_copy, before=use_every_core)
    assert "had finished: nothing is left to train" in again.stdout
    for name in ("backbone.safetensors", "history.tsv"):
        path = Path("data/pretrain") / name
        assert (chain_copy / path).read_bytes() == (small_chain / path).read_bytes()


@pytest.mark.slow
def test_code_edited_while_a_stage_imports_it_is_refused(tmp_path: Path) -> None:
    """What a process has read before it hashes the code, it hashes as it is afterwards."""
    for room in ("stages", "pipeline", "models"):
        shutil.copytree(ROOT / room, tmp_path / room)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    program = (
        "import pathlib, runpy, time, stages.index\n"
        "time.sleep(0.1)\n"
        "pathlib.Path(EDITED).touch()\n"
        "runpy.run_module('stages.index', run_name='__main__')\n"
    )
    for edited, line in (
        (
            "pipeline/search/building/index.py",
            "error: pipeline/search/building/index.py: changed as stage 'index' began: run it",
        ),
        ("pipeline/errors.py", "error: data/embeddings/embeddings.json: missing"),
    ):
        text = program.replace("EDITED", repr(edited))
        done = run("python", "-W", "ignore", "-c", text, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(line)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def edit_late(key: str, value: object) -> None:
    """Before a stage: params.yaml is edited when the stage has loaded it, before it looks again."""
    use_every_core()
    # what it began with, its typed params, and the last look; pretrain asks first how many processes it is
    last = 4 if key.startswith("pretrain.") else 3
    looks = 0

    def edit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal looks
        if event == "open" and os.fspath(str(arguments[0])) == "params.yaml":
            looks += 1
            if looks == last:
                change_params(Path("params.yaml"), {key: value})

    sys.addaudithook(edit)
