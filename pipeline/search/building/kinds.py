"""The kinds of index that `auto` tries: one line each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

EXACT = "Flat"
_EXACT_PANORAMA = "FlatIPPanorama"


@dataclass(frozen=True)
class Kind:
    """A kind of index.

    Attributes:
        factory: FAISS's factory string, of the number of lists and the dimension.
        bytes_per_vector: that it holds, of the dimension; ids and centroids come to it.
        has_lists: whether it is an inverted file.
    """

    factory: Callable[[int, int], str]
    bytes_per_vector: Callable[[int], float]
    has_lists: bool = True


# Where codes are short of the truth, the vectors themselves or longer codes stand beside them, and rank anew.
# Not among them: graphs (HNSW), since a parallel build is not the same bytes twice, and one thread is slow;
# inverted files of Panorama, which fill each list up to 1,024 vectors; what they save of a distance, codes
# with vectors beside them save too.
KINDS = (
    Kind(lambda lists, dim: EXACT, lambda dim: 4 * dim, has_lists=False),
    Kind(lambda lists, dim: f"{_EXACT_PANORAMA}{_levels(dim)}", lambda dim: 4 * dim, has_lists=False),
    Kind(lambda lists, dim: f"IVF{lists},Flat", lambda dim: 4 * dim),
    Kind(lambda lists, dim: f"IVF{lists},SQ8", lambda dim: dim),
    Kind(lambda lists, dim: f"IVF{lists},SQ8,RFlat", lambda dim: 5 * dim),
    Kind(lambda lists, dim: f"IVF{lists},PQ{_codes(dim)}x4fs,RFlat", lambda dim: 4.25 * dim),
    Kind(lambda lists, dim: f"IVF{lists},PQ{_codes(dim)}x4fs,Refine(SQ8)", lambda dim: 1.25 * dim),
    Kind(lambda lists, dim: f"IVF{lists},RaBitQfs,RFlat", lambda dim: 4.125 * dim + 16),
)
# Of those one is merged on disk where the memory holds none: lists that are arrays, read as they lie. Vectors
# that are not in a list are read where they lie too, those alone that rank anew.
ON_DISK = (
    Kind(lambda lists, dim: f"IVF{lists},SQ8", lambda dim: dim),
    Kind(lambda lists, dim: f"IVF{lists},SQ8,RFlat", lambda dim: 5 * dim),
    Kind(lambda lists, dim: f"IVF{lists},SQ8,Refine(SQ8)", lambda dim: 2 * dim),
)


def is_exact(factory: str) -> bool:
    """Whether an index of this factory string misses nothing."""
    return factory == EXACT or factory.startswith(_EXACT_PANORAMA)


def usual_lists(count: int) -> int:
    """About 4 sqrt(N) lists, to a power of two, as FAISS's guidelines have it."""
    return int(2 ** round(math.log2(4 * math.sqrt(count))))


def _levels(dim: int) -> int:
    """Into so many parts Panorama cuts a vector: at least 16 dimensions each, at most 8."""
    return max(1, min(8, dim // 16))


def _codes(dim: int) -> int:
    """Of a product quantiser: two dimensions each, or as near to that as divides the dimension."""
    return next(codes for codes in range(dim // 2 or 1, 0, -1) if dim % codes == 0)
