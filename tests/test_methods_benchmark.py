"""`python -m benchmarks.methods`: what is held out, what is run again, and the table's arithmetic."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import methods
from tests.conftest import ROOT

# seconds in place of minutes
TINY = [
    *("pretrain.epochs=1", "pretrain.backbone.width=2", "pretrain.views.size=8"),
    *("dataset.image_size=28", "evaluate.linear.C=[0.01]", "evaluate.linear.max_iterations=2"),
    *("evaluate.linear.few_label_seeds=[0, 1]", "evaluate.retrieval.num_queries=10"),
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    settings = [part for setting in TINY for part in ("-S", setting)]
    monkeypatch.setattr(sys, "argv", ["methods", *arguments, *settings])
    methods.main()


def test_a_run_that_stands_in_the_file_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    identity, class_names, train, test = methods.read_collection(methods.with_settings(TINY))
    few = tuple(part[::4] for part in train)  # of ten classes 100 each
    # once for both
    monkeypatch.setattr(methods, "read_collection", lambda _: (identity, class_names, few, test))
    output = tmp_path / "runs.jsonl"
    wanted = ["-o", str(output), "--held-out", "--methods", "simsiam", "--precisions", "float32", "--seeds"]
    call(monkeypatch, *wanted, "0")
    (first,) = methods.read_rows(output)
    output.write_bytes(output.read_bytes() + b'{"key": "cut o')  # killed as it wrote
    capsys.readouterr()

    call(monkeypatch, *wanted, "0", "1")
    again, second = methods.read_rows(output)
    assert again == first
    assert (second["seed"], second["last_epoch"]["loss"]) != (0, first["last_epoch"]["loss"])
    printed = capsys.readouterr().out
    assert "run 1 of 2" not in printed
    assert "run 2 of 2: simsiam float32 1" in printed
    assert "200 images, a held-out fifth of the training images" in printed
    knn = [100 * row["scores"]["knn"]["top1"] for row in (first, second)]
    mean, deviation = sum(knn) / 2, abs(knn[0] - knn[1]) / 2**0.5
    assert f"| simsiam | float32 | 2 | {mean:.1f} ± {deviation:.1f} |" in printed


def test_what_is_scored_on_is_not_learned_from_and_has_every_class_in_its_share() -> None:
    images = np.arange(100).astype(np.uint8).reshape(100, 1, 1, 1)
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    (learned, learned_labels), (scored, scored_labels) = methods.hold_out((images, labels))
    assert sorted([*learned.ravel(), *scored.ravel()]) == list(range(100))
    assert np.bincount(scored_labels).tolist() == [10, 6, 4]
    np.testing.assert_array_equal(labels[scored.ravel()], scored_labels)
    np.testing.assert_array_equal(labels[learned.ravel()], learned_labels)
