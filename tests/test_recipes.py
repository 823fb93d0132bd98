"""`lookalike recipe`: params.yaml changes where the recipe says so, and nowhere else."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.params.reader import load_params
from pipeline.recipes import Change, apply_recipe, describe_recipes, lay_over, parse_setting, read_recipe
from tests.conftest import ROOT, change_params
from tests.processes import fails, files_of_at_most, obey_permissions, run_lookalike
from tests.test_cli import contents

NAMES = ["cifar10", "mnist5k", "photos", "scenes", "stl10"]  # of the collections
EVERY = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
DEFAULT = (ROOT / "params.yaml").read_text()
LONG_PATH = "/home/someone/photographs of many years/everything.tar.gz"  # ends right of the comment's column
PATH_NEEDED = (
    "params.yaml with recipe photos: dataset.path: null, folder needs a folder, a .tar, .tar.gz, .tgz or "
    ".zip: add -S dataset.path=/path/to/photos"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the project's params.yaml and its recipes."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


def apply(project: Path, name: str, *settings: str) -> list[Change]:
    """Applies a recipe; one for a folder gets the path that it needs unless a setting gives one."""
    of_folder = read_recipe(name).values["dataset"]["name"] == "folder"
    if of_folder and not any("dataset.path" in setting for setting in settings):
        settings = ("dataset.path=/photos", *settings)
    return apply_recipe(name, settings, project / "params.yaml", [project / "recipes"])


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: leaf for name in values for key, leaf in leaves(values[name], f"{prefix}{name}.").items()}


def typed(project: Path) -> dict[str, Any]:
    return leaves(load_params(project / "params.yaml").model_dump())


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_gives_params_that_the_stages_accept(project: Path, name: str) -> None:
    apply(project, name)
    params = load_params(project / "params.yaml")
    assert params.dataset.name == ("folder" if name == "photos" else name)
    assert params.export.name == f"lookalike-{name}"
    assert params.pretrain.views.size <= params.dataset.image_size


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_gives_the_same_bytes_whatever_stood_before(project: Path, name: str) -> None:
    apply(project, name)
    expected = (project / "params.yaml").read_text()
    for earlier in ("nnclr-keras-stl10",):
        (project / "params.yaml").write_text(DEFAULT)
        apply(project, earlier)
        apply(project, name)
        assert (project / "params.yaml").read_text() == expected, earlier


@pytest.mark.parametrize("name", EVERY)
def test_the_default_names_every_key_that_a_recipe_sets(name: str) -> None:
    default, keys = (leaves(read_recipe(recipe, [ROOT / "recipes"]).values) for recipe in ("mnist5k", name))
    assert set(keys) <= set(default)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cifar10", []),
        ("stl10", ["pretrain.optimizer.lr=1e-05", "dataset.mirror=https://example.org/stl10"]),
        ("folder", [f"dataset.path={LONG_PATH}", "evaluate.linear.C=[1]", "export.name='my photos'"]),
    ],
)
def test_mnist5k_brings_the_default_back_byte_for_byte(project: Path, name: str, settings: list[str]) -> None:
    apply(project, name, *settings)
    assert (project / "params.yaml").read_text() != DEFAULT
    apply(project, "mnist5k")
    assert (project / "params.yaml").read_text() == DEFAULT


def test_the_default_is_the_recipe_mnist5k(project: Path) -> None:
    before = (project / "params.yaml").stat().st_mtime_ns
    printed = run_lookalike("recipe", "mnist5k", cwd=project).stdout
    assert printed == "nothing to change\nnext: dvc repro\n"
    assert (project / "params.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", NAMES)
def test_every_comment_stays_in_its_line_and_column(project: Path, name: str) -> None:
    apply(project, name)
    lines = (project / "params.yaml").read_text().splitlines()
    for line, default in zip(lines, DEFAULT.splitlines(), strict=True):
        assert line.partition("#")[2] == default.partition("#")[2]
        assert line.find("#") == default.find("#")


def test_a_long_value_moves_only_its_own_comment(project: Path) -> None:
    apply(project, "folder")
    short = (project / "params.yaml").read_text().splitlines()
    apply(project, "folder", f"dataset.path={LONG_PATH}")
    long = (project / "params.yaml").read_text().splitlines()
    moved = [line for line, other in zip(long, short, strict=True) if line != other]
    assert [line.partition(" # folder")[0] for line in moved] == [f"  path: {LONG_PATH}"]


def test_the_layout_of_other_lists_and_comments_is_kept() -> None:
    text = 'a:\n  # above\n  C:   # of C\n  - 0.5\n  - 1e-3\n  # below\n  q: "1"\n  none: null\n\nb: {x: 1}\n'
    assert lay_over(text, []) == text
    changed = lay_over(text, [parse_setting("a.C=[7, 8, 9]"), parse_setting("b.x=2")])
    assert changed == text.replace("- 0.5\n  - 1e-3", "- 7\n  - 8\n  - 9").replace("{x: 1}", "{x: 2}")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cifar10", []), ("stl10", []), ("photos", ["-S", "dataset.path=/photos", "-S", "embed.batch_size=64"])],
)
def test_the_printed_changes_are_the_keys_that_differ(project: Path, name: str, settings: list[str]) -> None:
    before = typed(project)
    *lines, last = run_lookalike("recipe", name, *settings, cwd=project).stdout.splitlines()
    after = typed(project)
    assert last == "next: dvc repro"
    assert [line.partition(":")[0] for line in lines] == [key for key in after if before[key] != after[key]]
    assert f"dataset.name: mnist5k -> {'folder' if name == 'photos' else name}" in lines
    chosen = "[0.001, 0.01, 0.1]" if name == "photos" else "[0.01, 0.1]"
    assert f"evaluate.linear.C: [0.01, 0.1, 1.0] -> {chosen}" in lines
    assert ("dataset.path: null -> /photos" in lines) == (name == "photos")


def test_settings_stand_on_top_of_the_recipe_and_the_last_one_wins(project: Path) -> None:
    settings = [
        "pretrain.epochs=3",
        "pretrain.epochs=7",
        "pretrain.optimizer.lr=1e-3",
        "evaluate.linear.C=[0.5]",
        "dataset.mirror=",  # nothing is null in YAML
        "export.name='1.0'",
        "pretrain.views={size: 48, crop: {p: 0.5}}",  # a section sets the keys that it has
    ]
    run_lookalike("recipe", "stl10", *(part for key in settings for part in ("-S", key)), cwd=project)
    params = load_params(project / "params.yaml")
    assert (params.pretrain.epochs, params.pretrain.optimizer.lr) == (7, 0.001)
    assert params.evaluate.linear.C == (0.5,)
    assert params.dataset.mirror is None
    assert params.export.name == "1.0"
    views = params.pretrain.views
    assert (views.size, views.crop.p, views.crop.scale.low) == (48, 0.5, 0.2)


def test_keys_that_no_recipe_names_stay_as_a_person_set_them(project: Path) -> None:
    text = DEFAULT.replace("  factory: auto  ", "  factory: Flat  ")
    (project / "params.yaml").write_text(text)
    apply(project, "cifar10")
    assert load_params(project / "params.yaml").index.factory == "Flat"
    apply(project, "mnist5k")
    assert (project / "params.yaml").read_text() == text


def test_a_recipe_mends_values_that_were_wrong(project: Path) -> None:
    change_params(project / "params.yaml", {"pretrain.epochs": -1})
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("name: lookalike-mnist5k", "name: 2020-01-01"))
    lines = [str(change) for change in apply(project, "cifar10")]
    assert "pretrain.epochs: -1 -> 100" in lines
    assert 'export.name: "2020-01-01" -> lookalike-cifar10' in lines  # YAML has it for a date


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("cifar", "recipe: 'cifar' is none of " + ", ".join(EVERY)),
        ("../params", "recipe: '../params' is none of " + ", ".join(EVERY)),
        ("photos", PATH_NEEDED),
        (
            "cifar10 -S pretrain.epochs",
            "-S 'pretrain.epochs': should be KEY=VALUE, like -S pretrain.epochs=20",
        ),
        ("cifar10 -S =20", "-S '=20': should be KEY=VALUE, like -S pretrain.epochs=20"),
        ("cifar10 -S lr=20", "-S: lr: params.yaml has no such key, did you mean pretrain.simclr.lr or "),
        (
            "cifar10 -S width=9",
            "-S: width: params.yaml has no such key, did you mean pretrain.backbone.width?",
        ),
        (
            "cifar10 -S pretrain.optimiser.lr=1",
            "-S: pretrain.optimiser.lr: params.yaml has no such key, did you mean pretrain.optimizer.lr?",
        ),
        ("cifar10 -S zzz=1", "-S: zzz: params.yaml has no such key"),
        ("cifar10 -S pretrain.views=3", "-S: pretrain.views: a section of params.yaml: set a key in it"),
        (
            "cifar10 -S pretrain.epochs=many",
            "params.yaml with recipe cifar10 and -S: pretrain.epochs: 'many' should be a valid integer",
        ),
        (
            "cifar10 -S pretrain.optimizer.head_epochs=300",
            "params.yaml with recipe cifar10 and -S: pretrain: optimizer.head_epochs (300) must be below "
            "epochs (100), or the backbone learns nothing",
        ),
        (
            "cifar10 -S dataset.path=[1",
            "-S dataset.path, line 1: not YAML: expected ',' or ']', but got '<stream end>'",
        ),
        (
            "cifar10 -S dataset.path=\x01",
            "-S dataset.path: not YAML: unacceptable character #x0001: special characters are not allowed",
        ),
        ("cifar10 -S export.name=2020-13-45", "-S export.name: not YAML: month must be in 1..12"),
        ("-S embed.batch_size=1", "-S embed.batch_size=1: stands without a recipe: lookalike recipe NAME"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(project: Path, command: str, line: str) -> None:
    before = contents(project)
    assert fails(2, "lookalike", "recipe", *command.split(" "), cwd=project).startswith(line)
    assert contents(project) == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "pretrain:\n  batchsize: 1",
            "pretrain.batchsize: params.yaml has no such key, did you mean pretrain.batch_size?",
        ),
        ("pretrain:\n  epochs: no", "params.yaml with recipe mine: pretrain.epochs: 'no' should be a valid"),
        (
            "dataset:\n  name: parquet",
            "parquet needs a .parquet file or a folder of them: add -S dataset.path=",
        ),
        ("a: [1,\nb: 2", "recipes/mine.yaml, line 2: not YAML"),
        ("- 1", "recipes/mine.yaml: [1] should be a part of params.yaml, sections with keys"),
        ("# only a comment", "recipes/mine.yaml: None should be a part of params.yaml"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_and_changes_nothing(project: Path, text: str, line: str) -> None:
    (project / "recipes/mine.yaml").write_text(text)
    before = contents(project)
    assert line in fails(2, "lookalike", "recipe", "mine", cwd=project)
    assert contents(project) == before


def test_a_path_of_an_earlier_recipe_does_not_slip_in(project: Path) -> None:
    apply(project, "folder", "dataset.path=/photos")
    with pytest.raises(UserError, match=r"add -S dataset.path=/path/to/photos"):
        apply_recipe("folder", [], project / "params.yaml", [project / "recipes"])


def test_a_folder_without_params_says_where_to_go(project: Path) -> None:
    (project / "params.yaml").unlink()
    line = fails(2, "lookalike", "recipe", "cifar10", cwd=project)
    assert line == "params.yaml: not in this folder: run the command at the project's top"


def test_recipes_come_with_the_package_and_a_persons_own_stand_before_them(project: Path) -> None:
    shutil.rmtree(project / "recipes")
    run_lookalike("recipe", "cifar10", cwd=project)
    assert load_params(project / "params.yaml").dataset.name == "cifar10"
    (project / "recipes").mkdir()
    (project / "recipes/cifar10.yaml").write_text("pretrain: {epochs: 3}\n")
    run_lookalike("recipe", "cifar10", cwd=project)
    assert load_params(project / "params.yaml").pretrain.epochs == 3


def test_folder_is_a_name_of_photos(project: Path) -> None:
    apply(project, "photos")
    expected = (project / "params.yaml").read_text()
    apply(project, "mnist5k")
    apply(project, "folder")
    assert (project / "params.yaml").read_text() == expected


@pytest.mark.parametrize(
    ("mode", "limit", "line"),
    [
        (0o555, obey_permissions, "no permission"),
        (0o755, files_of_at_most(1000), "larger than a file may be"),
    ],
)
def test_a_folder_that_takes_no_file_is_one_line_and_changes_nothing(
    project: Path, mode: int, limit: Any, line: str
) -> None:
    before = contents(project)
    project.chmod(mode)
    assert line in fails(1, "lookalike", "recipe", "cifar10", cwd=project, before=limit)
    assert contents(project) == before


def test_without_a_name_the_recipes_are_listed(project: Path) -> None:
    (project / "recipes/mine.yaml").write_text("embed:\n  batch_size: 8\n")
    lines = run_lookalike("recipe", cwd=project).stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted([*EVERY, "mine"])
    for name in NAMES:
        first = (project / f"recipes/{name}.yaml").read_text().splitlines()[0]
        assert re.fullmatch(r"# [A-Z].*[^ ]", first)
        assert f"{name:{max(map(len, EVERY))}}  {first[2:]}" in lines
    assert "mine" in lines  # and no description
    assert list(describe_recipes([project / "recipes"])) == sorted([*EVERY, "mine"])


def test_help_shows_examples() -> None:
    text = run_lookalike("recipe", "--help", cwd=ROOT).stdout
    assert "lookalike recipe photos -S dataset.path=/path/to/photos" in text
    assert "recipe" in run_lookalike("--help", cwd=ROOT).stdout
