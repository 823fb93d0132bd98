"""What became of every image of a collection while it was decoded, in 42 bytes each."""

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import slices
from pipeline.collection.worker import Read


class OutcomesOf:
    """Of N images.

    Attributes:
        is_read: bool [N].
        sizes: width and height as stored, int32 [N, 2].
        digests: the sha256 of each file, uint8 [N, 32]; zeros where it was not read.
        reasons: why an image was not read, by its number; empty where nobody said.
        num_known: whose pixels were taken from where they stood decoded.
    """

    def __init__(self, count: int) -> None:
        self.is_read = np.zeros(count, dtype=np.bool_)
        self.sizes = np.zeros((count, 2), dtype=np.int32)
        self.digests = np.zeros((count, 32), dtype=np.uint8)
        self.reasons: dict[int, str] = {}
        self.num_known = 0

    def note(self, number: int, outcome: Read | str) -> None:
        """What was read of an image, or why it was not."""
        if isinstance(outcome, str):
            self.reasons[number] = outcome
            return
        self.is_read[number] = True
        self.sizes[number] = outcome.width, outcome.height
        self.digests[number] = np.frombuffer(outcome.sha256, np.uint8)
        self.num_known += outcome.was_known

    def leaked(self, is_test: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which images to learn from have the bytes of one in the test split, [N].

        Args:
            is_test: whether each image is in it, [N].
        """
        in_test = np.sort(_strings(self.digests[is_test & self.is_read]))
        found = np.zeros(len(is_test), dtype=np.bool_)
        if len(in_test) == 0:
            return found
        for part in slices(len(found)):
            asked = _strings(self.digests[part])
            places = np.minimum(np.searchsorted(in_test, asked), len(in_test) - 1)
            found[part] = (in_test[places] == asked) & self.is_read[part] & ~is_test[part]
        return found

    def num_duplicates(self) -> int:
        """Images whose bytes stand in an earlier one."""
        order = np.argsort(_strings(self.digests))
        num_equal = 0
        for part in slices(len(order) - 1):
            before, after = order[:-1][part], order[1:][part]
            is_equal = (self.digests[before] == self.digests[after]).all(axis=1)
            num_equal += int((is_equal & self.is_read[after]).sum())
        return num_equal


def _strings(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Hashes as NumPy sorts them; the zeros at an end, which it drops, make no two of one length equal."""
    return np.ascontiguousarray(digests).view("S32").reshape(-1)
