"""A searchable collection: the encoder, the index and the manifest, opened together and asked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, existing
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError, damaged_output
from pipeline.images import read_image
from pipeline.search.index import IndexCard, read_card, read_index
from pipeline.search.tuning import set_search_parameters

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.params.section import Device  # a type alone: a query reads no params.yaml


@dataclass(frozen=True)
class Neighbor:
    """One row of an answer."""

    rank: int
    score: float
    class_name: str | None
    id: int
    source: str
    split: str


class ImageIndex:
    """A searchable collection: the encoder, the index, and what is known of each image."""

    def __init__(self, data: Artifacts, encoder: Encoder, index: faiss.Index, card: IndexCard) -> None:
        self.encoder = encoder
        self.card = card
        self._data = data
        self._index = index

    @classmethod
    def open(cls, root: Path | str = "data", device: "Device" = "auto") -> Self:
        """Opens the outputs of a run of the chain.

        Args:
            root: the folder that holds encoder/, index/ and images/.
            device: what the encoder runs on.

        Raises:
            UserError: a file is missing or damaged, or encoder, index and manifest are not of one run; the
                message names the file, the values and the command that mends it.
            MachineError: `cuda` where there is none.
        """
        data = Artifacts(Path(root))
        encoder = Encoder.open(data.encoder, device)
        card = read_card(data.index_card)
        index = read_index(data.index)
        _check_contract(data, encoder, index, card)
        set_search_parameters(index, card.search_parameters)
        return cls(data, encoder, index, card)

    def __len__(self) -> int:
        return self.card.count

    def search(self, image: Path | str | NDArray[np.uint8], k: int = 10) -> "pd.DataFrame":
        """The k images that look most alike, as a table: rank, score, class_name, id, source, split.

        Args:
            image: a file, or RGB pixels uint8 [H, W, 3] of the encoder's size.
            k: from 1 to the size of the index.

        Raises:
            UserError: the file cannot be read, or k is out of range.
        """
        import pandas as pd  # 0.6 s that the command line does without

        return pd.DataFrame([asdict(neighbor) for neighbor in self.neighbors(image, k)])

    def neighbors(self, image: Path | str | NDArray[np.uint8], k: int = 10) -> list[Neighbor]:
        """Like `search`, as a list from the nearest on; the score is the cosine similarity."""
        if not 1 <= k <= len(self):
            raise UserError(f"k is {k}, the index holds {len(self)} images: choose k from 1 to {len(self)}")
        if not isinstance(image, np.ndarray):
            image = read_image(Path(image), self.encoder.image_size)
        similarities, ids = self._index.search(self.encoder(image[None]), k)
        rows = _manifest_rows(self._data.manifest, ids[0])
        return [
            Neighbor(
                rank=rank,
                score=float(score),
                class_name=row["class_name"],
                id=row["id"],
                source=row["source"],
                split=row["split"],
            )
            for rank, (score, row) in enumerate(zip(similarities[0], rows, strict=True), start=1)
        ]

    def pixels(self, id: int) -> NDArray[np.uint8]:  # noqa: A002
        """The pixels of an image of the collection, uint8 [H, W, 3]."""
        first = 0
        for split in self._data.splits():
            images = self._data.read_images(split)
            if id < first + len(images):
                return np.asarray(images[id - first])
            first += len(images)
        raise UserError(f"there is no image {id}: the ids go from 0 to {first - 1}")


def _check_contract(data: Artifacts, encoder: Encoder, index: faiss.Index, card: IndexCard) -> None:
    """Refuses encoder, index and manifest that are not of one run."""
    mend = "run 'dvc repro index'"
    if card.encoder_sha256 != encoder.sha256:
        raise UserError(
            f"{data.index}: built with encoder {card.encoder_sha256[:12]}, but {data.encoder} is "
            f"{encoder.sha256[:12]}: {mend}"
        )
    if not index.d == card.dimension == encoder.dim:
        raise UserError(
            f"{data.index}: has {index.d} dimensions and {data.index_card} says {card.dimension}, but "
            f"{data.encoder} gives {encoder.dim}: {mend}"
        )
    import pyarrow.parquet

    try:
        num_images = pyarrow.parquet.read_metadata(existing(data.manifest, made_by="fetch")).num_rows
    except pyarrow.ArrowInvalid:
        raise damaged_output(data.manifest, "not a parquet file", "fetch") from None
    if not index.ntotal == card.count == num_images:
        raise UserError(
            f"{data.index}: holds {index.ntotal} images and {data.index_card} says {card.count}, but "
            f"{data.manifest} lists {num_images}: {mend}"
        )


def _manifest_rows(path: Path, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The manifest's rows of these ids, in their order."""
    import pyarrow.parquet  # alone, it is imported 0.6 s sooner than pandas

    # neither read_table nor take: both import pandas
    table = pyarrow.parquet.ParquetFile(path).read(columns=["id", "split", "class_name", "source"])
    return [table.slice(id_, 1).to_pylist()[0] for id_ in ids.tolist()]
