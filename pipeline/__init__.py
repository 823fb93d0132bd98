"""How images move through the chain, callable without DVC: `from pipeline import Encoder, ImageIndex`."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.encoder.runtime import Encoder
    from pipeline.search.image_index import ImageIndex

# As it is packaged, onnxruntime keeps an identifier of the machine in the home folder and sends events to its
# maker, the encoder's metadata among them. It looks here once, when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Encoder", "ImageIndex"]


def __getattr__(name: str) -> Any:
    # on first use: `lookalike --help` and the training stage need neither onnxruntime nor FAISS
    if name == "Encoder":
        from pipeline.encoder.runtime import Encoder

        return Encoder
    if name == "ImageIndex":
        from pipeline.search.image_index import ImageIndex

        return ImageIndex
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
