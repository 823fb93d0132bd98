"""The files of data/finetune: what stage `finetune` writes there, and what stage `evaluate` reads."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import read_array
from pipeline.artifacts import Artifacts, read_json, write_json
from pipeline.errors import UserError
from pipeline.evaluation.scored import Scored

_MADE_BY = "finetune"


@dataclass(frozen=True)
class FinetuneFolder:
    """A fine-tuned encoder and its embeddings of the scored images; where it is off, its card alone.

    The card says how many `epochs` it learned, 0 where it is off; else also from what `share` of the labels,
    so many `num_images`; how far torch and onnxruntime are apart; and the hash of the collection.
    """

    path: Path

    @property
    def card(self) -> Path:
        return self.path / "finetune.json"

    @property
    def backbone(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder.onnx"

    @property
    def history(self) -> Path:
        return self.path / "history.tsv"

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def is_on(self) -> bool:
        """Whether there is an encoder to score."""
        return self.embeddings.exists()

    def write_off(self) -> None:
        """That nothing is fine-tuned."""
        write_json(self.card, {"epochs": 0})

    def check(self, data: Artifacts) -> None:
        """Holds that the embeddings are of these images.

        Raises:
            UserError: they are not.
        """
        made_with = str(read_json(self.card, made_by=_MADE_BY).get("data_sha256"))
        found = data.read_collection()["sha256"]
        if made_with != found:
            raise UserError(
                f"{self.path}: was made with images {made_with[:12]}, and they are {found[:12]} now: "
                f"run 'dvc repro {_MADE_BY}'"
            )

    def features(self, split: str, rows: NDArray[np.int64], scored: Scored) -> NDArray[np.float32]:
        """Embeddings of some of the scored rows of a split, float32 [len(rows), D], L2-normalised.

        Raises:
            UserError: there are those of other rows.
        """
        embedded = scored.features_of(split)
        path = self.embeddings / f"{split}.npy"
        embeddings: NDArray[np.float32] = read_array(path, made_by=_MADE_BY)
        if len(embeddings) != len(embedded):
            raise UserError(
                f"{path}: has {len(embeddings):,} rows, and {len(embedded):,} images are scored now: "
                f"run 'dvc repro {_MADE_BY}'"
            )
        return embeddings[np.searchsorted(embedded, rows)]
