"""The index that `auto` chooses: by counted work, tuned as by brute force, and certified."""

import itertools
import tracemalloc
from collections.abc import Iterator

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.index.points import clustered
from pipeline.errors import SettingError, UserError
from pipeline.params.index import Index
from pipeline.search.building import trial
from pipeline.search.building.build import Centroids, build_index
from pipeline.search.building.certificate import Recall, recall_of
from pipeline.search.building.cost import CENTROID, bytes_per_vector, counted_search
from pipeline.search.building.filling import add_held_out
from pipeline.search.building.index import Made, make_index
from pipeline.search.building.kinds import KINDS, Kind
from pipeline.search.building.trial import _Trial
from pipeline.search.building.truth import exact_neighbors
from pipeline.search.building.tuning import Asked, certify, knobs, measure, tune
from pipeline.search.finding import find
from pipeline.search.rows import Stored

COUNT, DIM, LISTS = 6_000, 32, 64
HELD_OUT = np.arange(0, COUNT, 40)
AUTO = Index(factory="auto", memory_gib=1, target_recall=0.95, num_queries=600, seed=0, thumbnail_size=0)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(COUNT, DIM, seed=0, num_clusters=30)


@pytest.fixture(scope="module")
def asked(vectors: NDArray[np.float32]) -> Asked:
    queries = vectors[HELD_OUT]
    return Asked(queries, exact_neighbors([vectors], queries, 10, HELD_OUT))


@pytest.fixture(scope="module", autouse=True)
def _few_are_a_thousand() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "EXACT_UP_TO", 1000)
        yield


@pytest.fixture(scope="module")
def made(vectors: NDArray[np.float32]) -> Made:
    return make_index([vectors[:3500], vectors[3500:]], AUTO)


