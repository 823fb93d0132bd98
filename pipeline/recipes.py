"""Recipes: overlays on params.yaml that fit the chain to a collection, applied with its comments kept.

A recipe is NAME.yaml in the package's recipes/, or in a folder `recipes` of one's own: a part of params.yaml
whose first comment line describes it. It is laid over the recipe of the default, which names every key that
any recipe sets; all other keys stay as they are.
"""

import difflib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.atomic import atomic_file
from pipeline.errors import UserError
from pipeline.params.dataset import NEEDS_A_PATH
from pipeline.params.reader import PARAMS_FILE, check_params, parse_yaml, read_text

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
FOLDERS = (SHIPPED, Path("recipes"))  # one's own come last, and stand before those of the package
DEFAULT = "mnist5k"
ALIASES = {"folder": "photos"}  # an earlier name


@dataclass(frozen=True)
class Change:
    """A dotted key of params.yaml with the value that it had and the value that it has."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {shown(self.old)} -> {shown(self.new)}"


@dataclass(frozen=True)
class Overlay:
    """Values to lay over params.yaml, nested or under dotted keys, and where they come from."""

    origin: str
    values: Mapping[str, Any]


def describe_recipes(folders: Sequence[Path] = FOLDERS) -> dict[str, str]:
    """The names of the recipes, sorted, each with its first comment line."""
    comments = {
        name: [line for line in read_text(path).splitlines() if line.startswith("#")]
        for name, path in _files(folders).items()
    }
    return {name: lines[0].lstrip("# ") if lines else "" for name, lines in comments.items()}


def apply_recipe(
    name: str,
    settings: Sequence[str],
    params_file: Path = PARAMS_FILE,
    folders: Sequence[Path] = FOLDERS,
) -> list[Change]:
    """Lays a recipe, and then the settings (`KEY=VALUE`), over params.yaml.

    Returns:
        What changed, in the order of params.yaml; where nothing did, the file is not written.

    Raises:
        UserError: no such recipe, a key that params.yaml does not have, a setting that is no KEY=VALUE, or a
            result that breaks the rules of params.yaml. The file is untouched then.
    """
    text = read_text(params_file)
    overlaid = with_recipe(text, name, settings, params_file, folders)
    changes = differences(parse_yaml(text, params_file), parse_yaml(overlaid, params_file))
    if changes:
        with atomic_file(params_file) as partial:
            partial.write_text(overlaid, encoding="utf-8")
    return changes


def with_recipe(
    text: str,
    name: str,
    settings: Sequence[str],
    params_file: Path = PARAMS_FILE,
    folders: Sequence[Path] = FOLDERS,
) -> str:
    """The text of params.yaml with a recipe, and then the settings, laid over it.

    Raises:
        UserError: as `apply_recipe`.
    """
    # the default first, so that nothing is left of the recipe applied before
    overlays = [read_recipe(DEFAULT, folders), read_recipe(name, folders), *map(parse_setting, settings)]
    overlaid = lay_over(text, overlays, params_file)
    origin = f"{params_file} with recipe {name}" + (" and -S" if settings else "")
    _check(parse_yaml(overlaid, params_file), origin)
    return overlaid


def read_recipe(name: str, folders: Sequence[Path] = FOLDERS) -> Overlay:
    """The overlay of a recipe.

    Raises:
        UserError: there is none of this name, or its file holds no keys.
    """
    files = _files(folders)
    name = ALIASES.get(name, name)
    if name not in files:
        raise UserError(f"recipe: {name!r} is none of {', '.join(files)}")
    path = files[name]
    values = as_written(read_text(path), str(path))
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: {values!r} should be a part of params.yaml, sections with keys")
    return Overlay(str(path), values)


def parse_setting(setting: str) -> Overlay:
    """The overlay of one `KEY=VALUE`: a dotted key, a YAML value, as DVC's own -S has them.

    Raises:
        UserError: there is no key or no `=`, or the value is no YAML.
    """
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise UserError(f"-S {setting!r}: should be KEY=VALUE, like -S pretrain.epochs=20")
    return Overlay("-S", {key: as_written(value, f"-S {key}")})


def lay_over(text: str, overlays: Sequence[Overlay], params_file: Path = PARAMS_FILE) -> str:
    """The text of params.yaml with the overlays' values, later ones on top; all else stays as it is.

    Raises:
        UserError: an overlay has a key that the text does not have.
    """
    yaml = round_trip()
    document = yaml.load(text)
    slots = {key: (section, name) for key, section, name in _leaves(document)}
    for overlay in overlays:
        for key, section, name in _leaves(overlay.values):
            if key not in slots:
                raise UserError(f"{overlay.origin}: {key}: {_no_such_key(key, list(slots), params_file)}")
            _put(*slots[key], section[name])
    stream = StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def differences(before: Any, after: Any) -> list[Change]:
    """The keys whose values differ between two params.yaml of equal keys; 1 and 1.0 differ, as texts do."""
    old, new = leaves(before), leaves(after)
    return [Change(key, old[key], new[key]) for key in new if repr(old[key]) != repr(new[key])]


def leaves(values: Any) -> dict[str, Any]:
    """Nested values by their dotted keys."""
    return {key: section[name] for key, section, name in _leaves(values)}


def as_written(text: str, origin: str) -> Any:
    """The values of a YAML text as they are written there: 0.00001 stays so, "1" keeps its quotes."""
    parse_yaml(text, origin)  # refuses in one line what is no YAML, and the tags that the round trip keeps
    return round_trip().load(text)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(files.items()))


def _check(values: Any, origin: str) -> None:
    """Refuses what the stages would refuse, and says how a path is given here."""
    found = leaves(values)
    name = found.get("dataset.name")
    if name in list(NEEDS_A_PATH) and found.get("dataset.path") is None:
        raise UserError(
            f"{origin}: dataset.path: null, {name} needs {NEEDS_A_PATH[name]}: "
            "add -S dataset.path=/path/to/photos"
        )
    check_params(values, origin)


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every dotted key that is no section, with the mapping that holds its value and its name there."""
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values, name


