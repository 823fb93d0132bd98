"""While a changed collection goes through the chain, a search is answered by the old index or the new one."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import ImageIndex
from pipeline.artifacts import Artifacts
from tests.conftest import change_params, repro


@pytest.mark.slow
def test_a_query_every_100_ms_of_a_repro_is_answered_by_the_old_or_the_new_generation(
    small_chain: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(small_chain, clone, symlinks=True)
    folder = clone / "data/index"
    pixels = np.array(Artifacts(clone / "data").read_images("test")[7])
    answers: list[tuple[str, pd.DataFrame]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            try:
                index = ImageIndex.open(folder)
                answers.append((index.card.manifest_sha256, index.search(pixels)))
            except Exception as error:
                failures.append(error)

    old = ImageIndex.open(folder)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        change_params(clone / "params.yaml", {"dataset.seed": 1, "pretrain.epochs": 0})
        repro(clone, "index")  # the last stage that writes what a search reads
        done.wait(1.0)  # some questions to the new one
    finally:
        done.set()
        asking.join()
    new = ImageIndex.open(folder)
    assert failures == []
    expected = {index.card.manifest_sha256: index.search(pixels) for index in (old, new)}
    assert len(expected) == 2
    assert {manifest for manifest, _ in answers} == set(expected)
    assert len(answers) > 50
    for manifest, answer in answers:
        pd.testing.assert_frame_equal(answer, expected[manifest])
