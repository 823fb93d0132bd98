"""What `lookalike compare` does not compare: one plain line each, and the right exit code."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.outcomes import write_outcomes
from tests.processes import fails
from tests.two_runs import MANIFEST, OUTCOMES, changed, right, write_run, write_two


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two runs."""
    write_two(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "column", "line"),
    [
        (
            OUTCOMES,
            "subject",
            "b/evaluation/outcomes.parquet: has no column 'subject', as an earlier ",
        ),
        (
            MANIFEST,
            "sha256",
            "b/images/manifest.parquet: has no column 'sha256', as an earlier ",
        ),
    ],
)
def test_a_table_of_an_earlier_version_is_one_line(two: Path, path: str, column: str, line: str) -> None:
    changed(two / "b" / path, lambda table: table.drop(columns=column))
    assert fails(2, "lookalike", "compare", "a", "b", cwd=two).startswith(line)


@pytest.mark.parametrize("content", [b"", b"no Parquet at all", None])
def test_a_damaged_table_is_one_line(two: Path, content: bytes | None) -> None:
    path = two / "b" / OUTCOMES
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    line = fails(2, "lookalike", "compare", "a", "b", cwd=two)
    assert line == (
        "b/evaluation/outcomes.parquet: damaged, not a whole Parquet file: "
        "run 'dvc repro --force --single-item evaluate' there"
    )


def other_type(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(correct=table["correct"].astype(str))


def twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table])


def other_ids(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(id=table["id"] + 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (other_type, "b/evaluation/outcomes.parquet: column 'correct' holds "),
        (
            twice,
            f"b: {OUTCOMES} and {MANIFEST} are not of one run, an id stands there twice",
        ),
        (
            other_ids,
            f"b: {OUTCOMES} and {MANIFEST} are not of one run, image 210 ",
        ),
    ],
)
def test_outcomes_that_are_none_are_one_line(
    two: Path, change: Callable[[pd.DataFrame], pd.DataFrame], line: str
) -> None:
    changed(two / "b" / OUTCOMES, change)
    assert fails(2, "lookalike", "compare", "a", "b", cwd=two).startswith(line)


def test_without_labels_the_line_says_what_can_be_compared(two: Path) -> None:
    write_outcomes(two / "b" / OUTCOMES, {}, np.arange(10, 210))  # as stage evaluate does then
    changed(two / "b" / MANIFEST, lambda table: table.assign(label=-1, class_name=None))
    line = fails(2, "lookalike", "compare", "a", "b", cwd=two)
    assert line == (
        "b: no test image was scored, as it has no labels or too few: what can be compared is 'spread' and "
        "'views' of 'encoder' in data/metrics/evaluate.json, by 'dvc metrics diff'"
    )


def test_a_manifest_that_came_after_the_evaluation_is_one_line(two: Path) -> None:
    (two / "b/embeddings").mkdir()
    (two / "b/embeddings/embeddings.json").write_text('{"manifest.parquet": "0123456789abcdef"}')
    line = fails(2, "lookalike", "compare", "a", "b", cwd=two)
    assert line.startswith(
        "b/evaluation/outcomes.parquet: is of manifest.parquet 0123456789ab, and b/images/"
    )


def test_too_little_in_common_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"knn": right(20)})
    write_run(tmp_path / "b", {"knn": right(1000)}, sha256=[f"other{row}" for row in range(1000)])
    line = fails(2, "lookalike", "compare", "a", "b", cwd=tmp_path)
    assert line.startswith("A (a) and B (b) have no test image in common, of 20 and 1,000 (by sha256): ")
    write_run(tmp_path / "b", {"knn": right(5)})
    line = fails(2, "lookalike", "compare", "a", "b", cwd=tmp_path)
    assert line.endswith(
        "have 5 test images with the same class in common, of 20 and 5: of fewer than 6 "
        "no difference is beyond chance"
    )
    write_run(tmp_path / "b", {"linear": right(20)})
    line = fails(2, "lookalike", "compare", "a", "b", cwd=tmp_path)
    assert line == "A (a) and B (b) were scored by no common protocol: A has knn, B has linear"


def test_a_folder_that_is_no_run_is_one_line(two: Path) -> None:
    (two / "empty").mkdir()
    line = fails(2, "lookalike", "compare", "a", "empty", cwd=two)
    assert line.startswith("empty: a folder without evaluation/ or images/ and without data/, so no run")
    (two / "b" / OUTCOMES).unlink()
    line = fails(2, "lookalike", "compare", "a", "b", cwd=two)
    assert line == f"b/{OUTCOMES}: missing, stage 'evaluate' makes it: run 'dvc repro evaluate'"


def test_an_unknown_protocol_is_one_line(two: Path) -> None:
    line = fails(2, "lookalike", "compare", "a", "b", "--by", "top5", cwd=two)
    assert line == "--by: 'top5' is none of knn, linear, retrieval"


def interrupted_soon() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.5)


def test_ctrl_c_is_one_line(two: Path) -> None:
    (two / "b" / OUTCOMES).unlink()
    os.mkfifo(two / "b" / OUTCOMES)  # nobody writes to it, so a reader waits
    line = fails(130, "lookalike", "compare", "a", "b", cwd=two, before=interrupted_soon)
    assert line.startswith("interrupted")
