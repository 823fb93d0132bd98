"""`lookalike compare` of git revisions and DVC experiments, in a small repository with the real DVC."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.processes import fails, run, run_lookalike
from tests.two_runs import right, write_run

pytestmark = pytest.mark.xdist_group("revisions")  # one project, made once

CHAIN = """
stages:
  copy:
    cmd: mkdir -p data && cp -r runs/${run}/images runs/${run}/evaluation data
    params: [run]
    deps: [runs]
    outs: [data/images, data/evaluation]
"""
WRONG = {"first": range(30), "second": range(20), "third": range(5)}  # of 200


def git(*command: str, cwd: Path) -> str:
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return run("git", *author, *command, cwd=cwd).stdout


def committed(project: Path, name: str) -> None:
    """The run of this name, as a commit."""
    (project / "params.yaml").write_text(f"run: {name}\n")
    run("dvc", "repro", "--quiet", cwd=project)
    git("add", "--all", ".", cwd=project)
    git("commit", "--quiet", "--message", name, cwd=project)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in a folder of a git repository: HEAD~1 and tag `v1` are `first`, HEAD `second`, and the
    experiment `exp-third` `third`. Tests leave it as it is."""
    repository = tmp_path_factory.mktemp("repository")
    project = repository / "project"
    project.mkdir()
    git("init", "--quiet", "--initial-branch", "main", cwd=repository)
    run("dvc", "init", "--quiet", "--subdir", cwd=project)
    run("dvc", "config", "core.analytics", "false", cwd=project)
    for name, wrong in WRONG.items():
        write_run(project / "runs" / name, {"knn": right(200, wrong=wrong)})
    (project / "dvc.yaml").write_text(CHAIN)
    (project / ".gitignore").write_text("/data\n")
    committed(project, "first")
    git("tag", "--annotate", "--message", "the first", "v1", cwd=project)
    committed(project, "second")
    run("dvc", "exp", "run", "--quiet", "--name", "exp-third", "--set-param", "run=third", cwd=project)
    git("checkout", "--quiet", ".", cwd=project)
    run("dvc", "checkout", "--quiet", cwd=project)
    return project


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        ("HEAD~1", "HEAD", "better: B (HEAD): kNN +5.0 ("),
        ("main", "v1", "better: A (main): kNN +5.0 ("),
        ("HEAD", "exp-third", "better: B (exp-third): kNN +7.5 ("),
        ("exp-third", "data", "better: A (exp-third): kNN +7.5 ("),
        ("HEAD", ".", "no difference: kNN +0.0 "),
        ("refs/tags/v1", "runs/first", "no difference: kNN +0.0 "),
    ],
)
def test_revisions_experiments_and_folders_compare(project: Path, a: str, b: str, line: str) -> None:
    before = git("status", "--short", cwd=project)
    assert run_lookalike("compare", a, b, cwd=project).stdout.splitlines()[-1].startswith(line)
    assert git("status", "--short", cwd=project) == before == ""


def test_a_commit_is_told_by_its_hash_from_any_folder_of_the_project(project: Path) -> None:
    commit = git("rev-parse", "--short", "HEAD~1", cwd=project).strip()
    printed = run_lookalike("compare", commit, "exp-third", "--json", cwd=project / "runs").stdout
    assert '"better": "B"' in printed


def test_of_a_folder_and_a_revision_of_one_name_the_folder_is_meant(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project.parent, tmp_path / "copy") / "project"
    git("branch", "third", "v1", cwd=copy)
    shutil.move(copy / "runs/third", copy / "third")
    last = run_lookalike("compare", "v1", "third", cwd=copy).stdout.splitlines()[-1]
    assert last.startswith("better: B (third): kNN +12.5 (")
    last = run_lookalike("compare", "v1", "refs/heads/third", cwd=copy).stdout.splitlines()[-1]
    assert last.startswith("no difference")


def test_what_is_not_in_the_cache_is_one_line_and_comes_from_a_remote(project: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "--quiet", str(project.parent), str(clone), cwd=tmp_path)
    line = fails(2, "lookalike", "compare", "HEAD", "HEAD~1", cwd=clone / "project")
    assert line == (
        "HEAD: data/evaluation/outcomes.parquet is not in DVC's cache: 'dvc fetch --all-commits' brings it "
        "where it was pushed (an experiment: 'dvc exp pull'); else check that revision out and run "
        "'dvc repro'"
    )
    command = ("dvc", "remote", "add", "--quiet", "--local", "--default", "origin")
    run(*command, str(project / ".dvc/cache"), cwd=clone / "project")
    last = run_lookalike("compare", "HEAD~1", "HEAD", cwd=clone / "project").stdout.splitlines()[-1]
    assert last.startswith("better: B (HEAD): kNN +5.0 (")


def test_a_revision_without_these_outputs_is_one_line(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project.parent, tmp_path / "copy") / "project"
    git("rm", "--quiet", "--cached", "dvc.lock", cwd=copy)
    git("commit", "--quiet", "--message", "no lock", cwd=copy)
    line = fails(2, "lookalike", "compare", "data", "HEAD", cwd=copy)
    assert line.startswith("HEAD: has no data/evaluation/outcomes.parquet in its dvc.lock: ")


@pytest.mark.parametrize("name", ["nope", "HEAD~9", "HEAD:project/dvc.yaml", "", "--", "exp"])
def test_what_is_neither_folder_nor_revision_is_one_line(project: Path, name: str) -> None:
    line = fails(2, "lookalike", "compare", "--", "data", name, cwd=project)
    assert line.startswith(f"'{name}' is neither a folder nor a git revision or DVC experiment")


def test_outside_of_a_project_there_are_no_revisions(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"knn": right(10)})
    line = fails(2, "lookalike", "compare", "a", "HEAD", cwd=tmp_path)
    assert line.startswith(
        "'HEAD' is neither a folder nor a git revision or DVC experiment: this folder is in"
    )


def without_dvc() -> None:
    sys.modules["dvc"] = None  # type: ignore[assignment]


def test_without_dvc_a_revision_is_one_line(project: Path) -> None:
    line = fails(1, "lookalike", "compare", "data", "HEAD", cwd=project, before=without_dvc)
    assert line == (
        "'HEAD' is no folder, and to read it as a git revision: dvc is not installed, which this needs: "
        "pip install 'lookalike[train]'"
    )
