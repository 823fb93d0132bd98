"""The container file: linted, held against what it copies and starts, and built where there is a builder."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from pipeline.cli.main import app
from tests import tiny_index
from tests.conftest import ROOT
from tests.processes import run
from tests.serving import serving

TEXT = (ROOT / "Dockerfile").read_text()
BASE = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
COPIED = [
    name for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE) for name in line.split()[:-1]
]
COMMAND = json.loads(re.findall(r"^CMD (.*)$", TEXT, re.MULTILINE)[0])
HEALTHCHECK = json.loads(re.findall(r"^HEALTHCHECK .* CMD (.*)$", TEXT, re.MULTILINE)[0])
ENVIRONMENT = {"LOOKALIKE_TOKEN": "a-secret-of-nobody"}


def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    assert run("hadolint", "Dockerfile", cwd=ROOT).stdout == ""
    (tmp_path / "Dockerfile").write_text(TEXT.replace(BASE[0], BASE[0].partition(":")[0]))
    assert "DL3006" in run("hadolint", "Dockerfile", cwd=tmp_path, check=False).stdout  # an untagged base


def test_what_the_wheel_is_made_of_is_copied_and_let_through() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    named = {project["project"]["readme"], *project["project"]["license-files"]}
    assert set(COPIED) == {"pyproject.toml", "constraints.txt", *named, *packages}
    everything, *rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert everything == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(COPIED)
    for name in COPIED:
        assert (ROOT / name).exists(), name


def test_it_brings_no_training_stack_and_runs_as_nobody() -> None:
    assert "[train]" not in TEXT
    *_, last = TEXT.partition("AS build")[2].split("\nFROM ")
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) > 0
    # each image begins from a Python that constraints.txt is made for
    (version,) = re.findall(r"for Python ([\d.]+)", (ROOT / "constraints.txt").read_text())
    assert {base.partition("-")[0] for base in BASE} == {f"python:{version}"}


def test_its_command_is_one_of_serves() -> None:
    name, *arguments = COMMAND
    serve = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    read = serve.make_context(name, list(arguments)).params
    assert (read["index"], read["host"], read["port"]) == (Path("/index"), "0.0.0.0", 8000)
    assert not read["open_to_all"]


def test_it_is_healthy_while_it_serves(tmp_path: Path) -> None:
    tiny_index.build(tmp_path / "index")
    program, *arguments = HEALTHCHECK
    assert program == "python"

    def exit_code(port: str) -> int:
        code = [argument.replace(":8000/", f":{port}/") for argument in arguments]
        return subprocess.run([sys.executable, *code], stderr=subprocess.DEVNULL, check=False).returncode

    # as its command, but for the folder and the port; the check has no token
    with serving(tmp_path / "index", "--host", "0.0.0.0", environment=ENVIRONMENT) as served:
        assert exit_code(served.url.rpartition(":")[2]) == 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert exit_code(str(nobody.getsockname()[1])) != 0


def builder() -> str | None:
    """What builds images here, and answers."""
    for name in ("docker", "podman", "buildah"):
        if (
            shutil.which(name)
            and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0
        ):
            return name
    return None


@pytest.mark.slow
@pytest.mark.installs
def test_it_is_built_where_there_is_a_builder() -> None:
    name = builder()
    if name is None:
        pytest.skip("no docker, podman or buildah answers here")
    for base in set(BASE):
        if subprocess.run([name, "pull", base], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{name} cannot fetch {base} here")
    run(name, "build", "--tag", "lookalike-test", "--file", "Dockerfile", ".", cwd=ROOT)
    if name != "buildah":  # which runs nothing
        said = run(name, "run", "--rm", "lookalike-test", "--version", cwd=ROOT).stdout
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", said)
        refused = run(name, "run", "--rm", "lookalike-test", cwd=ROOT, check=False)
        assert "set LOOKALIKE_TOKEN" in refused.stderr
