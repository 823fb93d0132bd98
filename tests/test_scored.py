"""Which images the start is embedded of: those that are scored, and a sample."""

import numpy as np
import pandas as pd

from pipeline.evaluation.scored import scored_images


def manifest(**labels: list[int]) -> pd.DataFrame:
    """Rows of splits in turn, with these labels."""
    rows = [(split, label) for split, of_split in labels.items() for label in of_split]
    return pd.DataFrame(rows, columns=["split", "label"])


def test_the_labelled_and_a_sample_of_train_are_looked_at_and_nothing_of_unlabelled() -> None:
    train = [-1] * 9000 + [0, 1] * 50
    scored = scored_images(manifest(train=train, test=[1, -1, 0], unlabelled=[-1] * 50))
    np.testing.assert_array_equal(scored.rows["train"], np.arange(9000, 9100))
    np.testing.assert_array_equal(scored.labels["train"], [0, 1] * 50)
    np.testing.assert_array_equal(scored.rows["test"], [0, 2])
    assert len(scored.sample) == 2000
    assert len(scored.viewed) == 1000
    assert np.isin(scored.viewed, scored.sample).all()
    of_train = scored.features_of("train")
    assert 2000 < len(of_train) < 2100
    assert set(of_train) == set(range(9000, 9100)) | set(scored.sample)
    assert (np.diff(of_train) > 0).all()
    np.testing.assert_array_equal(scored.features_of("test"), [0, 2])
    assert len(scored.features_of("unlabelled")) == 0


def test_where_one_split_has_no_labels_the_sample_alone_is_looked_at() -> None:
    for labels in (
        {"train": [0, 1] * 3000, "test": [-1] * 3},
        {"train": [0, 1] * 3000},
        {"train": [-1] * 6000},
    ):
        scored = scored_images(manifest(**labels))
        np.testing.assert_array_equal(scored.features_of("train"), scored.sample)
        assert len(scored.sample) == 2000
        assert len(scored.features_of("test")) == 0


def test_of_a_few_images_all_are_looked_at() -> None:
    scored = scored_images(manifest(train=[0, -1, 1], test=[0, 1]))
    np.testing.assert_array_equal(scored.features_of("train"), [0, 1, 2])
    np.testing.assert_array_equal(scored.features_of("test"), [0, 1])
