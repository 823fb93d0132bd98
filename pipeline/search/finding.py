"""The k nearest of an index, whatever its kind: within some of the ids, without a query's own."""

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.search.building.certificate import RECALL_AT

# Q queries, D dimensions, N images


class ForeignIdError(ValueError):
    """An index holds ids that are no rows of it: its file is damaged."""


def find(
    index: faiss.Index,
    queries: NDArray[np.float32],
    k: int,
    parameters: Mapping[str, int],
    among: NDArray[np.bool_] | None,
    own_ids: NDArray[np.int64],
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Searches, and searches more thoroughly where an approximate index comes back with too few.

    Args:
        index: of N images.
        queries: [Q, D].
        k: wanted of each.
        parameters: of the search, as tuned, like nprobe; empty for an index that has none.
        among: which ids may be found, [N]; None: all.
        own_ids: the query's own, which it does not find, [Q]; -1 where it has none.

    Returns:
        For each query similarities and ids, from the nearest on; fewer than k where there are no more.

    Raises:
        UserError: an index of this kind cannot search within some of its ids.
        ForeignIdError: the index has found an id that is no row of it.
    """
    num_allowed = index.ntotal if among is None else int(among.sum())
    wanted = min(k + int((own_ids >= 0).any()), num_allowed)
    similarities = np.empty((len(queries), 0), dtype=np.float32)
    ids = np.empty((len(queries), 0), dtype=np.int64)
    thorough = 1
    while wanted:
        chosen = {name: value * thorough for name, value in parameters.items()}
        if "k_factor_rf" in chosen:  # tuned for ten: of fewer as many are ranked anew
            chosen["k_factor_rf"] *= -(-RECALL_AT // min(wanted, RECALL_AT))
        try:
            params = search_parameters(index, chosen, among)
            similarities, ids = index.search(queries, wanted, params=params)
        except RuntimeError:
            if among is None:
                raise
            raise UserError(
                "an index of this kind cannot search within a split or a class: choose another index.factory"
            ) from None
        # -1 where nothing was found; of no queries there are no ids
        if ((ids < -1) | (ids >= index.ntotal)).any():
            raise ForeignIdError
        if (ids >= 0).all() or not chosen or max(chosen.values()) >= index.ntotal:
            break
        thorough *= 2
    answers = []
    for query in range(len(queries)):
        kept = np.flatnonzero((ids[query] >= 0) & (ids[query] != own_ids[query]))[:k]
        answers.append((similarities[query, kept], ids[query, kept]))
    return answers


def search_parameters(index: faiss.Index, chosen: Mapping[str, int], among: NDArray[np.bool_] | None) -> Any:
    """FAISS's own search parameters of this kind of index; None where it searches as it is.

    Raises:
        RuntimeError: it cannot search within some of its ids; another kind may say so when it is asked.
    """
    if not chosen and among is None:
        return None
    index = faiss.downcast_index(index)
    kinds: Any = faiss  # whose type stubs lack most of these
    selected = {}
    if among is not None:
        selected = {"sel": kinds.IDSelectorBitmap(np.packbits(among, bitorder="little"))}
    if isinstance(index, faiss.IndexIDMap):
        within = faiss.downcast_index(index.index)
        if among is not None and isinstance(within, faiss.IndexPreTransform | faiss.IndexRefine):
            # it looks for a selector on top alone
            raise RuntimeError("FAISS would select by other ids there")
        return search_parameters(index.index, chosen, among)
    if isinstance(index, faiss.IndexRefine):
        of_base = {name: value for name, value in chosen.items() if name != "k_factor_rf"}
        base = search_parameters(index.base_index, of_base, among)
        k_factor = chosen.get("k_factor_rf", index.k_factor)
        return kinds.IndexRefineSearchParameters(base_index_params=base, k_factor=k_factor)
    if isinstance(index, faiss.IndexPreTransform):
        return kinds.SearchParametersPreTransform(index_params=search_parameters(index.index, chosen, among))
    if isinstance(index, faiss.IndexIVF):
        return kinds.SearchParametersIVF(**selected, **chosen)
    if isinstance(index, faiss.IndexHNSW):
        return kinds.SearchParametersHNSW(**selected, **chosen)
    return kinds.SearchParameters(**selected)
