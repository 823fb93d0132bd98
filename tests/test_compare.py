"""Which of two runs is better: pairs by content, the interval against SciPy's, and what is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tests.conftest import ROOT
from tests.processes import fails, run_lookalike
from tests.two_runs import MANIFEST, OUTCOMES, changed, names, right, write_run, write_two


def compared(folder: Path, *options: str) -> dict[str, object]:
    """The comparison of runs `a` and `b` in a folder, as JSON."""
    return json.loads(run_lookalike("compare", "a", "b", "--json", *options, cwd=folder).stdout)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two runs."""
    write_two(tmp_path)
    return tmp_path


def test_a_table_of_every_protocol_ends_in_the_verdict(two: Path) -> None:
    lines = run_lookalike("compare", "a", "b", cwd=two).stdout.splitlines()
    assert lines[:3] == [
        "A  a  200 test images",
        "B  b  200 test images",
        "200 of them are the same images",
    ]
    assert lines[4].split() == ["top-1", "in", "%", "images", "A", "B", "B", "-", "A", "95", "%", "interval"]
    assert lines[5].split()[:5] == ["kNN", "200", "85.0", "95.0", "+10.0"]
    assert lines[6].split()[:5] == ["linear", "200", "97.5", "97.0", "-0.5"]
    assert len({len(line) for line in lines[4:7]}) == 1  # aligned
    assert lines[-1].startswith("better: B (b): kNN +10.0 (95 % interval ")


