"""Did training help? The intervals against a bootstrap in slow loops, and the line that says it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from pipeline.errors import UserError
from pipeline.evaluation import intervals
from pipeline.evaluation.intervals import Interval, headline, mean_interval, paired_gain
from pipeline.evaluation.labelled import Outcomes
from pipeline.evaluation.outcomes import gains, write_confusion, write_outcomes
from pipeline.evaluation.verdict import Trained, verdict


def test_the_interval_is_that_of_images_drawn_with_replacement() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random(400) < 0.6, rng.random(400) < 0.7
    gain = paired_gain(before, after)
    assert gain.value == pytest.approx(after.mean() - before.mean())
    slow = []
    for _ in range(4000):
        rows = rng.integers(0, 400, 400)
        slow.append(after[rows].mean() - before[rows].mean())
    # the bounds of 2,000 draws are known to a twentieth of the standard deviation, 0.033
    assert gain.low == pytest.approx(np.percentile(slow, 2.5), abs=0.006)
    assert gain.high == pytest.approx(np.percentile(slow, 97.5), abs=0.006)
    assert paired_gain(before, after) == gain


@pytest.mark.parametrize("kind", ["right or wrong", "a share"])
def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).random(300)
    if kind == "right or wrong":
        values = (values < 0.7).astype(float)
    oracle = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=0)
    found = mean_interval(values)
    assert found.value == pytest.approx(values.mean())
    # the bounds of 2,000 draws are known to a twentieth of the standard error, which is below 0.03
    assert found.low == pytest.approx(oracle.confidence_interval.low, abs=0.005)
    assert found.high == pytest.approx(oracle.confidence_interval.high, abs=0.005)
    assert mean_interval(np.ones(5)) == Interval(1.0, 1.0, 1.0)
    monkeypatch.setattr(intervals, "_BLOCK_BYTES", 1)
    assert mean_interval(values).low == pytest.approx(found.low)


def test_images_are_compared_in_pairs() -> None:
    """The same accuracies, on the same images or on others: pairs that agree leave nothing to chance."""
    before = np.arange(100) < 50
    assert paired_gain(before, before) == Interval(0.0, 0.0, 0.0)
    others = paired_gain(before, ~before)
    assert others.value == 0.0
    assert others.low < -0.1 < 0.1 < others.high


def test_so_few_images_that_chance_would_do_it_prove_nothing() -> None:
    """Of two images that are both better the bootstrap draws no other, and five alike are chance in 16."""
    for num_better, beyond in ((1, False), (2, False), (5, False), (6, True)):
        gain = paired_gain(np.zeros(num_better, np.bool_), np.ones(num_better, np.bool_))
        assert gain.value == 1
        assert (gain.low > 0) is beyond
        loss = paired_gain(np.ones(num_better, np.bool_), np.zeros(num_better, np.bool_))
        assert (loss.high < 0) is beyond


def test_the_pairs_cover_the_true_gain_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        step = rng.choice([-1, 0, 1], size=200, p=[0.1, 0.7, 0.2])
        gain = paired_gain(step < 0, step > 0)
        covered += gain.low <= 0.1 <= gain.high
    # 95 % of 300, with a standard error of 1.3 points
    assert 0.91 <= covered / 300 <= 0.99


LAST = Interval(-0.032, -0.05, -0.01)
GAIN, LOSS = Interval(0.031, 0.012, 0.05), Interval(-0.004, -0.019, 0.011)
OVER = "+3.1 over the start (95 % interval 1.2 to 5.0)"
NO_BETTER = "no better than the start (-0.4, 95 % interval -1.9 to 1.1)"
BROKEN = "the start was kept; the training broke down before an epoch was over"
KEPT = "the start was kept; after epoch 4 held-out images had -3.2 (95 % interval -5.0 to -1.0)"
SAME = Interval(0.0, 0.0, 0.0)
AS_IT_IS = "the start as it is, nothing was trained (pretrain.epochs: 0)"
LINES = [
    (GAIN, Trained(4, 4, LAST), f", {OVER}"),
    (GAIN, Trained(4, 4, None), f", {OVER}"),
    (LOSS, Trained(4, 4, LAST), f", {NO_BETTER}: pretrain.epochs: 0 is the better choice"),
    (SAME, Trained(4, 0, LAST), f": {KEPT}"),
    (SAME, Trained(0, 0, SAME), f": {BROKEN}"),
    (SAME, Trained(0, 0, None), f": {AS_IT_IS}"),
]


@pytest.mark.parametrize(("gain", "trained", "line"), LINES)
def test_the_last_line_says_whether_training_helped(gain: Interval, trained: Trained, line: str) -> None:
    assert verdict({"top1": 0.712}, gain, trained) == f"kNN 71.2 %{line}"


@pytest.mark.parametrize(
    ("trained", "line"),
    [
        (Trained(0, 0, None), f"no kNN with these labels: {AS_IT_IS}"),
        (Trained(0, 0, SAME), f"no kNN with these labels: {BROKEN}"),
        (Trained(4, 0, LAST), f"no kNN with these labels: {KEPT}"),
        (
            Trained(4, 4, LAST),
            "did training help? no kNN with these labels: look at spread in data/metrics/evaluate.json",
        ),
    ],
)
def test_without_knn_of_the_test_images_the_rest_is_said(trained: Trained, line: str) -> None:
    assert verdict(None, None, trained) == line


def test_metrics_of_an_earlier_version_are_told() -> None:
    with pytest.raises(
        UserError, match=r"pretrain\.json: has no 'kept_epoch', as an earlier version wrote it"
    ):
        Trained.of({"epoch": 3})


def test_outcomes_have_the_same_columns_where_there_are_none(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "none.parquet", {}, np.empty(0, dtype=np.int64))
    found = pd.read_parquet(tmp_path / "none.parquet")
    assert list(found) == ["id", "subject", "protocol", "predicted", "correct"]
    # pandas reads categories without one as plain strings; they were numbers once
    assert {str(found[name].dtype) for name in ("subject", "protocol")} <= {"category", "object"}


def test_what_pretrain_says_of_itself_is_read_back() -> None:
    metrics = {"epoch": 3, "kept_epoch": 1, "knn_gain": 0.1, "knn_gain_low": 0.0, "knn_gain_high": 0.2}
    assert Trained.of(metrics) == Trained(3, 1, Interval(0.1, 0.0, 0.2))
    assert Trained.of({"epoch": 0, "kept_epoch": 0}) == Trained(0, 0, None)


def test_the_table_of_outcomes_has_a_row_for_each_answer(tmp_path: Path) -> None:
    def said(*predicted: int) -> Outcomes:
        return Outcomes(np.array([0, 2]), np.array(predicted), np.array(predicted) == 1)

    outcomes = {"encoder": {"knn": said(1, 1)}, "start": {"knn": said(1, 0)}, "pixels": {"knn": said(-1, 0)}}
    path = tmp_path / "outcomes.parquet"
    write_outcomes(path, outcomes, np.array([7, 8, 9]))
    table = pd.read_parquet(path)
    assert list(table.columns) == ["id", "subject", "protocol", "predicted", "correct"]
    assert table["id"].tolist() == [7, 9] * 3
    assert table["subject"].tolist() == ["encoder"] * 2 + ["start"] * 2 + ["pixels"] * 2
    assert table["predicted"].tolist() == [1, 1, 1, 0, -1, 0]
    assert table["correct"].tolist() == [True, True, True, False, False, False]
    content = path.read_bytes()
    write_outcomes(path, outcomes, np.array([7, 8, 9]))
    assert path.read_bytes() == content
    assert gains(outcomes)["knn"].value == 0.5
    write_outcomes(path, {}, np.array([7, 8, 9]))
    assert len(pd.read_parquet(path)) == 0


def test_every_headline_stands_once_more_without_the_images_that_leaked() -> None:
    correct = np.array([True, True, False, True])
    figures = headline("top1", correct, np.array([True, True, False, False]))
    assert figures["top1"] == 0.75
    assert figures["top1_low"] < 0.75 < figures["top1_high"]
    assert figures["top1_without_pairs"] == 0.5
    assert "top1_without_pairs" not in headline("top1", correct, np.ones(4, np.bool_))


def test_what_is_taken_for_what_is_a_row_an_image(tmp_path: Path) -> None:
    said = Outcomes(np.array([0, 2]), np.array([1, -1]), np.array([False, False]))
    path = tmp_path / "confusion.tsv"
    write_confusion(path, {"encoder": {"linear": said}}, np.array([0, 1, 1]), ["a\tb", "c"])
    table = pd.read_csv(path, sep="\t")
    assert table.to_dict("records") == [
        {"actual": "a\tb", "predicted": "c"},
        {"actual": "c", "predicted": "none"},
    ]
    write_confusion(path, {}, np.array([0]), ["a"])
    assert path.read_text() == "actual\tpredicted\n"
