"""Every path under data/, with its reader and its writer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import read_array
from pipeline.atomic import atomic_file, writer
from pipeline.errors import UserError, damaged_output, existing

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = Path(".lookalike")  # what speeds up or resumes work and is no output
SPLITS = ("train", "test", "unlabelled")  # their order is the order of the manifest's ids
UNLABELLED = -1  # the label of an image that has none


@dataclass(frozen=True)
class Artifacts:
    """The outputs of one run of the chain, under one folder.

    The manifest's id counts the rows of the arrays in the order of `SPLITS`, so one number finds an image,
    its embedding and its place in the index.
    """

    root: Path = Path("data")

    @property
    def source(self) -> Path:
        return self.root / "source.json"

    @property
    def code(self) -> Path:
        """A file a stage: the hash of its code."""
        return self.root / "code"

    def stage_code(self, stage: str) -> Path:
        return self.code / f"{stage}.json"

    @property
    def weights(self) -> Path:
        """The hash of what the training begins with."""
        return self.root / "weights.json"

    @property
    def rejected(self) -> Path:
        """What could not be read, where it was so much that stage fetch stopped."""
        return self.root / "rejected.csv"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def manifest(self) -> Path:
        return self.images / "manifest.parquet"

    @property
    def collection(self) -> Path:
        return self.images / "collection.json"

    @property
    def pretrain(self) -> Path:
        return self.root / "pretrain"

    @property
    def backbone(self) -> Path:
        return self.pretrain / "backbone.safetensors"

    @property
    def start_backbone(self) -> Path:
        return self.pretrain / "start.safetensors"

    @property
    def augmented(self) -> Path:
        """A view of each image of a sample, as pixels."""
        return self.pretrain / "augmented.npy"

    @property
    def encoders(self) -> Path:
        return self.root / "encoder"

    @property
    def encoder(self) -> Path:
        return self.encoders / "encoder.onnx"

    @property
    def start_encoder(self) -> Path:
        return self.encoders / "start.onnx"

    @property
    def finetune(self) -> Path:
        return self.root / "finetune"

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings"

    @property
    def start_embeddings(self) -> Path:
        return self.embeddings / "start"

    @property
    def view_embeddings(self) -> Path:
        """Of the augmented views; not there where these are of another state of the collection."""
        return self.embeddings / self.augmented.name

    @property
    def embeddings_card(self) -> Path:
        return self.embeddings / "embeddings.json"

    @property
    def index(self) -> Path:
        """The folder; what lies in it is pipeline/search/index_folder.py's."""
        return self.root / "index"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def outcomes(self) -> Path:
        """What every protocol said of every test image."""
        return self.evaluation / "outcomes.parquet"

    @property
    def findings(self) -> Path:
        """What is wrong with the collection."""
        return self.evaluation / "findings.parquet"

    @property
    def report_page(self) -> Path:
        """All that a run says, on one page; alone in its folder."""
        return self.root / "report" / "index.html"

    def metrics(self, stage: str) -> Path:
        return self.root / "metrics" / f"{stage}.json"

    def speed(self, stage: str) -> Path:
        return self.root / "speed" / f"{stage}.json"

    def splits(self) -> list[str]:
        """The splits that the collection has, in the order of their ids."""
        num_images = self.read_collection()["num_images"]
        return [split for split in SPLITS if split in num_images]

    def read_images(self, split: str) -> NDArray[np.uint8]:
        """Memory-mapped pixels of a split, uint8 [N, H, W, 3]."""
        return read_array(self.images / f"{split}.npy", made_by="fetch")

    def read_augmented(self) -> NDArray[np.uint8]:
        """Memory-mapped views, uint8 [M, H, W, 3], of `pipeline.evaluation.scored.Scored.viewed`."""
        return read_array(self.augmented, made_by="pretrain")

    def read_embeddings(self, split: str, *, of_start: bool = False) -> NDArray[np.float32]:
        """Memory-mapped embeddings of a split, or `augmented`, float32 [N, D], L2-normalised.

        Of the start there are those of the scored images alone: N is the number of
        `pipeline.evaluation.scored.Scored.features_of`.
        """
        folder = self.start_embeddings if of_start else self.embeddings
        return read_array(folder / f"{split}.npy", made_by="embed")

    def check_embeddings(self) -> None:
        """Holds that the embeddings are of these images by this encoder.

        Raises:
            UserError: they are not, or are missing.
        """
        card = read_json(self.embeddings_card, made_by="embed")
        for path, made_by in ((self.encoder, "export"), (self.manifest, "fetch")):
            found = sha256_of(existing(path, made_by))
            if card.get(path.name) != found:
                raise UserError(
                    f"{self.embeddings}: were made with {path} {str(card.get(path.name))[:12]}, and that is "
                    f"{found[:12]} now: run 'dvc repro embed'"
                )

    def read_manifest(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """A row an image: id, split, label, class_name, source, width, height, sha256; or of these some.

        All of them are 200 bytes an image, and twice that while they are read.
        """
        import pandas as pd  # 0.6 s, which a query has no use for

        path = existing(self.manifest, made_by="fetch")
        return pd.read_parquet(path, columns=None if columns is None else list(columns))

    def read_digests(self) -> NDArray[np.uint8]:
        """The sha256 of every image's file, by its id: uint8 [N, 32]."""
        import pyarrow.parquet

        start = 0
        path = existing(self.manifest, made_by="fetch")
        with pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            digests = np.empty((file.metadata.num_rows, 32), dtype=np.uint8)
            for batch in file.iter_batches(columns=["sha256"]):
                text = "".join(batch.column(0).to_pylist())
                of_batch = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 32)
                digests[start : start + len(of_batch)] = of_batch
                start += len(of_batch)
        return digests

    def read_collection(self) -> dict[str, Any]:
        """What stands in collection.json: name, image_size, class_names, num_images by split, hash."""
        return read_json(self.collection, made_by="fetch")


def stages_under_way(data: Artifacts | None = None) -> list[tuple[Path, int]]:
    """What a stage is writing now, and the processes that do."""
    data = data or Artifacts()
    folders = (data.images, data.pretrain, data.encoders, data.finetune, data.embeddings, data.index)
    paths = (data.code, data.source, data.weights, *folders, data.evaluation, data.report_page.parent)
    return [(path, process) for path in paths if (process := writer(path)) is not None]


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is missing or no JSON object.
    """
    text = existing(path, made_by).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged_output(path, f"not JSON ({error})", made_by) from None
    if not isinstance(value, dict):
        raise damaged_output(path, "not a JSON object", made_by)
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, two spaces deep, keys in the given order."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_tsv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes rows of equal keys as a table with tabs, six significant digits, atomically."""
    header = "\t".join(rows[0])
    lines = ["\t".join(f"{value:.6g}" for value in row.values()) for row in rows]
    with atomic_file(path) as partial:
        partial.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
