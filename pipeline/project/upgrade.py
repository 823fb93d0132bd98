"""Brings a project to what the installed version of the package has: keys of params.yaml, and the chain."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.atomic import atomic_file
from pipeline.params.reader import PARAMS_FILE, check_params, parse_yaml, read_text
from pipeline.project.new import TEMPLATE
from pipeline.recipes import Overlay, as_written, lay_over, leaves

CHAIN = Path("dvc.yaml")


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

    Every value of the person's stays. Where no key is missing or too many, params.yaml is not written.

    Raises:
        UserError: there is no params.yaml, or a value of it is refused; nothing is written then.
    """
    template = read_text(TEMPLATE / PARAMS_FILE.name)
    defaults = leaves(parse_yaml(template, TEMPLATE))
    own = leaves(as_written(read_text(PARAMS_FILE), str(PARAMS_FILE)))
    added = {key: value for key, value in defaults.items() if key not in own}
    removed = {key: value for key, value in own.items() if key not in defaults}
    kept = {key: value for key, value in own.items() if key in defaults}
    text = lay_over(template, [Overlay(str(PARAMS_FILE), kept)])
    check_params(parse_yaml(text, PARAMS_FILE), PARAMS_FILE)
    chain = (TEMPLATE / "chain.yaml").read_bytes()
    is_other = not CHAIN.exists() or CHAIN.read_bytes() != chain
    if added or removed:
        with atomic_file(PARAMS_FILE) as partial:
            partial.write_text(text, encoding="utf-8")
    if is_other:
        with atomic_file(CHAIN) as partial:
            partial.write_bytes(chain)
    return Upgraded(added, removed, chain=is_other)