def answer(shares: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What was found and what is true, where of ten each query found so many."""
    truth = np.tile(np.arange(10), (len(shares), 1))
    return np.where(truth < shares[:, None], truth, -1), truth


def test_the_interval_of_independent_draws_is_wilsons() -> None:
    rng = np.random.default_rng(0)
    found, truth = answer(rng.binomial(10, 0.9, 4000))
    recall = recall_of(found, truth)
    share, draws, z = recall.mean, 40_000, 1.96
    centre = (share + z**2 / (2 * draws)) / (1 + z**2 / draws)
    half = z / (1 + z**2 / draws) * np.sqrt(share * (1 - share) / draws + z**2 / (4 * draws**2))
    assert (recall.low, recall.high) == pytest.approx((centre - half, centre + half), abs=2e-4)


@pytest.mark.parametrize("recall", [0.8, 0.95, 0.99])
def test_95_of_100_intervals_hold_the_true_recall_though_neighbours_are_missed_together(
    recall: float,
) -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(600):
        of_query = rng.beta(3 * recall, 3 * (1 - recall), 1000)  # a query finds nearly all or hardly any
        found = recall_of(*answer(rng.binomial(10, of_query)))
        held.append(found.low <= recall <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_to_miss_nothing_is_no_proof() -> None:
    assert recall_of(*answer(np.full(1000, 10))).low == pytest.approx(1000 / (1000 + 1.96**2), abs=1e-6)
    assert recall_of(*answer(np.full(0, 10))) == Recall(1.0, 0.0, 1.0)


def test_the_work_is_what_a_search_reads(vectors: NDArray[np.float32], asked: Asked) -> None:
    """Counted by hand: all centroids, then each vector of the lists whose centroids are nearest."""
    index = build_index([vectors], f"IVF{LISTS},SQ8,RFlat", 0, HELD_OUT)
    lists = faiss.extract_index_ivf(index)
    centroids = lists.quantizer.reconstruct_n(0, LISTS)
    sizes = np.array([lists.invlists.list_size(number) for number in range(LISTS)])
    assert sizes.sum() == COUNT - len(HELD_OUT)
    nearest = np.argsort(-asked.queries @ centroids.T, axis=1)
    probed = (1, 2, 4, 8)
    read = [(1, nprobe, sizes[nearest[:, :nprobe]].sum(axis=1).mean()) for nprobe in probed]
    once = {}
    for k_factor in (1, 4):
        work = [
            counted_search(index, asked.queries, 10, {"nprobe": nprobe, "k_factor_rf": k_factor})[1]
            for nprobe in probed
        ]
        costs, *_ = np.linalg.lstsq(np.array(read), np.array(work))
        np.testing.assert_allclose(read @ costs, work, rtol=1e-3)
        once[k_factor] = costs[0]
    ranked = (once[4] - once[1]) / 30  # a vector that is ranked anew
    assert once[1] - 10 * ranked == pytest.approx(CENTROID * LISTS, rel=1e-2)
    _, exact = counted_search(build_index([vectors], "Flat", 0, HELD_OUT[:0]), asked.queries, 10, {})
    assert exact == COUNT


def test_no_other_parameters_reach_the_target_with_less_work(
    vectors: NDArray[np.float32], asked: Asked
) -> None:
    index = build_index([vectors], f"IVF{LISTS},PQ16x4fs,RFlat", 0, HELD_OUT)
    values = knobs(index)
    assert (values["nprobe"][0], values["nprobe"][-1]) == (1, LISTS)
    every = [
        measure(index, asked, dict(zip(values, chosen, strict=True)))
        for chosen in itertools.product(*values.values())
    ]
    for target in (0.5, 0.9, 0.97):
        reach = [point for point in every if point.recall.low >= target]
        assert tune(index, asked, target).work == min(point.work for point in reach)
    beyond = tune(index, asked, 1.0)
    assert beyond.parameters == {"nprobe": LISTS, "k_factor_rf": values["k_factor_rf"][-1]}


def test_of_twenty_copies_any_ten_are_the_nearest(vectors: NDArray[np.float32]) -> None:
    copies = np.tile(vectors[:300], (20, 1))
    held_out = np.arange(0, len(copies), 31)
    queries = copies[held_out]
    truth = exact_neighbors([copies], queries, 10, held_out)
    index = build_index([copies], "IVF16,RaBitQfs,RFlat", 0, held_out)
    parameters = {"nprobe": 4, "k_factor_rf": 4}
    asked = Asked(queries, truth, vectors=[copies[:100], copies[100:]])
    assert measure(index, Asked(queries, truth), parameters).recall.mean < 0.9
    found, _ = counted_search(index, queries, 10, parameters)
    by_hand = np.einsum("qd,qkd->qk", queries, copies[found]) > 1 - 1e-5
    assert measure(index, asked, parameters).recall.mean == pytest.approx(by_hand.mean()) == 1


def test_what_else_is_as_near_is_looked_for_in_little_memory() -> None:
    """Of 1,000 queries in 2,048 dimensions the neighbours that they miss are 80 MB."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (1000, 2048)).astype(np.float32)  # whose products are exact
    truth, found = rng.integers(0, 1000, (2, 1000, 10))
    asked = Asked(vectors, truth, vectors=[vectors[:300], vectors[300:]])
    tracemalloc.start()
    try:
        as_near = asked.as_near(found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    similarities = vectors @ vectors.T
    for query, (right, row) in enumerate(zip(truth.tolist(), found.tolist(), strict=True)):
        last = similarities[query, right[-1]]
        by_hand = [each not in right and similarities[query, each] >= last for each in row]
        assert as_near[query].tolist() == by_hand


def test_the_certificate_is_of_queries_that_nothing_was_tuned_with(
    vectors: NDArray[np.float32], asked: Asked
) -> None:
    index = build_index([vectors], f"IVF{LISTS},Flat", 0, HELD_OUT)
    half, other = asked.halves()
    assert not (half.queries[:, None] == other.queries[None]).all(axis=2).any()
    tuned = tune(index, half, 0.9)
    certified = certify(index, other, 0.9, tuned)
    work = [point.work for point in certified.curve]
    assert work == sorted(work, reverse=True)
    number = certified.curve.index(certified.point)
    assert all(point.recall.low >= 0.9 for point in certified.curve[: number + 1])
    assert certified.curve[number + 1].recall.low < 0.9
    assert certify(index, other, 1.0, tune(index, half, 1.0)).point.parameters == {"nprobe": LISTS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.factory(LISTS, DIM))
def test_every_kind_finds_within_some_and_gives_its_vectors_back(
    vectors: NDArray[np.float32], kind: Kind
) -> None:
    held_out = HELD_OUT if kind.has_lists else HELD_OUT[:0]
    index = build_index([vectors], kind.factory(LISTS, DIM), 0, held_out)
    add_held_out(index, vectors[held_out], held_out) if len(held_out) else None
    assert index.ntotal == COUNT
    assert bytes_per_vector(index) == pytest.approx(kind.bytes_per_vector(DIM) + 8 * kind.has_lists, rel=0.15)
    among = np.arange(COUNT) % 3 == 0
    queries = vectors[HELD_OUT]
    own = np.full(len(queries), -1)
    parameters = {name: values[-1] for name, values in knobs(index).items()}
    answers = find(index, queries, 10, parameters, among, own)
    truth = exact_neighbors([vectors], queries, 10, np.flatnonzero(~among))
    found = np.stack([ids for _, ids in answers])
    assert among[found].all()
    assert recall_of(found, truth).mean > 0.94  # of codes of 8 bits
    codes = Stored(index)[np.array([0, 40, 41])]  # two of them were held out
    np.testing.assert_allclose(codes, vectors[[0, 40, 41]], atol=0.02)


def test_one_neighbour_is_sought_among_as_many_as_ten(vectors: NDArray[np.float32], asked: Asked) -> None:
    """Else the nearest alone would be found less often than its recall among ten says."""
    index = build_index([vectors], f"IVF{LISTS},PQ8x4fs,RFlat", 0, HELD_OUT)
    parameters, own = {"nprobe": LISTS, "k_factor_rf": 4}, np.full(len(asked.queries), -1)
    ten = find(index, asked.queries, 10, parameters, None, own)
    for k in (1, 3):
        few = find(index, asked.queries, k, parameters, None, own)
        scores, of_ten = (np.array([each[:k] for each, _ in found]) for found in (few, ten))
        assert (scores >= of_ten).all()
        assert k > 1 or (scores == of_ten).all()


def test_kinds_that_share_their_centroids_are_those_that_learned_them(vectors: NDArray[np.float32]) -> None:
    centroids = Centroids()
    build_index([vectors], f"IVF{LISTS},Flat", 0, HELD_OUT, centroids)
    factory = f"IVF{LISTS},PQ16x4fs,RFlat"
    shared, alone = (
        faiss.serialize_index(build_index([vectors], factory, 0, HELD_OUT, given))
        for given in (centroids, None)
    )
    np.testing.assert_array_equal(shared, alone)


def test_auto_reaches_its_target_with_images_that_it_never_saw(
    made: Made, vectors: NDArray[np.float32]
) -> None:
    built = made.built
    assert built.recall_at_10_low >= 0.95
    assert built.work_per_query < COUNT / 3
    assert len(built.runners_up) == 1
    assert (
        built.runners_up[0].recall_at_10_low < 0.95
        or built.runners_up[0].work_per_query >= built.work_per_query
    )
    assert list(made.curves) == [built.factory, built.runners_up[0].factory]
    new = clustered(2000, DIM, seed=5, num_clusters=30)
    _, truth = faiss.knn(new, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)
    _, found = made.index.search(new, 10)  # with what it was tuned to
    assert recall_of(found, truth).high > built.recall_at_10_low
    _, own = made.index.search(vectors, 1)
    assert (own[:, 0] == np.arange(COUNT)).mean() > 0.97


def test_auto_chooses_the_same_bytes_again(made: Made, vectors: NDArray[np.float32]) -> None:
    again = make_index([vectors], AUTO)
    assert again.built == made.built
    np.testing.assert_array_equal(faiss.serialize_index(again.index), faiss.serialize_index(made.index))


@pytest.mark.parametrize("kind", [KINDS[4], KINDS[5]], ids=["vectors in bytes", "short codes"])
def test_a_tenth_of_the_images_tells_what_a_search_of_all_takes(kind: Kind) -> None:
    """Ten neighbours among a tenth lie further apart: codes tell those apart with a fifth of the work."""
    count, lists = 20_000, 64
    vectors = clustered(count, DIM, seed=0, num_clusters=60)
    told = _Trial([vectors], 0.95, seed=0, size=count // 10).of(kind, lists)
    held_out = np.arange(0, count, 50)
    queries = vectors[held_out]
    asked = Asked(queries, exact_neighbors([vectors], queries, 10, held_out))
    whole = tune(build_index([vectors], told.factory, 0, held_out), asked, 0.95)
    assert whole.work / 2 < told.point.work < 2 * whole.work


def test_auto_keeps_to_the_memory(vectors: NDArray[np.float32]) -> None:
    """Vectors in float32 are 130 bytes here, and two indexes of them too many."""
    little = AUTO.model_copy(update={"memory_gib": 2 * COUNT * 100 / 2**30})
    assert make_index([vectors], little).built.bytes_per_vector < 100
    with pytest.raises(UserError, match=r"index\.memory_gib: 1e-05 is too little for 6000 vectors of 32"):
        make_index([vectors], AUTO.model_copy(update={"memory_gib": 1e-5}))


def test_the_sample_is_within_the_memory_too() -> None:
    """In five copies; of 100,000 x 2,048 they are 4 GiB."""
    bytes_of_copies = 5 * 4 * 2048
    assert trial._plan(300_000, 2048, memory_gib=2, on_disk=False).sample == 2 * 2**30 // bytes_of_copies
    assert trial._plan(300_000, 2048, memory_gib=4, on_disk=False).sample == 100_000
    assert trial._plan(20_000, 2048, memory_gib=0.5, on_disk=False).sample == 2**29 // bytes_of_copies


def test_of_what_misses_the_target_auto_takes_what_finds_the_most(vectors: NDArray[np.float32]) -> None:
    codes_alone = {"memory_gib": 2 * COUNT * 100 / 2**30, "target_recall": 0.9999}
    built = make_index([vectors], AUTO.model_copy(update=codes_alone)).built
    assert built.recall_at_10_low < 0.9999
    assert built.recall_at_10 > built.runners_up[0].recall_at_10
    assert built.work_per_query > built.runners_up[0].work_per_query


def test_what_is_not_tuned_further_is_given_as_it_finds_the_most(
    vectors: NDArray[np.float32], asked: Asked
) -> None:
    index = build_index([vectors], f"IVF{LISTS},PQ16x4fs,RFlat", 0, HELD_OUT)
    given_up = tune(index, asked, 1.0, too_much=15_000)
    assert given_up.work >= 15_000
    assert given_up.recall.mean > measure(index, asked, {"nprobe": 8, "k_factor_rf": 1}).recall.mean


def test_few_images_that_the_memory_does_not_hold_are_refused_in_a_line(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(
        SettingError, match=r"1e-09 is too little for 20 vectors of 32 dimensions: .* needs 5"
    ):
        make_index([vectors[:20]], AUTO.model_copy(update={"memory_gib": 1e-9}))


def test_auto_searches_few_images_exactly(vectors: NDArray[np.float32]) -> None:
    for count in (1, 20, 1000):
        built = make_index([vectors[:count]], AUTO).built
        assert (built.factory, built.recall_at_10_low, built.work_per_query) == ("Flat", 1.0, count)
        assert built.runners_up == ()
