"""A FAISS index of the embeddings: chosen, built, and its recall certified."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.building.build import Centroids, build_index, faiss_errors
from pipeline.search.building.certificate import EXACT_RECALL, RECALL_AT, UNKNOWN
from pipeline.search.building.cost import bytes_per_vector, counted_search
from pipeline.search.building.filling import add_held_out
from pipeline.search.building.kinds import is_exact
from pipeline.search.building.on_disk import Merged, build_on_disk, is_too_large
from pipeline.search.building.trial import worth_building
from pipeline.search.building.truth import exact_neighbors
from pipeline.search.building.tuning import (
    Asked,
    Certified,
    Point,
    certify,
    knobs,
    set_search_parameters,
    tune,
)
from pipeline.search.files.card import Built, RunnerUp
from pipeline.search.rows import Rows, read_rows, sample_rows

if TYPE_CHECKING:
    from pipeline.params.index import Index  # a type alone: a query does without pydantic

AUTO = "auto"
HELD_OUT_AT_MOST = 10  # of so many images one: what is searched is nearly all of the collection
_ONE_BY_ONE = 500


@dataclass(frozen=True)
class Made:
    """An index, and what was found out about it.

    Attributes:
        index: of all rows; memory-mapped where it was merged on disk.
        file: where it lies then, as FAISS reads it; else None.
        built: how.
        curves: recall against work of each kind that was built whole, the chosen one first.
        queries_per_s: of many at once.
        p99_ms: 99 of 100 queries, asked one by one, took less.
    """

    index: faiss.Index
    file: Path | None
    built: Built
    curves: dict[str, list[Point]]
    queries_per_s: float
    p99_ms: float


def make_index(
    embeddings: Sequence[Rows],
    params: "Index",
    note: Callable[[str], None] = lambda told: None,
    scratch: Path | None = None,
) -> Made:
    """Chooses, builds, tunes and certifies an index, with queries that are not in it until that is done.

    An image that is in an index finds itself, which no new one does; and in a graph it is found more easily
    even when its own hit does not count: HNSW32 of 100,000 x 64 found 0.968 of the others of its own images
    and 0.881 of those of new ones.

    Args:
        embeddings: parts of [N, D] each, in the order of the ids; of memory maps a chunk is read at a time.
        params: the factory or `auto`, the recall wanted and how many queries measure it.
        note: is told what is under way.
        scratch: a folder on the disk that the index goes to, in which one is merged that the memory does not
            hold; what is left there is `Made.file`. None: nothing is merged.

    Raises:
        UserError: FAISS does not know the factory string, or cannot build it from so few vectors; or the
            memory holds no kind of index.
        OSError: the disk has no room to merge one.
    """
    factories = [params.factory]
    if params.factory == AUTO:
        asked = (params.target_recall, params.memory_gib, params.seed)
        factories = worth_building(embeddings, *asked, note, on_disk=scratch is not None)
    builder = _Builder(embeddings, params, note, scratch)
    whole: list[_Whole] = []
    for factory in factories:
        whole.append(builder.build(factory))
        whole.sort(key=lambda each: each.point.order(params.target_recall))
        whole[1:] = [replace(each, index=None) for each in whole[1:]]  # one is kept
    best, *others = whole
    assert best.index is not None
    if best.merged is not None:
        best.merged.set_parameters(best.point.parameters)
    set_search_parameters(best.index, best.point.parameters)
    queries_per_s, p99_ms = _speed(best.index, builder.queries)
    return Made(
        index=best.index,
        file=None if best.merged is None else best.merged.path,
        built=Built(
            dimension=best.index.d,
            count=best.index.ntotal,
            factory=best.factory,
            search_parameters=best.point.parameters,
            recall_at_10=best.point.recall.mean,
            recall_at_10_low=best.point.recall.low,
            recall_at_10_high=best.point.recall.high,
            target_recall=params.target_recall,
            work_per_query=best.point.work,
            bytes_per_vector=best.bytes_per_vector,
            runners_up=tuple(each.runner_up() for each in others),
        ),
        curves={each.factory: each.curve for each in whole},
        queries_per_s=queries_per_s,
        p99_ms=p99_ms,
    )


@dataclass(frozen=True)
class _Whole:
    """A kind of index, built of all rows."""

    factory: str
    index: faiss.Index | None
    bytes_per_vector: float
    point: Point
    curve: list[Point]
    merged: Merged | None = None

    def runner_up(self) -> RunnerUp:
        return RunnerUp(
            factory=self.factory,
            search_parameters=self.point.parameters,
            recall_at_10=self.point.recall.mean,
            recall_at_10_low=self.point.recall.low,
            recall_at_10_high=self.point.recall.high,
            work_per_query=self.point.work,
            bytes_per_vector=self.bytes_per_vector,
        )


class _Builder:
    """Builds kinds of index of the same rows, asked the same."""

    def __init__(
        self,
        embeddings: Sequence[Rows],
        params: "Index",
        note: Callable[[str], None],
        scratch: Path | None,
    ) -> None:
        self._embeddings, self._params, self._note, self._scratch = embeddings, params, note, scratch
        self._count = sum(len(part) for part in embeddings)
        num_queries = min(params.num_queries, self._count // HELD_OUT_AT_MOST)
        self._held_out = sample_rows(self._count, num_queries, params.seed)
        self.queries = read_rows(embeddings, self._held_out)
        self._asked: Asked | None = None
        self._centroids = Centroids()

    def build(self, factory: str) -> _Whole:
        """Builds an index, tunes it and certifies its recall."""
        embeddings, seed, dim = self._embeddings, self._params.seed, self._embeddings[0].shape[1]
        with faiss_errors(factory, self._count, dim):
            if is_exact(factory):
                index = build_index(embeddings, factory, seed, self._held_out[:0])
                _, work = counted_search(index, embeddings[0][:1], 1, {})
                point = Point({}, EXACT_RECALL, work)
                return _Whole(factory, index, bytes_per_vector(index), point, [point])
            if self._scratch is not None and is_too_large(factory, self._count, dim, self._params.memory_gib):
                return self._on_disk(factory, self._scratch)
            self._note(f"{factory}: built of {self._count:,} vectors")
            index = build_index(embeddings, factory, seed, self._held_out, self._centroids)
            certified = self._certified(index)
            if len(self._held_out):
                add_held_out(index, self.queries, self._held_out)
            return _Whole(factory, index, bytes_per_vector(index), certified.point, certified.curve)

    def _on_disk(self, factory: str, scratch: Path) -> _Whole:
        """Builds an index of all rows, of which the held-out ones are not found until that is done.

        Each list is read from its beginning to its end, and what is passed over in it changes nothing for the
        others: an inverted file finds then what it would find without these rows.
        """
        self._note(f"{factory}: does not fit the memory: merged on disk of {self._count:,} vectors")
        merged = build_on_disk(
            self._embeddings, factory, self._params.seed, self._held_out, self._params.memory_gib, scratch
        )
        among = np.ones(self._count, dtype=np.bool_)
        among[self._held_out] = False
        certified = self._certified(merged.index, among)
        return _Whole(
            factory,
            merged.index,
            bytes_per_vector(merged.index),
            certified.point,
            certified.curve,
            merged,
        )

    def _certified(self, index: faiss.Index, among: NDArray[np.bool_] | None = None) -> Certified:
        """An index of all but the held-out rows, or one in which they are not found, tuned and certified."""
        if len(self._held_out) < 2:  # too few to tell: as thorough as it can be
            most = {name: values[-1] for name, values in knobs(index).items()}
            return Certified(Point(most, UNKNOWN, float(self._count)), [])
        if self._asked is None:
            k = min(RECALL_AT, self._count - len(self._held_out))
            truth = exact_neighbors(self._embeddings, self.queries, k, self._held_out)
            self._asked = Asked(self.queries, truth, vectors=self._embeddings)
        tuned, measured = replace(self._asked, among=among).halves()
        target = self._params.target_recall
        return certify(index, measured, target, tune(index, tuned, target))


def _speed(index: faiss.Index, queries: NDArray[np.float32]) -> tuple[float, float]:
    """Queries per second of all at once, and the 99th percentile of one by one, in milliseconds."""
    if len(queries) == 0:
        return 0.0, 0.0
    started = time.perf_counter()
    index.search(queries, RECALL_AT)
    seconds = time.perf_counter() - started
    each = []
    for query in queries[:_ONE_BY_ONE]:
        started = time.perf_counter()
        index.search(query[None], RECALL_AT)
        each.append(time.perf_counter() - started)
    return len(queries) / seconds, 1000 * float(np.percentile(each, 99))
