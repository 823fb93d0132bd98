"""Brings a project to what the installed version of the package has: keys of params.yaml, and the chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic_file
from pipeline.errors import UserError
from pipeline.params.reader import PARAMS_FILE, check_params, parse_yaml, read_text
from pipeline.project.new import TEMPLATE
from pipeline.recipes import Overlay, as_written, lay_over, leaves, round_trip

CHAIN = Path("dvc.yaml")
_SECTIONS = ("dataset", "pretrain", "evaluate")  # that every version had


@dataclass(frozen=True)
class Upgraded:
    """What changed.

    Attributes:
        added: dotted keys of params.yaml that are new, with their defaults.
        removed: those that no stage reads any more, with the values that they had.
        chain: whether dvc.yaml is another.
    """

    added: dict[str, object] = field(default_factory=dict)
    removed: dict[str, object] = field(default_factory=dict)
    chain: bool = False


def upgrade_project() -> Upgraded:
    """Adds the keys that the project lacks, with their comments, and writes dvc.yaml as this version has it.

    Every value of the person's stays, and of dvc.yaml the stages that are frozen or not ours. A file in which
    nothing changes is not written.

    Raises:
        UserError: params.yaml is not there or not of such a project, a value of it is refused, or dvc.yaml is
            damaged; nothing is written then.
    """
    template = read_text(TEMPLATE / PARAMS_FILE.name)
    defaults = leaves(parse_yaml(template, TEMPLATE))
    written = as_written(read_text(PARAMS_FILE), str(PARAMS_FILE))
    missing = [name for name in _SECTIONS if not isinstance(written, Mapping) or name not in written]
    if missing:
        raise UserError(
            f"{PARAMS_FILE}: has no section {missing[0]}, so it is not a project's of Lookalike: "
            "'lookalike init' makes one"
        )
    own = leaves(written)
    added = {key: value for key, value in defaults.items() if key not in own}
    removed = {key: value for key, value in own.items() if key not in defaults}
    kept = {key: value for key, value in own.items() if key in defaults}
    text = lay_over(template, [Overlay(str(PARAMS_FILE), kept)])
    check_params(parse_yaml(text, PARAMS_FILE), PARAMS_FILE)
    chain, is_other = _chain()
    if added or removed:
        with atomic_file(PARAMS_FILE) as partial:
            partial.write_text(text, encoding="utf-8")
    if is_other:
        with atomic_file(CHAIN) as partial:
            partial.write_text(chain, encoding="utf-8")
    return Upgraded(added, removed, chain=is_other)


def _chain() -> tuple[str, bool]:
    """dvc.yaml as this version has it, with what is the person's in it; whether that is another."""
    text = (TEMPLATE / "chain.yaml").read_text(encoding="utf-8")
    if not CHAIN.exists():
        return text, True
    before: Any = parse_yaml(read_text(CHAIN), CHAIN)
    stages = before.get("stages") if isinstance(before, Mapping) else None
    if not isinstance(stages, Mapping):
        raise UserError(
            f"{CHAIN}: has no stages: restore it, or remove it, and run 'lookalike upgrade' again"
        )
    chain = as_written(text, str(CHAIN))
    own = as_written(read_text(CHAIN), str(CHAIN))
    others = [name for name in own if name not in chain]  # artifacts, vars
    chain.update({name: own[name] for name in others})
    kept = bool(others)
    for name, stage in stages.items():
        if name not in chain["stages"]:
            chain["stages"][name] = own["stages"][name]
            kept = True
        elif isinstance(stage, Mapping) and stage.get("cmd") != chain["stages"][name]["cmd"]:
            raise UserError(
                f"{CHAIN}: stage {name!r} is one of yours, and this version has one of that name: "
                "rename yours"
            )
        elif isinstance(stage, Mapping) and stage.get("frozen"):  # by 'dvc freeze'
            chain["stages"][name]["frozen"] = True
            kept = True
    if kept:
        stream = StringIO()
        round_trip().dump(chain, stream)
        text = stream.getvalue()
    return text, parse_yaml(text, CHAIN) != before
