"""What the page is made of: thumbnails, neighbours, map, findings; and that it holds for any collection."""

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.arrays import Stacked
from pipeline.artifacts import Artifacts
from pipeline.params.reader import Params
from pipeline.report import nearest as nearest_module
from pipeline.report import tsne
from pipeline.report.nearest import nearest
from pipeline.report.page import make_page
from pipeline.report.run import Run, read_run
from pipeline.report.sections.findings import is_shown, untils
from pipeline.report.sections.search import choose_queries
from pipeline.report.sprites import LARGEST, make_sprites, side_of_many
from pipeline.report.tsne import clusters, layout
from tests.conftest import ROOT
from tests.processes import run, run_stage
from tests.report_run import HOSTILE, Made, make_run, some_findings

THRESHOLDS = {"evaluate": {"findings": {"near_duplicate": 0.95, "outlier": 4.0, "label": 0.8}}}
PageOf = Callable[[Made], str]


@pytest.fixture
def page_of(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> PageOf:
    """Makes a run and its page; without Vega, which is the same in each and takes seconds."""
    monkeypatch.setattr("pipeline.report.page.vega", lambda: "const no_vega = 1;")

    def page(made: Made) -> str:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        return make_page(read_run(make_run(tmp_path / "data", made), THRESHOLDS), params.report)

    return page


class Elements(html.parser.HTMLParser):
    """Every element of a page with its attributes, and the words of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.elements and self.elements[-1][0] == "script" else self.words).append(data)


def words_of(page: str) -> str:
    return " ".join(" ".join(Elements(page).words).split())


def data_of(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- thumbnails


def test_every_thumbnail_is_the_image_at_the_place_that_is_said() -> None:
    rng = np.random.default_rng(0)
    drawings = np.zeros((300, 32, 32, 3), dtype=np.uint8)
    for image in drawings:
        image[rng.integers(0, 32, 20), rng.integers(0, 32, 20)] = 255  # smaller without loss
    sides = {0: 16} | dict.fromkeys(range(2, 300), 32)
    sprites = make_sprites(Stacked([drawings[:100], drawings[100:]]), sides)
    assert sorted(sprites.cells) == sorted(sides)
    sheets = [np.asarray(Image.open(io.BytesIO(sheet.webp)).convert("RGB")) for sheet in sprites.sheets]
    assert len({(cell.sheet, cell.place) for cell in sprites.cells.values()}) == len(sides)
    for key, cell in sprites.cells.items():
        sheet = sprites.sheets[cell.sheet]
        row, column = divmod(cell.place, sheet.columns)
        side = sheet.side
        tile = sheets[cell.sheet][row * side : (row + 1) * side, column * side : (column + 1) * side]
        reduced = Image.fromarray(drawings[key]).resize((side, side), Image.Resampling.LANCZOS)
        # what was reduced is no drawing any more, and coded with a little loss
        np.testing.assert_allclose(tile.astype(int), np.asarray(reduced), atol=0 if side == 32 else 20)
    assert sprites == make_sprites(Stacked([drawings]), sides)  # to the byte


def test_photographs_are_drawn_with_little_loss_and_few_bytes() -> None:
    ramp = np.linspace(0, 255, 48).astype(np.uint8)
    images = np.stack([np.stack([np.roll(ramp, i)[None].repeat(48, 0)] * 3, axis=-1) for i in range(64)])
    noisy = np.clip(images + np.random.default_rng(0).integers(-9, 9, images.shape), 0, 255).astype(np.uint8)
    sprites = make_sprites(Stacked([noisy]), dict.fromkeys(range(64), 48))
    (sheet,) = sprites.sheets
    drawn = np.asarray(Image.open(io.BytesIO(sheet.webp)).convert("RGB")).astype(int)
    assert np.abs(drawn[:48, :48] - noisy[0]).mean() < 8
    assert len(sheet.webp) < noisy.nbytes / 8


@pytest.mark.parametrize(
    ("size", "num", "side"),
    [(32, 10_000, 32), (224, 10_000, 32), (224, 2500, 64), (96, 5000, 45), (28, 9, 28)],
)
def test_a_thumbnail_is_smaller_where_there_are_many(size: int, num: int, side: int) -> None:
    assert side_of_many(size, num) == side <= LARGEST


# --- neighbours and the map


def test_the_nearest_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "_BLOCK", 7)
    monkeypatch.setattr(nearest_module, "_COLUMNS", 3)
    monkeypatch.setattr(nearest_module, "_QUERIES", 3)
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((40, 5)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    bank[11] = bank[3]  # of equal ones the smaller row first
    queries = np.array([3, 11, 39, 0, 20])
    cosines, rows = nearest(bank[queries], [bank[:10], bank[10:]], 6, itself=queries)
    for query, found, with_ in zip(queries, rows, cosines, strict=True):
        others = sorted((-float(bank[query] @ bank[row]), row) for row in range(40) if row != query)
        assert found.tolist() == [row for _, row in others[:6]]
        np.testing.assert_allclose(with_, [-negative for negative, _ in others[:6]], atol=1e-6)
    assert nearest(bank[:2], [bank[:3]], 10, itself=np.arange(2))[1].shape == (2, 2)


def test_clouds_apart_stay_apart_on_the_map() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 8)
    clouds = (np.eye(3, 8)[labels] + 0.05 * rng.standard_normal((24, 8))).astype(np.float32)
    points = layout(clouds, seed=0)
    centers = np.stack([points[labels == label].mean(axis=0) for label in range(3)])
    distances = np.linalg.norm(points[:, None] - centers, axis=2)
    assert (distances.argmin(axis=1) == labels).all()
    found = clusters(clouds, 3, seed=0)
    assert len({(label, cluster) for label, cluster in zip(labels, found, strict=True)}) == 3


def test_the_map_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.tsne._STEPS", (20, 20))
    points = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    placed = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        placed.append(layout(points, seed=0).tobytes())
    assert len(set(placed)) == 1


@pytest.mark.parametrize("num", [1, 2, 3, 8, 20])
def test_few_points_or_equal_ones_have_a_place_too(num: int) -> None:
    for points in (np.ones((num, 4)), np.random.default_rng(0).standard_normal((num, 4)), np.ones((num, 1))):
        placed = layout(points.astype(np.float32), seed=0)
        assert placed.shape == (num, 2)
        assert ((placed >= 0) & (placed <= 1)).all()


def test_queries_are_of_different_classes_while_there_are_any(tmp_path: Path) -> None:
    made = read_run(make_run(tmp_path / "data"), {})
    chosen = choose_queries(made, 4, seed=0)
    assert (made.manifest["split"].iloc[chosen] == "test").all()
    assert len(set(made.manifest["label"][chosen])) == 4
    assert len(choose_queries(made, 100, seed=0)) == 30  # no more than there are


@pytest.mark.parametrize(("asked", "found"), [("3", 3), ("4,2", 4), ("", None), ("0", None), ("many", None)])
def test_threads_are_as_many_as_openmp_is_told(
    asked: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert tsne._num_threads() == (found or len(os.sched_getaffinity(0)))


# --- findings


def groups_at(groups: list[list[int]], scores: list[float], threshold: float) -> set[frozenset[int]]:
    """The rule, word for word: of at least that score, and in no larger one of at least that score."""
    there = [frozenset(group) for group, score in zip(groups, scores, strict=True) if score >= threshold]
    return {group for group in there if not any(group < other for other in there)}


def test_the_groups_at_a_threshold_are_those_of_the_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        members = [[i] for i in range(12)]
        groups, scores, score = [], [], 1.0
        while len(members) > 1 and rng.random() < 0.9:
            score -= float(rng.choice([0.0, 0.01, 0.05]))
            first, second = rng.permutation(len(members))[:2]
            joined = sorted(members[first] + members[second])
            members = [group for place, group in enumerate(members) if place not in (first, second)]
            members.append(joined)
            groups.append(joined)
            scores.append(score)
        until = untils(groups, scores)
        for threshold in [*scores, *(score + 0.005 for score in scores), 0.0, 1.1]:
            shown = [
                frozenset(group)
                for group, score, end in zip(groups, scores, until, strict=True)
                if is_shown(score, end, threshold)
            ]
            assert set(shown) == groups_at(groups, scores, threshold)
            assert len(shown) == len(set(shown))


def test_of_many_findings_the_surest_are_drawn_and_the_rest_counted(page_of: PageOf) -> None:
    many = [("outlier", [i % 120], 50 - 0.005 * i, "far") for i in range(6000)]
    page = page_of(Made(findings=many))
    figure = data_of(page, "figures")["findings-outlier"]
    assert len(figure["rows"]) == 5000
    assert sum("hidden" in attrs for tag, attrs in Elements(page).elements if tag == "li") == 200 - 24
    threshold = float(value_of_slider(page))
    at = sum(50 - 0.005 * i >= threshold for i in range(6000))
    assert f"outliers ({at:,} images)" in words_of(page)
    slider = next(attrs for tag, attrs in Elements(page).elements if attrs.get("class") == "slider")
    assert float(slider["min"] or 0) >= 50 - 0.005 * 4999  # no lower than what is counted


def value_of_slider(page: str) -> str:
    slider = next(attrs for _, attrs in Elements(page).elements if attrs.get("class") == "slider")
    return slider["value"] or ""


def test_what_is_less_sure_than_the_params_ask_is_not_shown_be_it_alone(page_of: PageOf) -> None:
    page = page_of(Made(findings=[("train_test_pair", [3, 95], 0.92, "alike")]))
    assert float(value_of_slider(page)) == 0.95  # of the page's params
    assert "Nothing was found wrong with the images" in words_of(page)
    assert len(data_of(page, "figures")["findings-train_test_pair"]["rows"]) == 1  # the slider brings it out


def test_a_group_of_thousands_is_counted_and_not_written_out(page_of: PageOf) -> None:
    page = page_of(Made(findings=[("exact_copy", list(range(120)) * 50, 1.0, "6,000 files")]))
    figure = data_of(page, "figures")["findings-exact_copy"]
    row = dict(zip(figure["columns"], figure["rows"][0], strict=True))
    assert row["num_images"] == 6000
    assert len(row["ids"].split()) == 100


# --- the page as a whole


def test_the_same_run_gives_the_same_page_to_the_byte(tmp_path: Path, params: Params) -> None:
    pages = [
        make_page(read_run(make_run(tmp_path / name / "data"), THRESHOLDS), params.report)
        for name in ("one", "other")
    ]
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]
    assert len(pages[0].encode()) < 1.5e6  # 0.9 of it Vega


def test_names_from_outside_are_words(page_of: PageOf) -> None:
    page = page_of(Made(findings=some_findings()))
    parsed = Elements(page)
    assert sum(tag == "script" for tag, _ in parsed.elements) == 2 + 5  # data, and our own
    assert not [tag for tag, attrs in parsed.elements if tag in ("b", "i") and "onerror" in attrs]
    assert not [attrs for tag, attrs in parsed.elements if tag == "img"]
    names = data_of(page, "map-data")["classes"]
    assert names[:3] == list(HOSTILE[:3])
    assert "\u2028" not in page
    assert HOSTILE[0] in words_of(page)
    assert "49" not in data_of(page, "map-data")["classes"][3]  # no template reads it


def test_only_the_pages_own_scripts_may_run(page_of: PageOf) -> None:
    page = page_of(Made())
    policy = next(attrs["content"] or "" for tag, attrs in Elements(page).elements if "http-equiv" in attrs)
    codes = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for code in codes:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == len(codes) == 5
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Made(class_names=()), "It takes labelled images in train and in test"),
        (Made(class_names=(), num_images={"unlabelled": 40}), "40 images (40 unlabelled) without labels"),
        (Made(class_names=("one",)), "of 1 class."),
        (Made(num_images={"train": 16, "test": 4}), "20 images (16 train, 4 test)"),
        (Made(num_images={"train": 2, "test": 2}), "4 images"),
        (Made(num_images={"train": 1}, class_names=()), "1 image (1 train) without labels"),
        (Made(num_images={"train": 1}, class_names=()), "1 image drawn at random"),
        (Made(num_images={"train": 1}, class_names=()), "A t-SNE of 1 image, the only one"),
        (Made(num_images={"train": 1}, class_names=()), "The index (IVF8,Flat) holds 1 image and finds"),
        (Made(findings=[("outlier", [1], 3.0, "far")]), "Nothing was found wrong with the images"),
        (Made(epochs=0), "Nothing was trained (pretrain.epochs: 0)"),
        (Made(), "Nothing was looked for"),
        (Made(findings=[]), "Nothing was found wrong with the images"),
        (Made(size=80, num_images={"train": 12, "test": 4}), "80 × 80 pixels in"),
        (Made(spread=0.0), "4 classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_not_there_is_said_in_words(page_of: PageOf, made: Made, words: str) -> None:
    page = page_of(made)
    assert words.lower() in words_of(page).lower()
    assert "None" not in words_of(page)
    assert "nan" not in words_of(page).lower().split()


def test_a_view_stands_beside_its_image_and_not_beside_one_of_another_collection(page_of: PageOf) -> None:
    page = page_of(Made())
    words = [attrs.get("aria-label") or "" for _, attrs in Elements(page).elements]
    of_views = [place for place, label in enumerate(words) if label.startswith("augmented view of")]
    assert len(of_views) == 16
    for place in of_views:
        beside = next(label for label in reversed(words[:place]) if label)
        assert words[place] == f"augmented view of {beside}"
    # an encoder that was kept while photographs came saw others under these ids
    page = page_of(Made(trained_on="another"))
    assert "augmented view of" not in page
    assert "The collection has changed since the encoder was trained" in words_of(page)


def test_what_was_fine_tuned_stands_beside_the_rest(page_of: PageOf) -> None:
    figures = data_of(page_of(Made(finetuned=True)), "figures")
    assert {row[1] for row in figures["headline"]["rows"]} == {
        "",
        "encoder",
        "start",
        "raw pixels",
        "fine-tuned",
    }
    assert "fine-tuned" not in {row[1] for row in data_of(page_of(Made()), "figures")["headline"]["rows"]}


def test_two_hundred_classes_are_drawn_by_their_worst_and_counted_in_full(page_of: PageOf) -> None:
    names = tuple(f"class number {number}" for number in range(200))
    page = page_of(Made(class_names=names, num_images={"train": 600, "test": 400}))
    figures = data_of(page, "figures")
    assert len({row[0] for row in figures["confusion"]["rows"]}) == 24
    drawn = figures["recall"]["chart"]["encoding"]["y"]["scale"]["domain"]
    assert len(drawn) == 30
    assert len({row[0] for row in figures["recall"]["rows"]}) > 150
    recalls = {row[0]: row[2] for row in figures["recall"]["rows"] if row[1] == "encoder"}
    assert max(recalls[name] for name in drawn) <= min(
        recall for name, recall in recalls.items() if name not in drawn
    )
    assert data_of(page, "map-data")["coloredBy"] == "cluster"


def test_the_matrix_counts_what_a_loop_counts(tmp_path: Path, page_of: PageOf) -> None:
    page = page_of(Made())
    made = read_run(Artifacts(tmp_path / "data"), {})
    answers = made.answers("linear")
    labels = made.manifest["label"].to_numpy()
    for actual, predicted, images, share in data_of(page, "figures")["confusion"]["rows"]:
        counted = [
            row.predicted == made.class_names.index(predicted)
            for row in answers.itertuples()
            if labels[row.id] == made.class_names.index(actual)
        ]
        assert images == sum(counted)
        assert share == pytest.approx(sum(counted) / len(counted), abs=1e-5)


def test_the_map_of_a_large_collection_is_a_sample_of_it(tmp_path: Path, params: Params) -> None:
    made: Run = read_run(make_run(tmp_path / "data", Made(findings=None)), {})
    page = make_page(made, params.report.model_copy(update={"map_images": 50}))
    found = data_of(page, "map-data")
    assert found["count"] == 50
    assert "50 images drawn at random" in words_of(page)
    ids = np.frombuffer(base64.b64decode(found["id"]), "<u4")
    assert len(set(ids.tolist())) == 50
    neighbors = np.frombuffer(base64.b64decode(found["neighbors"]), "<u2").reshape(50, 10)
    embeddings = made.embedding(ids.astype(np.int64))
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    assert (neighbors[:, 0] == similarity.argmax(axis=1)).all()


def test_paths_of_the_machine_are_shown_by_their_last_name(tmp_path: Path, params: Params) -> None:
    made = read_run(make_run(tmp_path / "data"), {"dataset": {"path": "/home/anna/photos", "seed": 0}})
    figures = data_of(make_page(made, params.report), "figures")
    assert ["dataset.path", "photos"] in figures["provenance"]["rows"]
    assert ["dataset.seed", "0"] in figures["provenance"]["rows"]


def test_the_stage_writes_the_page_and_nothing_beside_it(tmp_path: Path) -> None:
    data = make_run(tmp_path / "data")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    printed = run_stage("report", tmp_path).stdout
    assert re.fullmatch(r"data/report/index\.html: \d\.\d MB; open it in a browser\n", printed)
    assert [path.name for path in data.report_page.parent.iterdir()] == ["index.html"]
    assert set(json.loads(data.speed("report").read_text())) == {"seconds"}
    data.findings.write_bytes((data.evaluation / "findings.parquet").read_bytes())
    too_far = replace(Made(), findings=[("outlier", [5000], 9.0, "far")])
    other = make_run(tmp_path / "other", too_far)
    data.findings.write_bytes(other.findings.read_bytes())
    failed = run_stage("report", tmp_path, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: data/evaluation/findings.parquet: has image 5000")


def test_a_gallery_of_a_query_needs_none_of_what_makes_the_page() -> None:
    program = (
        "import sys\nimport pipeline.report.gallery\n"
        "found = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not found & {'jinja2', 'vl_convert', 'openTSNE', 'sklearn', 'pandas', 'torch'}, found\n"
    )
    run("python", "-c", program, cwd=ROOT)
