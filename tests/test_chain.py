"""The whole chain through DVC, in clones: it runs, it rests, and it writes the same bytes twice."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Artifacts
from pipeline.evaluation.findings.table import KINDS, read_findings
from tests.conftest import ROOT, SMALL_RUN, change_params, clone_project, repro
from tests.processes import run

pytestmark = pytest.mark.slow

STAGES = ["fetch", "pretrain", "export", "finetune", "embed", "index", "evaluate", "report"]


def test_a_second_repro_does_nothing(small_chain: Path) -> None:
    looked_at = {"source.json", "weights.json", "code"}  # written anew, and the same
    written = [
        path
        for path in (small_chain / "data").rglob("*")
        if not looked_at & set(path.relative_to(small_chain / "data").parts)
    ]
    before = {path: path.stat().st_mtime_ns for path in written if path.is_file()}
    printed = run("dvc", "repro", cwd=small_chain).stdout
    # they look at source, code and weights, find them as they were, and nothing else runs
    assert re.findall(r"Running stage '(\w+)'", printed) == ["scan", "weights"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run("git", "status", "--porcelain", "dvc.yaml", ".gitignore", cwd=small_chain).stdout == ""


def test_all_that_read_this_chain_run_in_the_process_that_ran_it(
    small_chain: Path, request: pytest.FixtureRequest
) -> None:
    """pytest-xdist 3.8 with pytest 9.2 spreads them over the processes without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@small_chain")


def test_two_clones_write_the_same_bytes(small_chain: Path, tmp_path: Path) -> None:
    other = clone_project(tmp_path / "clone")
    change_params(other / "params.yaml", SMALL_RUN)
    repro(other)
    assert (other / "dvc.lock").read_text() == (small_chain / "dvc.lock").read_text()
    for name in ("encoder/encoder.onnx", "index/images.faiss", "metrics/evaluate.json", "report/index.html"):
        assert (other / "data" / name).read_bytes() == (small_chain / "data" / name).read_bytes(), name


def test_a_changed_param_reruns_its_stage_and_what_stands_after(small_chain: Path, tmp_path: Path) -> None:
    params = small_chain / "params.yaml"
    before = params.read_text()
    try:
        change_params(params, {"index.num_queries": 10})
        printed = run("dvc", "status", cwd=small_chain).stdout
    finally:
        params.write_text(before)
    assert "index:" in printed
    for stage in ("fetch", "pretrain", "export", "finetune", "embed", "evaluate"):
        assert f"{stage}:" not in printed


def test_a_word_in_what_only_speaks_reruns_nothing_and_changed_code_its_stage(small_chain: Path) -> None:
    def changed_stages(module: str) -> set[str]:
        file = small_chain / module
        before = file.read_bytes()
        try:
            file.write_bytes(before + b"# another word\n")
            run("dvc", "repro", "scan", cwd=small_chain)
            return set(json.loads(run("dvc", "status", "--json", cwd=small_chain).stdout)) - always
        finally:
            file.write_bytes(before)
            run("dvc", "repro", "scan", cwd=small_chain)

    always = {"scan", "weights"}  # they always look
    assert changed_stages("pipeline/errors.py") == set()
    assert changed_stages("pipeline/training/display/progress.py") == set()
    assert changed_stages("pipeline/training/learner.py") == {"pretrain", "report"}  # which names its hash


