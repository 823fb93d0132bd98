"""What was found of a collection's faults, as one table."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.params.evaluate import Findings

Kind = Literal["exact_copy", "near_duplicate", "train_test_pair", "outlier", "label"]
KINDS: tuple[Kind, ...] = ("exact_copy", "near_duplicate", "train_test_pair", "outlier", "label")
_SCHEMA = pa.schema(
    [("kind", pa.string()), ("ids", pa.list_(pa.int64())), ("score", pa.float64()), ("why", pa.string())]
)


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: of `KINDS`.
        ids: the images that it is about, by their ids in the manifest.
        score: the larger the surer; comparable within a kind.
        why: in words.
    """

    kind: Kind
    ids: tuple[int, ...]
    score: float
    why: str


def shown_from(kind: Kind, params: Findings) -> float:
    """The score from which findings of a kind are shown."""
    return {
        "exact_copy": 0.0,
        "near_duplicate": params.near_duplicate,
        "train_test_pair": params.near_duplicate,
        "outlier": params.outlier,
        "label": params.label,
    }[kind]


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Writes a row a finding, kind by kind, the surest first: kind, ids, score, why."""
    ordered = sorted(findings, key=lambda found: (KINDS.index(found.kind), -found.score, found.ids))
    columns = {name: [getattr(found, name) for found in ordered] for name in _SCHEMA.names}
    pq.write_table(pa.table(columns, schema=_SCHEMA), path)


def read_findings(path: Path) -> pd.DataFrame:
    """The table of `write_findings`; `ids` is an array of int64 in each row."""
    return pd.read_parquet(path)


def counts(findings: Iterable[Finding], params: Findings) -> dict[str, int]:
    """Of each kind how many are shown; of groups of near-duplicates the largest at the threshold alone."""
    shown = [found for found in findings if found.score >= shown_from(found.kind, params)]
    of_kind = Counter(found.kind for found in shown)
    seen: set[int] = set()
    num_groups = 0
    groups = [found for found in shown if found.kind == "near_duplicate"]
    for group in sorted(groups, key=lambda found: -len(found.ids)):
        if seen.isdisjoint(group.ids):
            num_groups += 1
            seen.update(group.ids)
    of_kind["near_duplicate"] = num_groups
    return {str(kind): of_kind[kind] for kind in KINDS}


def in_words(found: dict[str, int]) -> str:
    """Like `2 groups of near-duplicates, 1 pair across train and test`."""
    names = {
        "exact_copy": "groups of copies",
        "near_duplicate": "of near-duplicates",
        "train_test_pair": "pairs across train and test",
        "outlier": "outliers",
        "label": "doubtful labels",
    }
    return ", ".join(f"{found[kind]:,} {name}" for kind, name in names.items())