def _put(section: CommentedMap, name: str, value: Any) -> None:
    """Sets one value and keeps its layout; a value that is equal keeps its spelling too."""
    old = section[name]
    if type(old) is type(value) and old == value:
        return
    if isinstance(old, CommentedSeq) and isinstance(value, list):
        below = old.ca.items.pop(len(old) - 1, None)  # what follows a list hangs on its last item
        old[:] = value
        if below is not None:
            old.ca.items[len(old) - 1] = below
    else:
        section[name] = None  # else ruamel gives a new string the quotes of the old one
        section[name] = value
    # a long value pushes its comment to the right, and ruamel would leave it there for ever: it goes back
    # to the column of its neighbours
    comments = {key: tokens[2] for key, tokens in section.ca.items.items() if tokens[2] is not None}
    if name in comments:
        comments[name].column = statistics.mode(token.column for token in comments.values())


def _no_such_key(key: str, known: list[str], params_file: Path) -> str:
    if any(other.startswith(f"{key}.") for other in known):
        return f"a section of {params_file}: set a key in it"
    near = [other for other in known if other.endswith(f".{key}")]
    near = near or difflib.get_close_matches(key, known, n=1)
    if key in leaves(parse_yaml(read_text(_files([SHIPPED])[DEFAULT]), SHIPPED)):
        return f"{params_file} is of an earlier version and lacks it: run 'lookalike upgrade' first"
    return f"{params_file} has no such key" + (f", did you mean {' or '.join(near)}?" if near else "")


class _NullInFull(RoundTripRepresenter):
    """ruamel writes `key:` for `key: null`."""


def _represent_null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_NullInFull.add_representer(type(None), _represent_null)


def round_trip() -> YAML:
    """A reader and writer whose round trip changes no byte of params.yaml."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10**6  # a long path is not folded
    yaml.Representer = _NullInFull
    return yaml


def shown(value: Any) -> str:
    """A value on one line, as YAML may have it; a string without its quotes."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text[1:-1] if isinstance(value, str) else text