def test_the_interval_is_that_of_a_paired_bootstrap(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = rng.random(500) < 0.7
    b = np.where(rng.random(500) < 0.1, rng.random(500) < 0.9, a)  # mostly right where A is
    write_run(tmp_path / "a", {"knn": a.tolist()})
    write_run(tmp_path / "b", {"knn": b.tolist()})
    found = compared(tmp_path)["protocols"]["knn"]  # type: ignore[index]
    assert (found["a"], found["b"]) == (a.mean(), b.mean())
    assert found["gain"] == pytest.approx(b.mean() - a.mean())
    oracle = scipy.stats.bootstrap(
        (b.astype(float), a.astype(float)),
        lambda b, a, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found["gain_low"] == pytest.approx(oracle.low, abs=0.004)  # of 2,000 draws 0.001 either way
    assert found["gain_high"] == pytest.approx(oracle.high, abs=0.004)
    unpaired = 1.96 * 2 * np.sqrt((a.var() + b.var()) / 500)
    assert found["gain_high"] - found["gain_low"] < unpaired / 2


def test_a_run_is_no_different_from_itself(two: Path) -> None:
    printed = run_lookalike("compare", "a", "a", cwd=two).stdout
    assert printed.splitlines()[-1] == "no difference: kNN +0.0 for B (95 % interval 0.0 to 0.0)"
    assert "warning" not in printed


def test_the_other_way_round_the_same_run_is_better_by_the_same(tmp_path: Path) -> None:
    # nine against twenty-nine: drawn anew the other way round, a bound would be another
    write_run(tmp_path / "a", {"knn": right(1000, wrong=range(29))})
    write_run(tmp_path / "b", {"knn": right(1000, wrong=range(100, 109))})
    b = run_lookalike("compare", "a", "b", cwd=tmp_path).stdout.splitlines()[-1]
    a = run_lookalike("compare", "b", "a", cwd=tmp_path).stdout.splitlines()[-1]
    assert b.startswith("better: B (b): kNN +2.0 (")
    assert a == b.replace("better: B (b)", "better: A (b)")


def test_the_order_of_rows_is_of_no_account(two: Path) -> None:
    before = compared(two)
    for run in ("a", "b"):
        for path in (OUTCOMES, MANIFEST):
            changed(two / run / path, lambda table: table.sample(frac=1, random_state=len(table)))
    assert compared(two) == before


def test_images_that_one_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    every = names(120)
    write_run(tmp_path / "a", {"knn": right(120, wrong=range(30, 45))})
    # its ids are others for the same images, from the thirtieth on, and three images are its own
    later = [*every[30:], "one", "two", "three"]
    write_run(tmp_path / "b", {"knn": right(93, wrong=[91])}, sha256=later, num_train=12)
    found = compared(tmp_path)
    assert (found["num_common"], found["better"]) == (90, "B")
    knn = found["protocols"]["knn"]  # type: ignore[index]
    assert (knn["num_images"], knn["a"], knn["b"]) == (90, 75 / 90, 1.0)
    assert found["warnings"] == [
        "the test images differ: 30 in A alone and 3 in B alone are left out",
        "the training images differ: 10 and 12, of which 10 are the same; a difference may come from there",
    ]


def test_copies_meet_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = names(20)
    write_run(tmp_path / "a", {"knn": right(21, wrong=[0])}, sha256=[rows[0], *rows])
    write_run(tmp_path / "b", {"knn": right(21, wrong=[19])}, sha256=[*rows[1:], rows[0], rows[0]])
    changed(tmp_path / "b" / MANIFEST, lambda table: table[::-1])
    knn = compared(tmp_path)["protocols"]["knn"]  # type: ignore[index]
    assert (knn["num_images"], knn["num_decided"]) == (21, 0)  # the first copy is wrong in both


def test_an_image_of_another_class_in_each_is_left_out(tmp_path: Path) -> None:
    wrong = range(15)
    write_run(tmp_path / "a", {"knn": right(50, wrong=wrong)}, classes=["cat"] * 15 + ["dog"] * 35)
    # one class more moves the numbers of the others, and their names not
    write_run(tmp_path / "b", {"knn": right(50)}, classes=["ant"] * 15 + ["dog"] * 35)
    found = compared(tmp_path)
    assert found["verdict"] == "no difference: kNN +0.0 for B (95 % interval 0.0 to 0.0)"
    assert found["warnings"] == ["15 images have another class in each and are left out"]


@pytest.mark.parametrize(("num_decided", "better"), [(5, None), (6, "B")])
def test_fewer_than_six_images_decide_nothing(tmp_path: Path, num_decided: int, better: str | None) -> None:
    write_run(tmp_path / "a", {"knn": right(1000, wrong=range(num_decided))})
    write_run(tmp_path / "b", {"knn": right(1000)})
    found = compared(tmp_path)
    assert found["better"] == better
    assert (found["protocols"]["knn"]["gain_low"] > 0) is (better == "B")  # type: ignore[index]
    # as SciPy has it: 0.0625 and 0.031
    assert (scipy.stats.binomtest(0, num_decided).pvalue < 0.05) == (better is not None)
    if better is None:
        assert str(found["verdict"]).endswith("; 5 images decide it, and fewer than 6 may be chance")


def test_the_verdict_is_by_the_first_protocol_that_both_have(two: Path) -> None:
    assert compared(two)["by"] == "knn"
    assert compared(two, "--by", "linear")["by"] == "linear"
    changed(two / "a" / OUTCOMES, lambda table: table[table["protocol"] != "knn"])
    found = compared(two)
    assert (found["by"], found["better"], list(found["protocols"])) == ("linear", None, ["linear"])  # type: ignore[call-overload]
    assert found["warnings"] == ["knn is left out: fewer than 6 images have it in both"]
    line = fails(2, "lookalike", "compare", "a", "b", "--by", "knn", cwd=two)
    assert line == "--by: knn was not scored in both: A has linear, B has knn, linear"


def test_small_bounds_show_that_they_are_not_zero(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"knn": right(20_000, wrong=range(8))})
    write_run(tmp_path / "b", {"knn": right(20_000)})
    last = run_lookalike("compare", "a", "b", cwd=tmp_path).stdout.splitlines()[-1]
    assert last.startswith("better: B (b): kNN +0.04 (95 % interval 0.01 to ") or "0.02 to" in last


def test_a_project_is_its_data(two: Path) -> None:
    (two / "project").mkdir()
    (two / "a").rename(two / "project/data")
    last = run_lookalike("compare", "project", "b", cwd=two).stdout.splitlines()[-1]
    assert last.startswith("better: B (b): kNN +10.0")


def test_two_folders_need_neither_torch_nor_dvc(two: Path) -> None:
    program = (
        "import sys; sys.argv = ['lookalike', 'compare', 'a', 'b']\n"
        "from pipeline.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        "assert 'pandas' in sys.modules\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'torch', 'models', 'sklearn', 'dvc'}, loaded\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=two, env=environment, check=True)


@pytest.mark.slow
def test_what_the_chain_writes_is_compared(small_chain: Path) -> None:
    lines = run_lookalike("compare", "data", ".", cwd=small_chain).stdout.splitlines()
    assert [line.split()[:2] for line in lines[5:8]] == [
        ["kNN", "1,000"],
        ["linear", "1,000"],
        ["retrieval", "100"],
    ]
    assert lines[-1] == "no difference: kNN +0.0 for B (95 % interval 0.0 to 0.0)"