def test_no_output_holds_a_path_or_this_machine(small_chain: Path) -> None:
    traces = [str(small_chain).encode(), str(ROOT).encode(), b"site-packages"]
    files = [path for path in (small_chain / "data").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        for trace in traces:
            assert trace not in path.read_bytes(), (path, trace)


def test_fetch_writes_the_collection_that_its_manifest_lists(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    manifest = data.read_manifest()
    assert list(manifest.columns) == [
        *("id", "split", "label", "class_name", "source", "width", "height", "sha256")
    ]
    assert manifest["id"].tolist() == list(range(5000))
    assert manifest["split"].tolist() == ["train"] * 4000 + ["test"] * 1000
    assert (manifest["class_name"] == manifest["label"].astype(str)).all()
    assert data.read_images("train").shape == (4000, 32, 32, 3)
    assert data.read_collection()["num_images"] == {"train": 4000, "test": 1000}
    assert (data.images / "rejected.csv").read_text().splitlines() == ["source,reason"]


def test_pretrain_records_every_epoch_from_the_start_on(small_chain: Path) -> None:
    history = pd.read_csv(small_chain / "data/pretrain/history.tsv", sep="\t")
    assert history["epoch"].tolist() == list(range(SMALL_RUN["pretrain.epochs"] + 1))  # type: ignore[operator]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    # of 2 x 256 views the pair is one of 511: chance is 0.002
    assert history["top1"].iloc[-1] > 0.02
    assert 0.5 / math.sqrt(64) < history["projection_std"].iloc[-1] < 1.05 / math.sqrt(64)


def test_export_meets_the_contract_of_parity(small_chain: Path) -> None:
    metrics = json.loads((small_chain / "data/metrics/export.json").read_text())
    assert metrics["max_abs_difference"] <= 1e-5
    assert metrics["min_cosine"] >= 0.99999
    names = {path.name for path in (small_chain / "data/encoder").iterdir()}
    assert names == {"encoder.onnx", "start.onnx"}


def test_the_encoder_carries_where_it_comes_from(small_chain: Path) -> None:
    from pipeline import Encoder

    data = Artifacts(small_chain / "data")
    metadata = Encoder.open(data.encoder, "cpu").metadata
    assert metadata["method"] == "simclr"
    assert (metadata["backbone"], metadata["feature_dim"], metadata["image_size"]) == ("resnet20", 32, 32)
    assert metadata["width"] == SMALL_RUN["pretrain.backbone.width"]
    assert metadata["data_sha256"] == data.read_collection()["sha256"]
    scaled = data.read_images("train").astype(np.float64) / 255
    np.testing.assert_allclose(metadata["mean"], scaled.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(metadata["std"], scaled.std(axis=(0, 1, 2)))
    for key in ("name", "version", "resize", "interpolation", "collection", "params_sha256"):
        assert metadata[key], key


def test_embeddings_are_normalised_and_trained_ones_differ(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    for split in data.splits():
        embeddings = data.read_embeddings(split)
        assert embeddings.dtype == np.float32
        assert embeddings.shape == (len(data.read_images(split)), 32)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        assert not np.allclose(embeddings, data.read_embeddings(split, of_start=True), atol=0.01)


def test_evaluate_scores_three_subjects_by_every_protocol(small_chain: Path) -> None:
    scores = json.loads((small_chain / "data/metrics/evaluate.json").read_text())
    about_labels = {"majority_share", "num_classes_only_in_test", "num_classes_only_in_train"}
    assert set(scores) == about_labels | {"encoder", "start", "pixels", "over_start", "findings"}
    for protocol in ("knn", "linear", "retrieval"):
        gain = scores["over_start"][protocol]
        expected = scores["encoder"][protocol]["top1"] - scores["start"][protocol]["top1"]
        assert gain["top1"] == pytest.approx(expected)
        assert gain["top1_low"] < gain["top1"] < gain["top1_high"]
    assert scores["majority_share"] == 0.1
    of_classes = {"top5", "balanced_accuracy"} | headline("top1")
    few = {"std", "balanced_accuracy", "num_images", "converged"} | headline("mean")
    of_ranks = {"recall_at_10", "r_precision", "map", "median_first_rank"}
    for subject in ("encoder", "start", "pixels"):
        hubs = {"largest_share", "most_returned", "never_returned", "hubness_skewness"}
        assert {protocol: set(figures) for protocol, figures in scores[subject].items()} == {
            "knn": of_classes | {"recall", "k", "temperature"},
            "linear": of_classes | {"recall", "C", "iterations", "converged"},
            **dict.fromkeys(("linear_1pct", "linear_5pct", "linear_10pct"), few),
            **dict.fromkeys(("linear_1shot", "linear_5shot", "linear_16shot"), few),
            "retrieval": of_classes | of_ranks | headline("precision_at_10") | headline("map_at_r"),
            "clusters": {"nmi", "ari", "num_clusters"},
            "views": {"alignment"} | with_bounds("consistency"),
            "spread": {"effective_rank", "uniformity", "collapsed"},
            **({"hubness": hubs} if subject == "encoder" else {}),
        }
        for protocol in ("knn", "linear", "retrieval"):
            of = scores[subject][protocol]
            assert of["top1_low"] <= of["top1"] <= of["top1_high"]
        assert list(scores[subject]["knn"]["recall"]) == [str(digit) for digit in range(10)]
    # one epoch on small views is enough to be better than nothing
    assert scores["encoder"]["knn"]["top1"] > scores["start"]["knn"]["top1"] + 0.05
    # digits: cosine kNN of pixels is 0.936 on this split
    assert scores["pixels"]["knn"]["top1"] == pytest.approx(0.936, abs=0.02)


def with_bounds(figure: str) -> set[str]:
    return {figure, f"{figure}_low", f"{figure}_high"}


def headline(figure: str) -> set[str]:
    return with_bounds(figure) | {f"{figure}_without_pairs"}


def test_evaluate_lists_what_is_wrong_with_the_images(small_chain: Path) -> None:
    data = Artifacts(small_chain / "data")
    findings = read_findings(data.findings)
    scores = json.loads((small_chain / "data/metrics/evaluate.json").read_text())
    assert (findings["kind"] == "label").sum() == 500  # a tenth
    assert set(scores["findings"]) == set(KINDS)
    ids = np.concatenate(findings["ids"].to_list())
    assert ((ids >= 0) & (ids < 5000)).all()
    split = data.read_manifest()["split"].to_numpy()
    for pair in findings.loc[findings["kind"] == "train_test_pair", "ids"]:
        assert [split[each] for each in pair] == ["train", "test"]


def test_evaluate_writes_what_dvc_draws(small_chain: Path) -> None:
    evaluation = small_chain / "data/evaluation"
    curves = pd.read_csv(evaluation / "few_labels.tsv", sep="\t")
    assert set(curves["subject"]) == {"encoder", "start", "pixels"}
    for _, curve in curves.groupby("subject"):
        assert curve["num_images"].is_monotonic_increasing
        assert curve["num_images"].iloc[-1] == 4000
    confusion = pd.read_csv(evaluation / "confusion.tsv", sep="\t")
    assert len(confusion) == 1000
    scores = json.loads((small_chain / "data/metrics/evaluate.json").read_text())
    right = (confusion["actual"] == confusion["predicted"]).mean()
    assert right == pytest.approx(scores["encoder"]["linear"]["top1"])


def test_dvc_shows_metrics_and_plots(small_chain: Path) -> None:
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=small_chain).stdout)[""]["data"]
    for stage in STAGES:
        assert stage in ("finetune", "embed", "report") or f"data/metrics/{stage}.json" in shown
        assert f"data/speed/{stage}.json" in shown
    assert shown["data/speed/embed.json"]["data"]["provider"] == "CPUExecutionProvider"
    page = run("dvc", "plots", "show", "--out", "plots", cwd=small_chain)
    assert "index.html" in page.stdout
    text = (small_chain / "plots/index.html").read_text()
    for plot in ("loss", "learning rate", "contrastive accuracy", "spread", "kNN", "taken for what"):
        assert plot in text, plot


def test_a_stage_that_fails_under_dvc_leaves_what_stood_before(small_chain: Path) -> None:
    params = small_chain / "params.yaml"
    before = params.read_text()
    outputs = {name: (small_chain / "data" / name) for name in ("index/images.faiss", "metrics/index.json")}
    whole = {name: path.read_bytes() for name, path in outputs.items()}
    try:
        change_params(params, {"index.factory": "Flatt"})
        failed = run("dvc", "repro", "index", cwd=small_chain, check=False)
    finally:
        params.write_text(before)
    assert failed.returncode != 0
    assert "params.yaml: index.factory: FAISS cannot build 'Flatt'" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert {name: path.read_bytes() for name, path in outputs.items()} == whole
    assert "Running stage 'index'" not in run("dvc", "repro", cwd=small_chain).stdout
