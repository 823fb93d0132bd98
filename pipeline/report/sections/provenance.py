"""Section 7: what made all this: params, hashes and the project's version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pipeline.collection.sources.collection import printable
from pipeline.report.figures import Figure
from pipeline.report.run import Run

# where something lies on one machine: a page that is sent on says the name alone
_PATHS = ("dataset.path", "dataset.root", "pretrain.backbone.weights")


@dataclass(frozen=True)
class Provenance:
    """What the template shows: name and value of each hash, and of each param, and the table of both."""

    version: str
    hashes: Sequence[tuple[str, str]]
    params: Sequence[tuple[str, str]]
    figure: Figure


def provenance(run: Run) -> Provenance:
    params = [(key, _said(key, value)) for key, value in _leaves(run.params)]
    hashes = list(run.hashes.items())
    rows = [["version of lookalike", run.version], *map(list, hashes), *map(list, params)]
    return Provenance(run.version, hashes, params, Figure("provenance", ("name", "value"), rows))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _said(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if key in _PATHS:
        return printable(PurePath(str(value)).name)
    return printable(str(value))
