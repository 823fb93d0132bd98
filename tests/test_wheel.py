"""The package as it is installed: its wheel in fresh environments, to search alone and to train."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from pipeline.artifacts import Artifacts
from tests.conftest import ROOT
from tests.processes import NUM_CORES

pytestmark = [pytest.mark.slow, pytest.mark.installs]

LARGEST = 800e6  # bytes of an installation that searches


def sh(environment: Path, *command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command with an environment active, and nothing else of this process's."""
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        command, cwd=cwd, env={**kept, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def new_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows of, so that nothing else gets into it."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    return built


def test_what_searches_is_small_and_answers_from_a_copied_index(
    wheel: Path, small_chain: Path, tmp_path: Path
) -> None:
    environment = new_environment(tmp_path / "env")
    pip = ("python", "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"))
    sh(environment, *pip, str(wheel), cwd=tmp_path)
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    # what Python compiles is left out: it comes as files are imported
    num_bytes = sum(path.stat().st_size for path in files if path.suffix != ".pyc")
    assert num_bytes < LARGEST
    for module in ("torch", "dvc", "timm", "sklearn", "vl_convert"):
        assert sh(environment, "python", "-c", f"import {module}", cwd=tmp_path, check=False).returncode == 1

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(small_chain / "data/index", elsewhere / "data/index")
    shutil.copy(ROOT / "docs/images/digit.png", elsewhere)
    answer = sh(environment, "lookalike", "query", "digit.png", "--json", cwd=elsewhere).stdout
    assert len(json.loads(answer)[0]["neighbors"]) == 10
    encoder = ("--encoder", "data/index/encoder.onnx")
    sh(environment, "lookalike", "embed", "digit.png", "-o", "digit.parquet", *encoder, cwd=elsewhere)
    doctor = sh(environment, "lookalike", "doctor", cwd=elsewhere, check=False).stdout
    assert "not installed; a search needs none: pip install 'lookalike[train]'" in doctor
    for command in (("init", "new"), ("init", "new", "--recipe", "photos")):
        done = sh(environment, "lookalike", *command, cwd=elsewhere, check=False)
        assert done.returncode == 1
        line = "error: dvc is not installed, which this needs: pip install 'lookalike[train]'\n"
        assert done.stderr == line
        assert not (elsewhere / "new").exists()


def test_a_project_is_run_by_the_installed_package(wheel: Path, tmp_path: Path) -> None:
    """The training stack is lent by this environment: to install it again would take 6 GB."""
    environment = new_environment(tmp_path / "env")
    sh(environment, "python", "-m", "pip", "install", "--quiet", "--no-deps", str(wheel), cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    dvc = environment / "bin/dvc"
    dvc.write_text(f"#!{environment}/bin/python\nimport sys\nfrom dvc.cli import main\nsys.exit(main())\n")
    dvc.chmod(0o755)
    where = sh(environment, "python", "-c", "import pipeline; print(pipeline.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(site))

    sh(environment, "lookalike", "init", "places", "--recipe", "scenes", cwd=tmp_path)
    project = tmp_path / "places"
    sh(environment, "env", f"OMP_NUM_THREADS={NUM_CORES}", "dvc", "repro", cwd=project)
    manifest = Artifacts(project / "data").read_manifest()
    scenes = str(site / "pipeline/collection/sources/scenes.zip")
    sh(environment, "python", "-m", "zipfile", "-e", scenes, "x", cwd=tmp_path)
    photo = tmp_path / "x" / manifest["source"][0]
    answer = sh(environment, "lookalike", "query", str(photo), "--json", cwd=project).stdout
    assert json.loads(answer)[0]["neighbors"][0]["id"] == 0

    # an upgrade that changes one module runs just the stages that import it
    tuning = site / "pipeline/search/building/tuning.py"
    tuning.write_text(tuning.read_text() + "# a word\n")
    sh(environment, "dvc", "repro", "scan", cwd=project)
    changed = set(json.loads(sh(environment, "dvc", "status", "--json", cwd=project).stdout))
    assert changed == {"scan", "weights", "index", "report"}  # the page names the hash
