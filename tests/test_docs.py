"""Documents that cannot fall behind: every key, command, option, file, figure and room has its sentence."""

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main
from ruamel.yaml import YAML

from models.backbones import BACKBONES
from models.methods import METHODS
from pipeline.cli.main import app
from pipeline.collection.sources.table import SOURCES
from pipeline.search.files.card import IndexCard
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()
OUTPUTS = (ROOT / "docs/outputs.md").read_text()
PARAMS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
COMMANDS = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
COMMANDS |= {
    f"{name} {inner}": command
    for name, group in COMMANDS.items()
    for inner, command in getattr(group, "commands", {}).items()
}

# They stand in the documents, and not in what the default run writes.
SELDOM = {
    *("data/rejected.csv", "data/downloads/"),  # of a stopped fetch; of CIFAR-10 and STL-10
    *("nprobe", "efSearch", "k_factor_rf"),  # of an approximate index
    *("overlap_at_10", "mean_cosine", "knn_top1_fp32", "knn_top1"),  # of an encoder in fp16 or int8
    "neighbor_same_class",  # of NNCLR
    *(f"data/finetune/{name}" for name in ("backbone.safetensors", "encoder.onnx", "history.tsv")),
    *("data/finetune/embeddings/{split}.npy", "finetuned"),  # where it is on
    "left_out",  # where the labels do not allow every protocol
    *(f"data/index/added-0001.{kind}" for kind in ("faiss", "parquet", "arrow")),  # of a folder that grew
    "data/index/removed.npy",
}


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def rows(text: str) -> dict[str, list[str]]:
    """The tables of a document: the name in backticks that a row begins with, and its other cells."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            assert name not in found, name
            found[name.strip("`")] = cells
    return found


def chapter(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any depth."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def assert_is_a_sentence(text: str, of: str) -> None:
    assert re.fullmatch(r"[A-Z`].*\.", text.strip("| "), re.DOTALL), of
    assert len(text.split()) >= 2, of


def test_every_key_of_params_yaml_has_its_sentence_and_its_default() -> None:
    documented, keys = rows((ROOT / "docs/params.md").read_text()), leaves(PARAMS)
    assert list(documented) == list(keys)  # in the order of params.yaml
    for key, (default, sentence) in documented.items():
        value = keys[key]
        spelt = "empty" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"
        assert default == spelt, key
        assert_is_a_sentence(sentence, key)


@pytest.mark.parametrize(
    ("key", "choices"),
    [("dataset.name", SOURCES), ("pretrain.method", METHODS), ("pretrain.backbone.name", BACKBONES)],
)
def test_a_choice_stands_in_its_keys_sentence_and_in_its_comment(key: str, choices: Iterable[str]) -> None:
    _default, sentence = rows((ROOT / "docs/params.md").read_text())[key]
    section, _, name = key.rpartition(".")
    indent = "  " * key.count(".")
    text = (ROOT / "params.yaml").read_text().partition(f"{section.rpartition('.')[2]}:\n")[2]
    comment = re.search(rf"^{indent}{name}: .*?# (.*)$", text, re.MULTILINE)
    assert comment is not None
    for choice in choices:
        assert f"`{choice}`" in sentence, choice
        number = choice.removeprefix("resnet")  # resnet18 | 34 | 50
        assert re.search(rf"\b({choice}|{number})\b", comment[1]), choice


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_option_of_it_has_its_sentence(command: str) -> None:
    text = chapter((ROOT / "docs/commands.md").read_text(), f"lookalike {command}")
    assert_is_a_sentence(text.split("`lookalike")[0].strip(), command)
    documented = rows(text)
    options = {
        name for option in COMMANDS[command].params for name in option.opts if name.startswith("-")
    } - {"--help"}
    assert {name.strip("`") for names in documented for name in names.split(", ")} == options
    for option, (sentence,) in documented.items():
        assert_is_a_sentence(sentence, option)


def test_every_room_has_its_sentence_in_the_design() -> None:
    rooms = {
        f"{file.parent.relative_to(ROOT)}/"
        for top in ("pipeline", "models", "stages")
        for file in (ROOT / top).rglob("__init__.py")
    }
    documented = rows(chapter(DESIGN, "The house"))
    assert set(documented) == rooms
    for room, (sentence,) in documented.items():
        assert_is_a_sentence(sentence, room)


def test_the_ground_floor_is_what_the_design_says() -> None:
    (line,) = [line for line in DESIGN.splitlines() if line.startswith("| the ground floor")]
    named = set(re.findall(r"`(\w+)`:", line)) | {"recipes", "__init__"}
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} == named


@pytest.mark.parametrize("name", [*METHODS, *BACKBONES, *SOURCES])
def test_every_method_backbone_and_source_stands_in_the_readme(name: str) -> None:
    assert re.search(rf"`([\w.]+: )?{name}`", README), name


def test_every_key_of_an_index_has_its_sentence() -> None:
    documented = rows(chapter(OUTPUTS, "data/index/index.json"))
    assert list(documented) == [field.name for field in dataclasses.fields(IndexCard)]
    for key, (sentence,) in documented.items():
        assert_is_a_sentence(sentence, key)


@pytest.mark.slow
def test_every_file_under_data_has_its_sentence(small_chain: Path) -> None:
    documented = rows(chapter(OUTPUTS, "Files"))
    unseen = set(documented) - SELDOM
    for file in (small_chain / "data").rglob("*"):
        if file.is_dir() or file.name in (".gitignore", ".gitkeep"):
            continue
        name = file.relative_to(small_chain).as_posix()
        generic = re.sub(r"(?<=/)(train|test|unlabelled)(?=\.npy)", "{split}", name)
        generic = re.sub(r"(?<=/)(code|metrics|speed)/\w+(?=\.json)", r"\1/{stage}", generic)
        assert generic in documented, name
        unseen.discard(generic)
    assert not unseen  # documented, and not there
    for name, (stage, sentence) in documented.items():
        is_stage = stage == "each stage" or (ROOT / f"stages/{stage}.py").is_file()
        assert is_stage or stage.removeprefix("lookalike ") in COMMANDS, name
        assert_is_a_sentence(sentence, name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fetch", "pretrain", "export", "index"])
def test_every_figure_has_its_sentence(small_chain: Path, stage: str) -> None:
    written = set(json.loads((small_chain / f"data/metrics/{stage}.json").read_text()))
    if stage == "pretrain":
        history = pd.read_csv(small_chain / "data/pretrain/history.tsv", sep="\t")
        chosen = {"kept_epoch", "knn_gain", "knn_gain_low", "knn_gain_high"}
        assert written == set(history.columns) | chosen
    documented = rows(chapter(OUTPUTS, f"{stage}.json"))
    assert written <= set(documented)
    assert set(documented) - written <= SELDOM
    for figure, (sentence,) in documented.items():
        assert_is_a_sentence(sentence, figure)


@pytest.mark.slow
def test_every_figure_of_the_evaluation_has_its_sentence(small_chain: Path) -> None:
    scores = json.loads((small_chain / "data/metrics/evaluate.json").read_text())
    of_labels, subjects, protocols, figures = (
        rows(table)
        for table in re.split(r"(?=\| (?:subject|protocol|figure of))", chapter(OUTPUTS, "evaluate.json"))[1:]
    )
    written = {name for name, value in scores.items() if not isinstance(value, dict)}
    assert written == set(of_labels) - SELDOM
    scores = {name: value for name, value in scores.items() if name not in written}
    assert set(scores) == set(subjects) - SELDOM
    kinds = scores.pop("findings")
    assert set(kinds) == set(rows(chapter(OUTPUTS, "findings.parquet")))
    assert {protocol for subject in scores.values() for protocol in subject} == set(protocols)
    found = {
        figure for subject in scores.values() for of_protocol in subject.values() for figure in of_protocol
    }
    assert found == set(figures)
    for name, (sentence,) in {**of_labels, **subjects, **protocols, **figures}.items():
        assert_is_a_sentence(sentence, name)


@pytest.mark.slow
def test_every_figure_of_the_speed_has_its_sentence(small_chain: Path) -> None:
    files = list((small_chain / "data/speed").glob("*.json"))
    assert len(files) == 8
    written = {figure for file in files for figure in json.loads(file.read_text())}
    documented = rows(chapter(OUTPUTS, "data/speed"))
    assert written == set(documented)
    for figure, (sentence,) in documented.items():
        assert_is_a_sentence(sentence, figure)
