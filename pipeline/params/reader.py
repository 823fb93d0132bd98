"""The one reader of params.yaml: a wrong value stops before any work.

No module of the chain reads params.yaml but through here. Nothing here imports torch, since every stage
loads its params, and the stages after export must run without it.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import UserError
from pipeline.params.dataset import Dataset
from pipeline.params.embed import Embed
from pipeline.params.evaluate import Evaluate
from pipeline.params.explain import explain
from pipeline.params.export import Export
from pipeline.params.finetune import Finetune
from pipeline.params.index import Index
from pipeline.params.pretrain import Pretrain
from pipeline.params.report import Report
from pipeline.params.section import Section

PARAMS_FILE = Path("params.yaml")


class Params(Section):
    """The whole of params.yaml."""

    dataset: Dataset
    pretrain: Pretrain
    export: Export
    finetune: Finetune
    embed: Embed
    index: Index
    evaluate: Evaluate
    report: Report


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks params.yaml.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or missing, or a value breaks its rule;
            the message names the file, the key, the value and the rule.
    """
    return check_params(parse_yaml(read_text(path), path), path)


def read_text(path: Path) -> str:
    """The text of a file that stands at the project's top.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not in this folder: run the command at the project's top") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def parse_yaml(text: str, origin: Path | str) -> Any:
    """The values of a YAML text, as plain Python values.

    Raises:
        UserError: the text is no YAML; the message begins with `origin`.
    """
    try:
        # YAML 1.2 like DVC's own reader: 1e-4 is a number and `no` is a word.
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{origin}{line}: not YAML: {error.problem}") from None
    except RecursionError:
        raise UserError(f"{origin}: nested too deeply") from None
    except (YAMLError, ValueError) as error:  # a control character; a date like 2020-13-45
        raise UserError(f"{origin}: not YAML: {str(error).splitlines()[0]}") from None


def check_params(values: Any, origin: Path | str) -> Params:
    """The typed params of plain values.

    Raises:
        UserError: a key is unknown or missing, or a value breaks its rule; the message begins with `origin`.
    """
    try:
        return Params.model_validate(_tuples(values))
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error, Params)}") from None


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples: strict pydantic takes no list for a tuple, and only tuples are frozen."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
