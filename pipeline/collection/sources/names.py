"""Names of millions of images in the bytes that they are long, where Python's own take a hundred each."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.arrays import slices
from pipeline.collection.columns import MadeWhenAsked

_KEY_DIGITS = 16  # of a sha256: of a billion images two share them once in 37 times, and get a number more


class Names(MadeWhenAsked[str]):
    """Texts, one behind the other; each is made when it is asked for.

    >>> names = Names(["a.jpg", "caf\u00e9.png"])
    >>> len(names), names[1], list(names)
    (2, 'caf\u00e9.png', ['a.jpg', 'caf\u00e9.png'])
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _made(self, place: int) -> str:
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return map(self._made, range(len(self)))


def are_distinct(names: Sequence[str]) -> bool:
    """Whether no two are the same, by hashes of 16 bytes."""
    hashes = np.empty(len(names), dtype="V16")
    for place, name in enumerate(names):
        hashes[place] = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    halves = hashes.view("<u8").reshape(-1, 2)
    order = np.lexsort(halves.T)
    return not any(
        (halves[order[:-1][part]] == halves[order[1:][part]]).all(axis=1).any()
        for part in slices(len(order) - 1)
    )


def hash_keys(contents: Iterable[object], count: int) -> Names:
    """Of each of so many files the beginning of its hash, with a number from the second of equal ones on.

    What is no bytes is called by its row.
    """
    hashes, without = np.zeros(count, dtype=np.uint64), set()
    for row, content in enumerate(contents):
        if isinstance(content, bytes):
            hashes[row] = int(hashlib.sha256(content).hexdigest()[:_KEY_DIGITS], 16)
        else:
            without.add(row)
    values, counts = np.unique(hashes, return_counts=True)
    repeated, seen = set(values[counts > 1].tolist()), Counter[int]()

    def keys() -> Iterator[str]:
        for row, value in enumerate(map(int, hashes)):
            if row in without:
                yield f"row {row}"
                continue
            key = f"{value:0{_KEY_DIGITS}x}"
            if value in repeated:
                seen[value] += 1
                key += f"-{seen[value]}" if seen[value] > 1 else ""
            yield key

    return Names(keys())
