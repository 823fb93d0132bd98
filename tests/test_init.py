"""`lookalike init`: a folder that is a person's own project, and runs."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import Artifacts
from pipeline.params.reader import load_params
from tests.conftest import ROOT
from tests.processes import NUM_CORES, fails, run, run_lookalike

TEMPLATE = ROOT / "pipeline/project/template"
# half the pixels of the recipe, and less of what this test does not ask about
SMALL = (
    "dataset.image_size=160",
    "evaluate.linear.few_label_seeds=[0, 1]",
    "evaluate.linear.max_iterations=20",
    "report.map_images=500",
)


@pytest.mark.parametrize(("name", "here"), [("params.yaml", "params.yaml"), ("chain.yaml", "dvc.yaml")])
def test_a_project_begins_as_this_repository_does(name: str, here: str) -> None:
    assert (TEMPLATE / name).read_bytes() == (ROOT / here).read_bytes()


def test_a_project_keeps_the_same_out_of_git(tmp_path: Path) -> None:
    ignored = (TEMPLATE / "gitignore").read_text().splitlines()
    assert set(ignored) <= set((ROOT / ".gitignore").read_text().splitlines())


@pytest.mark.slow
def test_a_project_of_scenes_runs_to_a_search(tmp_path: Path) -> None:
    small = [part for setting in SMALL for part in ("-S", setting)]
    printed = run_lookalike("init", "places", "--recipe", "scenes", *small, cwd=tmp_path).stdout
    project = tmp_path / "places"
    assert printed.splitlines()[-1] == "next: cd places && dvc repro"
    names = {path.name for path in project.iterdir()}
    assert names == {"README.md", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore", ".dvc", ".git"}
    done = run("env", f"OMP_NUM_THREADS={NUM_CORES}", "dvc", "repro", cwd=project)
    scores = json.loads((project / "data/metrics/evaluate.json").read_text())
    knn = scores["encoder"]["knn"]["top1"]
    assert knn >= 0.8  # 300 images; 0.817 when this was written, and 0.843 at the recipe's 224 px
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("kNN ")]
    assert last == f"kNN {100 * knn:.1f} %: the start as it is, nothing was trained (pretrain.epochs: 0)"
    scores["encoder"].pop("hubness")  # of the index, which is the encoder's
    assert scores["start"] == scores["encoder"]
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


@pytest.mark.parametrize("name", ["photos", "my photos #1", "a: b", "2021"])
def test_a_path_is_meant_from_where_the_person_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    setting = f"dataset.path={json.dumps(name)}"
    run_lookalike("init", "a/shop", "--recipe", "photos", "-S", setting, cwd=tmp_path)
    params = load_params(tmp_path / "a/shop/params.yaml")
    assert params.dataset.path == f"../../{name}"  # no path of the machine gets into the record


def test_an_empty_folder_is_filled_where_it_stands(tmp_path: Path) -> None:
    """A shell may stand in it."""
    before = tmp_path.stat().st_ino
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other")
    run_lookalike("init", "link", cwd=tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other/params.yaml").exists()
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "link").unlink()
    run_lookalike("init", ".", cwd=tmp_path)
    assert tmp_path.stat().st_ino == before
    run("dvc", "status", cwd=tmp_path)


def test_what_dvc_would_make_is_what_a_project_has(tmp_path: Path) -> None:
    (tmp_path / "its").mkdir()
    for command in ("git init --quiet", "dvc init --quiet"):
        run(*command.split(), cwd=tmp_path / "its")
    run_lookalike("init", "ours", cwd=tmp_path)
    assert (tmp_path / "ours/.dvc/.gitignore").read_text() == (tmp_path / "its/.dvc/.gitignore").read_text()
    listed = [
        sorted(path.name for path in (tmp_path / name / ".dvc").iterdir() if path.name != "tmp")
        for name in ("its", "ours")
    ]
    assert listed[0] == listed[1]
    assert run("dvc", "config", "core.analytics", cwd=tmp_path / "ours").stdout == "false\n"


def test_a_project_of_an_earlier_version_is_brought_to_this_one(tmp_path: Path) -> None:
    run_lookalike("init", "shop", "-S", "pretrain.epochs=3", cwd=tmp_path)
    project = tmp_path / "shop"
    whole, chain = ((project / name).read_text() for name in ("params.yaml", "dvc.yaml"))
    assert run_lookalike("upgrade", cwd=project).stdout == "nothing to change\nnext: dvc repro\n"
    earlier = [line for line in whole.splitlines(keepends=True) if not line.startswith("  keep:")]
    (project / "params.yaml").write_text("".join(earlier) + "old:\n  key: 1\n")
    (project / "dvc.yaml").write_text("stages: {}\n")
    assert run_lookalike("upgrade", cwd=project).stdout.splitlines() == [
        "params.yaml: pretrain.keep: added, last",
        "params.yaml: old.key: removed, it was 1",
        "dvc.yaml: written anew",
        "next: dvc repro",
    ]
    assert (project / "params.yaml").read_text() == whole
    assert (project / "dvc.yaml").read_text() == chain


def test_an_upgrade_keeps_what_is_frozen_and_stages_of_ones_own(tmp_path: Path) -> None:
    run_lookalike("init", "shop", cwd=tmp_path)
    project = tmp_path / "shop"
    run("dvc", "freeze", "pretrain", cwd=project)
    own = "  upload:\n    cmd: rsync data/index shop\n    deps:\n    - data/index\n"
    written = (project / "dvc.yaml").read_text().replace("stages:\n", f"stages:\n{own}", 1)
    (project / "dvc.yaml").write_text(
        written.replace("    params: [embed]\n", "", 1)
    )  # as an earlier version
    assert run_lookalike("upgrade", cwd=project).stdout == "dvc.yaml: written anew\nnext: dvc repro\n"
    chain = YAML(typ="safe").load(project / "dvc.yaml")
    assert chain["stages"]["pretrain"]["frozen"] is True
    assert chain["stages"]["upload"]["cmd"] == "rsync data/index shop"
    assert chain["stages"]["embed"]["params"] == ["embed"]
    assert run_lookalike("upgrade", cwd=project).stdout == "nothing to change\nnext: dvc repro\n"


def test_a_stage_of_ones_own_that_is_called_like_a_new_one_is_not_lost(tmp_path: Path) -> None:
    run_lookalike("init", "shop", cwd=tmp_path)
    chain = tmp_path / "shop/dvc.yaml"
    own = chain.read_text().replace("cmd: python -m stages.report", "cmd: make report.pdf")
    chain.write_text(own + "vars:\n  - shop: places\n")
    line = fails(2, "lookalike", "upgrade", cwd=tmp_path / "shop")
    assert "stage 'report' is one of yours, and this version has one of that name: rename yours" in line
    assert "make report.pdf" in chain.read_text()
    chain.write_text(own.replace("  report:", "  pdf:", 1) + "vars:\n  - shop: places\n")
    assert run_lookalike("upgrade", cwd=tmp_path / "shop").stdout.startswith("dvc.yaml: written anew")
    after = YAML(typ="safe").load(chain)
    assert after["stages"]["pdf"]["cmd"] == "make report.pdf"
    assert after["stages"]["report"]["cmd"] == "python -m stages.report"
    assert after["vars"] == [{"shop": "places"}]


@pytest.mark.parametrize("params", ["lr: 0.1\nmodel: {depth: 5}\n", "", "- 1\n", "dataset: {}\n"])
def test_a_project_of_another_kind_is_not_upgraded(tmp_path: Path, params: str) -> None:
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "dvc.yaml").write_text("stages: {mine: {cmd: true}}\n")
    line = fails(2, "lookalike", "upgrade", cwd=tmp_path)
    assert "so it is not a project's of Lookalike" in line
    assert (tmp_path / "params.yaml").read_text() == params
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {mine: {cmd: true}}\n"


def test_a_recipe_says_that_the_project_is_of_an_earlier_version(tmp_path: Path) -> None:
    run_lookalike("init", "shop", cwd=tmp_path)
    path = tmp_path / "shop/params.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("  keep:")))
    line = fails(2, "lookalike", "recipe", "scenes", cwd=tmp_path / "shop")
    assert line.endswith("params.yaml is of an earlier version and lacks it: run 'lookalike upgrade' first")


def test_a_path_within_a_section_is_meant_from_here_too(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    run_lookalike("init", "shop", "-S", "dataset={name: folder, path: photos}", cwd=tmp_path)
    params = YAML(typ="safe").load(tmp_path / "shop/params.yaml")
    assert (params["dataset"]["name"], params["dataset"]["path"]) == ("folder", "../photos")


def test_what_git_refuses_to_add_leaves_no_project(tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    (tmp_path / ".git/index.lock").touch()
    (tmp_path / "empty").mkdir()
    for name in ("shop", "empty"):
        assert "index.lock" in fails(1, "lookalike", "init", name, cwd=tmp_path)
    assert not (tmp_path / "shop").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / ".git/index.lock").unlink()
    run_lookalike("init", "shop", cwd=tmp_path)


def test_within_a_repository_the_project_is_a_part_of_it(tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    run_lookalike("init", "shop", cwd=tmp_path)
    assert not (tmp_path / "shop/.git").exists()
    staged = run("git", "status", "--porcelain", cwd=tmp_path).stdout
    assert "A  shop/dvc.yaml" in staged
    assert all("shop/" in line for line in staged.splitlines())
    run("dvc", "status", cwd=tmp_path / "shop")
    (tmp_path / ".gitignore").write_text("work/\nstore/\n")
    for name in ("work/shop", "store"):
        line = fails(2, "lookalike", "init", name, cwd=tmp_path)
        assert line == f"{name}: git ignores it, and DVC with it: choose another place"
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("full", "full: is there already, and not an empty folder: choose another name"),
        ("new --recipe photo", "recipe: 'photo' is none of cifar10, "),
        ("new --recipe photos", "params.yaml with recipe photos: dataset.path: null, folder needs a folder"),
        ("new --recipe photos -S dataset.path=phtos", "-S dataset.path: phtos: no such file or folder here"),
        ("deep/new -S zzz=1", "-S: zzz: params.yaml has no such key"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(tmp_path: Path, arguments: str, line: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert fails(2, "lookalike", "init", *arguments.split(), cwd=tmp_path).startswith(line)
    assert sorted(tmp_path.rglob("*")) == before
