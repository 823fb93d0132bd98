"""Which kinds of index are worth building whole: each tried on a sample of the collection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import SettingError
from pipeline.search.building.build import Centroids, build_index, learned_in, rounded_up
from pipeline.search.building.certificate import EXACT_RECALL, RECALL_AT
from pipeline.search.building.cost import CENTROID
from pipeline.search.building.kinds import EXACT, KINDS, ON_DISK, Kind, usual_lists
from pipeline.search.building.truth import exact_neighbors
from pipeline.search.building.tuning import Asked, Point, tune
from pipeline.search.rows import Rows, read_rows, sample_rows

# To search so few exactly costs less than an inverted file of them does before it reads its first list.
EXACT_UP_TO = 10_000
_SAMPLE = 100_000
_COPIES_OF_THE_SAMPLE = 5  # itself, what is learned from, and an index with vectors and codes
_DRAWS = 5_000  # neighbours that are asked for, of all queries
_WORTH_BUILDING = 2
_HOPELESS = 2  # times the work of the best so far: what comes to that is not tuned further
_LESS = 0.9  # of the work with the usual lists: the centroids of others are learned anew
# Four times as many would take FAISS's k-means sixteen times as long: of 1,000,000 x 128 four minutes.
_FEWER_OR_MORE_LISTS = (0.5, 2)
_VECTORS_PER_LIST = 24  # in shorter lists the centroids cost more than the vectors
_LISTS_AT_LEAST = 16


@dataclass(frozen=True)
class Tried:
    """A kind of index as the sample shows it.

    Attributes:
        factory: FAISS's factory string for the whole collection.
        point: what it reaches; the work is that in the whole collection, as far as the sample tells.
    """

    factory: str
    point: Point

    def told(self, target_recall: float) -> str:
        """In a line."""
        verdict = "tried" if self.point.reaches(target_recall) else "given up"
        return f"{self.factory}: {verdict}, {self.point.work:,.0f} distances a query"


def worth_building(
    embeddings: Sequence[Rows],
    target_recall: float,
    memory_gib: float,
    seed: int,
    note: Callable[[str], None],
    on_disk: bool = False,
) -> list[str]:
    """The factory strings of the kinds that promise the least work, from the best on; of few images one.

    Where none fits, and one may be merged on disk, one of those that can be.

    Every kind that fits is tried with the usual number of lists, then the best two with fewer and more, which
    they are built with where that saves a tenth. The lists of the sample are as long as those of the whole,
    so that as much of them is read.

    Args:
        embeddings: parts of [N, D] each.
        target_recall: that each is tuned to, by the lower end of its interval.
        memory_gib: that two indexes may take, as the first is kept while the second is built.
        seed: of the sample, the queries and what is learned.
        note: is told of each kind as it is tried.
        on_disk: whether one may be merged there.

    Raises:
        SettingError: no kind fits, or the memory does not hold a sample that tells enough.
    """
    count, dim = sum(len(part) for part in embeddings), embeddings[0].shape[1]
    plan = _plan(count, dim, memory_gib, on_disk)
    if count <= EXACT_UP_TO:
        return [EXACT]
    if plan.num_built < _WORTH_BUILDING:
        note("the memory holds no two indexes: one is built, on disk if need be")
    trial = _Trial(embeddings, target_recall, seed, plan.sample)
    tried = {}
    for kind in plan.kinds:
        tried[kind] = trial.of(kind, plan.lists)
        note(tried[kind].told(target_recall))

    def ranked() -> list[Kind]:
        return sorted(tried, key=lambda kind: tried[kind].point.order(target_recall))

    for kind in [kind for kind in ranked() if kind.has_lists][:_WORTH_BUILDING]:
        for factor in _FEWER_OR_MORE_LISTS:
            lists = int(plan.lists * factor)
            if lists > plan.most_lists:
                continue
            other = trial.of(kind, lists)
            note(other.told(target_recall))
            usual = tried[kind].point
            much_less = replace(other.point, work=other.point.work / _LESS)
            if much_less.order(target_recall) < usual.order(target_recall):
                tried[kind] = other
    return [tried[kind].factory for kind in ranked()][: plan.num_built]


def _gib(kind: Kind, count: int, dim: int) -> float:
    return _WORTH_BUILDING * count * (kind.bytes_per_vector(dim) + 8) / 2**30  # and an id


@dataclass(frozen=True)
class _Plan:
    """What is tried.

    Attributes:
        kinds: of them.
        sample: so many rows.
        lists: the usual number.
        most_lists: of the other numbers that are tried.
        num_built: the best that are built whole.
    """

    kinds: Sequence[Kind]
    sample: int
    lists: int
    most_lists: int
    num_built: int


def _plan(count: int, dim: int, memory_gib: float, on_disk: bool) -> _Plan:
    """The kinds that fit; where none does those of which one may be merged, within the same memory.

    Raises:
        SettingError: it is too little for either.
    """
    kinds = KINDS if count > EXACT_UP_TO else KINDS[:1]
    fitting = [kind for kind in kinds if _gib(kind, count, dim) <= memory_gib]
    most_lists = count // _VECTORS_PER_LIST
    memory, of_a_row = int(memory_gib * 2**30), _COPIES_OF_THE_SAMPLE * 4 * dim
    sample = min(count, _SAMPLE, memory // of_a_row)
    if fitting:
        sample = max(sample, min(count, EXACT_UP_TO))  # fewer tell nothing
        return _Plan(fitting, sample, usual_lists(count), most_lists, _WORTH_BUILDING)
    least = f"the smallest kind of index needs {min(_gib(kind, count, dim) for kind in kinds):.2g}"
    if on_disk and count > EXACT_UP_TO:
        if sample >= EXACT_UP_TO:
            most_lists = min(most_lists, learned_in(memory, dim))
            lists = min(usual_lists(count), 1 << (most_lists.bit_length() - 1))
            return _Plan(ON_DISK, sample, lists, most_lists, 1)
        enough = rounded_up(EXACT_UP_TO * of_a_row / 2**30)
        least = f"to choose one that is merged on disk takes {enough:g}"
    raise SettingError(
        "index.memory_gib",
        f"{memory_gib:g} is too little for {count} vectors of {dim} dimensions: {least}",
    )


class _Trial:
    """A sample, queries that are not in it, and their truth.

    In a tenth of the images the nearest is about as far away as the tenth of all of them. So of a sample as
    many neighbours are asked for as are in it of the ten: codes that tell neighbours apart in the sample then
    tell them apart in the whole.
    """

    def __init__(self, embeddings: Sequence[Rows], target_recall: float, seed: int, size: int) -> None:
        self._count = sum(len(part) for part in embeddings)
        self._target_recall, self._seed = target_recall, seed
        self._sample = [read_rows(embeddings, sample_rows(self._count, size, seed))]
        k = max(1, round(RECALL_AT * size / self._count))
        self._held_out = sample_rows(size, min(_DRAWS // k, size // 10), seed)
        queries = self._sample[0][self._held_out]
        truth = exact_neighbors(self._sample, queries, k, self._held_out)
        self._asked = Asked(queries, truth, k_of_whole=RECALL_AT, vectors=self._sample)
        self._centroids = Centroids()
        self._too_much = float(self._count)  # an exact search

    def of(self, kind: Kind, lists: int) -> Tried:
        """A kind, built of the sample and tuned."""
        size, dim = self._sample[0].shape
        if kind.factory(lists, dim) == EXACT:
            return Tried(EXACT, Point({}, EXACT_RECALL, float(self._count)))
        of_sample = max(_LISTS_AT_LEAST, lists * size // self._count)
        factory = kind.factory(of_sample, dim)
        index = build_index(self._sample, factory, self._seed, self._held_out, self._centroids)
        point = tune(index, self._asked, self._target_recall, self._too_much)
        more = CENTROID * (lists - of_sample)
        work = point.work + more if kind.has_lists else point.work * self._count / size
        if point.reaches(self._target_recall):
            self._too_much = min(self._too_much, _HOPELESS * work)
        return Tried(kind.factory(lists, dim), replace(point, work=work))
