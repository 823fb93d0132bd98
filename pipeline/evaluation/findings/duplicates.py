"""Images that stand in a collection more than once: the same file, or the same picture in another one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.arrays import slices
from pipeline.evaluation.findings.table import Finding

# P pairs of images

SURE_FROM = 0.9  # correlation of the pixels; what is below is not kept
_STEP = 0.01  # of the thresholds at which groups are formed
_SIDE = 16  # pixels at which pictures are compared
# A pair is looked at whose distance is at most this share of the usual one to the tenth neighbour.
_NEAR = 0.5
_MOST_PAIRS = 100_000  # the nearest ones of more
_FLAT = 2.0  # levels of deviation: a picture of one colour, which correlates with nothing
_BLOCK = 4096  # pairs


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that look the same.

    Attributes:
        ids: int64 [P, 2], the smaller id first.
        scores: correlation of their pixels, float64 [P], from `SURE_FROM` to 1.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


def exact_copies(contents: NDArray[np.int64]) -> list[Finding]:
    """Groups of equal files.

    Args:
        contents: of each image of the collection, numbered from 0, [N]; equal numbers are equal files.
    """
    copied = np.flatnonzero(np.bincount(contents)[contents] > 1)
    order = copied[np.argsort(contents[copied], kind="stable")]
    starts = np.flatnonzero(np.diff(contents[order], prepend=-1))
    groups = np.split(order, starts[1:]) if len(order) else []
    return [
        Finding("exact_copy", tuple(group.tolist()), 1.0, f"{len(group)} files with the same bytes")
        for group in groups
    ]


def near_pairs(
    neighbors: NDArray[np.integer],
    cosines: NDArray[np.float32],
    picture: Callable[[int], NDArray[np.uint8]],
    asked: NDArray[np.bool_] | None = None,
) -> Pairs:
    """Pairs that the embeddings hold unusually near, and whose pixels agree.

    The embedding proposes, the pixels decide: two cats may be as near as one cat twice.

    Args:
        neighbors: ids of the nearest others of each image, [N, k]; -1 where there are no more.
        cosines: with these, [N, k].
        picture: gives an image's pixels by its id, uint8 [H, W, 3].
        asked: whose neighbours are looked at, [N]; None: everybody's.
    """
    ids = _candidates(neighbors, cosines, np.ones(len(neighbors), np.bool_) if asked is None else asked)
    involved, places = np.unique(ids, return_inverse=True)
    places = places.reshape(ids.shape)
    small = np.empty((len(involved), _SIDE * _SIDE * 3), dtype=np.uint8)
    for row, image_id in zip(small, involved.tolist(), strict=True):
        row[:] = _reduced(picture(image_id))
    scores = np.empty(len(ids))
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores[block] = agreement(small[places[block, 0]], small[places[block, 1]])
    sure = scores >= SURE_FROM
    return Pairs(ids[sure], scores[sure])


def _candidates(
    neighbors: NDArray[np.integer], cosines: NDArray[np.float32], asked: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Pairs that are nearer than images of this collection usually are, the nearest first, [P, 2], each once.

    The lists are read in parts, and of the pairs so far no more are kept than can be among the nearest: one
    may stand in a list k times, where copies stand for each other, and in two lists.
    """
    farthest = _distances(neighbors[:, -1:], cosines[:, -1:], asked)
    if not np.isfinite(farthest).any():
        return np.empty((0, 2), dtype=np.int64)
    usual = np.median(farthest[np.isfinite(farthest)])
    most = 2 * neighbors.shape[1] * _MOST_PAIRS
    near, ids = np.empty(0, dtype=farthest.dtype), np.empty((0, 2), dtype=np.int64)
    for rows in slices(len(neighbors)):
        distances = _distances(neighbors[rows], cosines[rows], asked[rows])
        places = np.nonzero(distances <= _NEAR * usual)
        found = np.stack([rows.start + places[0], neighbors[rows][places]], axis=1)
        near, ids = np.concatenate([near, distances[places]]), np.concatenate([ids, found])
        nearest = np.argsort(near, kind="stable")[:most]
        near, ids = near[nearest], ids[nearest]
    ids.sort(axis=1)
    _, firsts = np.unique(ids[:, 0] * len(neighbors) + ids[:, 1], return_index=True)
    kept: NDArray[np.int64] = ids[np.sort(firsts)[:_MOST_PAIRS]]
    return kept


