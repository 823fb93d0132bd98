"""The house keeps its shape: no room, file or function grows past what a person takes in at once."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

HOUSES = ("benchmarks", "models", "pipeline", "stages")
FILES = [file.relative_to(ROOT) for house in HOUSES for file in sorted((ROOT / house).rglob("*.py"))]
ROOMS = sorted({file.parent for file in FILES})

LINES_OF_A_FILE = 300
LINES_OF_A_FUNCTION = 60  # a screen
FILES_OF_A_ROOM = 12  # and its __init__
# a file for each of its lines
ROOMS_OF_A_TABLE = {Path("models"), Path("pipeline/collection/sources"), Path("pipeline/params")}
FILES_OF_THE_GROUND_FLOOR = 8
NAMES_OF_NO_JOB = {"base", "common", "helper", "helpers", "misc", "util", "utils"}


def test_there_is_a_house() -> None:
    assert len(FILES) > 80
    assert Path("pipeline/training/display") in ROOMS


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_has_one_job_that_its_name_says(file: Path) -> None:
    assert file.stem not in NAMES_OF_NO_JOB
    text = (ROOT / file).read_text()
    assert text.count("\n") <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LINES_OF_A_FUNCTION, f"{file}:{node.lineno} {node.name}: {length} lines"


@pytest.mark.parametrize("room", sorted(set(ROOMS) - ROOMS_OF_A_TABLE), ids=str)
def test_a_room_holds_no_more_files_than_a_person_takes_in(room: Path) -> None:
    files = [file for file in FILES if file.parent == room and file.name != "__init__.py"]
    assert len(files) <= FILES_OF_A_ROOM, room


def test_the_ground_floor_of_the_library_is_small() -> None:
    assert len([file for file in FILES if file.parent == Path("pipeline")]) <= FILES_OF_THE_GROUND_FLOOR


def test_a_room_says_what_it_is_for() -> None:
    for room in ROOMS:
        if room.parts[0] in ("models", "pipeline"):
            assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())), room
