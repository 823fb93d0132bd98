"""`lookalike init`: a folder that is a person's own project, and runs."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import Artifacts
from tests.conftest import ROOT
from tests.processes import NUM_CORES, fails, run, run_lookalike

TEMPLATE = ROOT / "pipeline/project/template"


@pytest.mark.parametrize(("name", "here"), [("params.yaml", "params.yaml"), ("chain.yaml", "dvc.yaml")])
def test_a_project_begins_as_this_repository_does(name: str, here: str) -> None:
    assert (TEMPLATE / name).read_bytes() == (ROOT / here).read_bytes()


def test_a_project_keeps_the_same_out_of_git(tmp_path: Path) -> None:
    ignored = (TEMPLATE / "gitignore").read_text().splitlines()
    assert set(ignored) <= set((ROOT / ".gitignore").read_text().splitlines())


@pytest.mark.slow
def test_a_project_of_scenes_runs_to_a_search(tmp_path: Path) -> None:
    printed = run_lookalike("init", "places", "--recipe", "scenes", cwd=tmp_path).stdout
    project = tmp_path / "places"
    assert printed.splitlines()[-1] == "next: cd places && dvc repro"
    names = {path.name for path in project.iterdir()}
    assert names == {"README.md", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore", ".dvc", ".git"}
    done = run("env", f"OMP_NUM_THREADS={NUM_CORES}", "dvc", "repro", cwd=project)
    scores = json.loads((project / "data/metrics/evaluate.json").read_text())
    knn = scores["encoder"]["knn"]["top1"]
    assert knn >= 0.8  # 300 images; 0.87 when this was written
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("kNN ")]
    assert last.startswith(f"kNN {100 * knn:.1f} %, ")
    assert " the start (" in last
    # nothing was trained, and the mean was taken off: the linear probe, which sees none, has the same figures
    assert scores["start"]["linear"]["top1"] == pytest.approx(scores["encoder"]["linear"]["top1"], abs=0.02)
    assert scores["encoder"]["retrieval"]["map"] > scores["start"]["retrieval"]["map"]
    # no file of this machine, and none of the package, is in the record
    assert str(ROOT) not in (project / "dvc.lock").read_text()
    assert ".py" not in (project / "dvc.lock").read_text()
    assert run("dvc", "status", cwd=project).stdout.count("changed") <= 4  # scan and weights run every time
    # its own images of one kind find each other
    data = Artifacts(project / "data")
    rows = data.read_manifest().query("split == 'test' and class_name == 'forests'")
    shutil.copy(ROOT / "pipeline/collection/sources/scenes.zip", tmp_path)
    run("python", "-m", "zipfile", "-e", "scenes.zip", "unpacked", cwd=tmp_path)
    photo = tmp_path / "unpacked" / rows["source"].iloc[0]
    answer = run_lookalike("query", str(photo), "-k", "5", "--json", cwd=project).stdout
    neighbors = json.loads(answer)[0]["neighbors"]
    assert neighbors[0]["id"] == rows["id"].iloc[0]
    assert [each["class_name"] for each in neighbors].count("forests") >= 3


def test_a_path_is_meant_from_where_the_person_is(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    run_lookalike("init", "a/shop", "--recipe", "photos", "-S", "dataset.path=photos", cwd=tmp_path)
    params = YAML(typ="safe").load(tmp_path / "a/shop/params.yaml")
    assert params["dataset"]["path"] == str(tmp_path / "photos")


def test_within_a_repository_the_project_is_a_part_of_it(tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    run_lookalike("init", "shop", cwd=tmp_path)
    assert not (tmp_path / "shop/.git").exists()
    staged = run("git", "status", "--porcelain", cwd=tmp_path).stdout
    assert "A  shop/dvc.yaml" in staged
    run("dvc", "status", cwd=tmp_path / "shop")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("full", "full: is there already, and not an empty folder: choose another name"),
        ("new --recipe photo", "recipe: 'photo' is none of cifar10, "),
        ("new --recipe photos", "params.yaml with recipe photos: dataset.path: null, folder needs a folder"),
        ("deep/new -S zzz=1", "-S: zzz: params.yaml has no such key"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(tmp_path: Path, arguments: str, line: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert fails(2, "lookalike", "init", *arguments.split(), cwd=tmp_path).startswith(line)
    assert sorted(tmp_path.rglob("*")) == before
