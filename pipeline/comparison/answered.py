"""What one run said of its test images, with what is needed to find the same images in another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import pandas as pd
import pyarrow
import pyarrow.parquet

from pipeline.errors import UserError

SUBJECT = "encoder"  # what is compared, of all that `evaluate` scores
PROTOCOLS = ("knn", "linear", "retrieval")  # the first that both have gives the verdict

OUTCOMES = "evaluation/outcomes.parquet"
MANIFEST = "images/manifest.parquet"


def _is_text(found: Any) -> bool:
    return bool(pyarrow.types.is_string(found) or pyarrow.types.is_large_string(found))


def _is_text_or_none(found: Any) -> bool:
    """A collection without labels has no class name to tell a type by."""
    return _is_text(found) or bool(pyarrow.types.is_null(found))


_INTEGER = (pyarrow.types.is_integer, "integers")
_TEXT, _NAME = (_is_text, "text"), (_is_text_or_none, "text")
_TRUTH = (pyarrow.types.is_boolean, "true or false")
_COLUMNS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    OUTCOMES: {"id": _INTEGER, "subject": _TEXT, "protocol": _TEXT, "correct": _TRUTH},
    MANIFEST: {"id": _INTEGER, "split": _TEXT, "class_name": _NAME, "sha256": _TEXT},
}
_MADE_BY = {OUTCOMES: "evaluate", MANIFEST: "fetch"}


@dataclass(frozen=True)
class Answered:
    """A run's test images and what the encoder answered about them.

    Attributes:
        name: as the person gave it, printable.
        images: a row a test image that was asked about, by id: sha256, class_name, and `copy`, which counts
            the images of equal sha256 from 0 in the order of their ids.
        correct: protocol -> whether the answer was right, bool, by id.
        seen: the sha256 of the training images.
    """

    name: str
    images: pd.DataFrame
    correct: dict[str, "pd.Series[bool]"]
    seen: frozenset[str]

    @classmethod
    def of(cls, name: str, outcomes: pd.DataFrame, manifest: pd.DataFrame) -> "Answered":
        """From the two tables of a run; the order of their rows is of no account.

        Raises:
            UserError: nothing was scored, or the tables are not of one collection.
        """
        answers = outcomes[(outcomes["subject"] == SUBJECT) & outcomes["protocol"].isin(PROTOCOLS)]
        if answers.empty:
            raise UserError(
                f"{name}: no test image was scored, as it has no labels or too few: what can be compared is "
                f"'spread' and 'views' of '{SUBJECT}' in data/metrics/evaluate.json, by 'dvc metrics diff'"
            )
        if manifest["id"].duplicated().any() or answers.duplicated(["id", "protocol"]).any():
            raise _not_of_one_run(name, "an id stands there twice")
        images = manifest.set_index("id").sort_index()
        images = images[images.index.isin(answers["id"])]
        strangers = set(answers["id"]) - set(images.index[images["split"] == "test"])
        if strangers:
            raise _not_of_one_run(
                name, f"image {min(strangers)} has an answer and is no test image of the manifest"
            )
        images = images[["sha256", "class_name"]].assign(copy=images.groupby("sha256").cumcount())
        correct = {
            protocol: answers[answers["protocol"] == protocol].set_index("id")["correct"]
            for protocol in PROTOCOLS
        }
        seen = frozenset(manifest.loc[manifest["split"] == "train", "sha256"])
        return cls(name, images, {protocol: of for protocol, of in correct.items() if len(of)}, seen)


def read_table(file: BinaryIO, path: str, where: str) -> pd.DataFrame:
    """One of the two tables, checked.

    Args:
        file: open, of Parquet.
        path: `OUTCOMES` or `MANIFEST`.
        where: how the file is called to a person.

    Raises:
        UserError: it is damaged, or lacks a column, as an earlier version wrote it.
    """
    mend = f"run 'dvc repro --force --single-item {_MADE_BY[path]}' there"
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        missing = [column for column in _COLUMNS[path] if column not in parquet.schema_arrow.names]
        if missing:
            raise UserError(f"{where}: has no column {missing[0]!r}, as an earlier version wrote it: {mend}")
        table = parquet.read(columns=list(_COLUMNS[path]))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the machine's, not the file's
            raise
        raise UserError(f"{where}: damaged, not a whole Parquet file: {mend}") from None
    for column, (holds, kind) in _COLUMNS[path].items():
        found = table.schema.field(column).type
        found = found.value_type if pyarrow.types.is_dictionary(found) else found
        if table.num_rows and not holds(found):  # of nothing pyarrow tells no type
            raise UserError(f"{where}: column {column!r} holds {found}, not {kind}: {mend}")
        if column != "class_name" and table.column(column).null_count:
            raise UserError(f"{where}: column {column!r} has gaps: {mend}")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _not_of_one_run(name: str, reason: str) -> UserError:
    return UserError(
        f"{name}: {OUTCOMES} and {MANIFEST} are not of one run, {reason}: run 'dvc repro' there first"
    )
