"""What an index can be asked with: files, pixels, ids, embeddings, one or many; all become embeddings."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.images import read_image

Query = Path | str | int | NDArray[np.uint8] | NDArray[np.floating]

_IMAGES_AT_ONCE = 64
NOT_IN_THE_INDEX = -1


def is_one(query: Query | Sequence[Query]) -> bool:
    """Whether this is one query: a list, ids [B], pixels [B, H, W, 3] and embeddings [B, D] are many."""
    if isinstance(query, np.ndarray):
        if np.issubdtype(query.dtype, np.floating):
            return query.ndim == 1
        return query.ndim == (3 if query.dtype == np.uint8 else 0)
    return isinstance(query, str | Path | int | np.integer)


def to_embeddings(
    query: Query | Sequence[Query],
    dimension: int,
    encoder_of: Callable[[], Encoder],
    embedding_of: Callable[[int], NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The embeddings of one query or of many.

    Args:
        query: see `ImageIndex.search`.
        dimension: D, of the index.
        encoder_of: gives that of the index, where there are pictures.
        embedding_of: gives that of an id of the index, float32 [D], of length 1.

    Returns:
        float32 [Q, D], L2-normalised, and each query's own id, or -1 where it is not asked by one, [Q].

    Raises:
        UserError: a file cannot be read, an id or an embedding is not of this index, the pixels are not of
            the encoder's size, or it has no encoder.
    """
    queries: list[Any] = [query] if is_one(query) else _many(query)
    embeddings = np.empty((len(queries), dimension), dtype=np.float32)
    own_ids = np.full(len(queries), NOT_IN_THE_INDEX, dtype=np.int64)
    pictures: list[int] = []
    for place, each in enumerate(queries):
        if isinstance(each, int | np.integer):
            embeddings[place], own_ids[place] = embedding_of(int(each)), each
        elif isinstance(each, np.ndarray) and np.issubdtype(each.dtype, np.floating):
            embeddings[place] = unit(each, dimension)
        elif isinstance(each, str | Path) or (isinstance(each, np.ndarray) and each.dtype == np.uint8):
            pictures.append(place)
        else:
            raise _no_query(each)
    for start in range(0, len(pictures), _IMAGES_AT_ONCE):
        places = pictures[start : start + _IMAGES_AT_ONCE]
        encoder = encoder_of()
        pixels = [_pixels(queries[place], encoder.image_size) for place in places]
        embeddings[places] = encoder(np.stack(pixels))
    return embeddings, own_ids


def _many(query: Any) -> list[Any]:
    has_no_rows = isinstance(query, np.ndarray) and query.ndim == 0
    if has_no_rows or isinstance(query, bytes | dict | set) or not isinstance(query, Iterable):
        raise _no_query(query)
    return list(query)


def _no_query(query: object) -> UserError:
    of = f" of {query.dtype}" if isinstance(query, np.ndarray) else ""
    return UserError(
        f"a query is a {type(query).__name__}{of}: ask with an image file, pixels (uint8), an id or an "
        "embedding (float), or with a list of them"
    )


def _pixels(query: Path | str | NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if not isinstance(query, np.ndarray):
        return read_image(Path(query), size)
    if query.shape != (size, size, 3):
        raise UserError(f"pixels are {list(query.shape)}, the encoder takes uint8 [{size}, {size}, 3]")
    return query


def unit(embedding: NDArray[np.floating], dimension: int) -> NDArray[np.float32]:
    """An embedding of any length as one of length 1, float32 [D].

    Raises:
        UserError: it has another shape, or no direction.
    """
    if embedding.shape != (dimension,):
        raise UserError(f"an embedding is {list(embedding.shape)}, the index holds [{dimension}]")
    length = float(np.linalg.norm(embedding))
    if not np.isfinite(length) or length == 0:
        raise UserError(f"an embedding has length {length}: it needs a direction")
    return (embedding / length).astype(np.float32)