def _distances(
    neighbors: NDArray[np.integer], cosines: NDArray[np.float32], asked: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """On the sphere, [N, k]; infinite where there is no neighbour or nobody asked."""
    is_found = (neighbors >= 0) & asked[:, None]
    return np.where(is_found, np.sqrt(np.maximum(2 - 2 * cosines, 0)), np.inf)


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


def agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The correlation of pictures with others, or with their mirror images where that is more, [P].

    In colour, since a red shirt and a blue one are two. Pictures of one colour are the same where that is.

    Args:
        first: [P, 16 x 16 x 3].
        second: likewise.
    """
    mirrored = second.reshape(-1, _SIDE, _SIDE, 3)[:, :, ::-1].reshape(len(second), -1)
    found = np.maximum(_correlation(first, second), _correlation(first, mirrored))
    is_flat = np.minimum(first.std(axis=1), second.std(axis=1)) < _FLAT
    means = np.abs(first.mean(axis=1) - second.mean(axis=1))
    both_flat = np.maximum(first.std(axis=1), second.std(axis=1)) < _FLAT
    return np.where(is_flat, (both_flat & (means < _FLAT)).astype(np.float64), found)


def _correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (first, second))
    lengths = np.sqrt(np.einsum("pd,pd->p", a, a) * np.einsum("pd,pd->p", b, b))
    found: NDArray[np.float64] = np.einsum("pd,pd->p", a, b) / np.maximum(lengths, 1e-12)
    return np.minimum(found, 1.0)


def near_duplicates(pairs: Pairs) -> list[Finding]:
    """Groups of images that look the same, at thresholds that fall by a hundredth from 1 to `SURE_FROM`.

    A group that grows at a lower threshold is found again, larger: so the groups at any of the thresholds are
    those of at least that score that are in no larger one. Its score is that of the weakest pair which holds
    it together.
    """
    groups = _Groups()
    found = []
    order = np.argsort(-pairs.scores, kind="stable")
    levels = np.ceil((1 - pairs.scores[order]) / _STEP - 1e-9)
    for level in np.unique(levels):
        grown: dict[int, float] = {}
        for place in order[levels == level]:
            joined = groups.join(*pairs.ids[place].tolist())
            if joined is not None:
                into, gone = joined
                grown.pop(gone, None)
                grown[into] = float(pairs.scores[place])  # they fall: the last is the weakest
        found += [
            Finding(
                "near_duplicate",
                tuple(sorted(groups.members[root])),
                score,
                f"{len(groups.members[root])} pictures, pixels correlate at {score:.3f} or more",
            )
            for root, score in grown.items()
        ]
    return found


class _Groups:
    """Disjoint groups of ids; the smaller goes into the larger."""

    def __init__(self) -> None:
        self._root: dict[int, int] = {}
        self.members: dict[int, list[int]] = {}

    def join(self, first: int, second: int) -> tuple[int, int] | None:
        """Makes one group of two ids' groups: its root and the one that is no more; None where it was one."""
        roots = [self._root.setdefault(each, each) for each in (first, second)]
        if roots[0] == roots[1]:
            return None
        gone, into = sorted(roots, key=lambda root: len(self.members.get(root, [root])))
        moved = self.members.pop(gone, [gone])
        self.members.setdefault(into, [into]).extend(moved)
        self._root.update(dict.fromkeys(moved, into))
        return into, gone


def pairs_across(
    pairs: Pairs, contents: NDArray[np.int64], is_train: NDArray[np.bool_], is_test: NDArray[np.bool_]
) -> Iterator[Finding]:
    """For each test image that stands in the training images too, the one that is most like it.

    Args:
        pairs: that look the same; what is true of an image is true of all files that are equal to it.
        contents: of each image, numbered from 0, [N]; equal numbers are equal files.
        is_train: of each image, [N].
        is_test: likewise.
    """
    train_ids, test_ids = np.flatnonzero(is_train), np.flatnonzero(is_test)
    twins = np.full(int(contents.max(initial=-1)) + 1, -1)  # the first of the training images of a content
    twins[contents[train_ids[::-1]]] = train_ids[::-1]
    of_test = contents[test_ids]
    best = {content: (1.0, int(twins[content])) for content in of_test[twins[of_test] >= 0].tolist()}
    for pair, score in zip(contents[pairs.ids].tolist(), pairs.scores.tolist(), strict=True):
        for content, other in (pair, pair[::-1]):
            if twins[other] >= 0 and score > best.get(content, (0.0, 0))[0]:
                best[content] = (score, int(twins[other]))
    has_twin = np.isin(of_test, np.fromiter(best, np.int64, len(best)))
    for test_id in test_ids[has_twin].tolist():
        score, train_id = best[contents[test_id]]
        same = contents[test_id] == contents[train_id]
        what = "the same bytes" if same else f"pixels correlate at {score:.3f}"
        yield Finding("train_test_pair", (train_id, test_id), score, f"in train and in test: {what}")
