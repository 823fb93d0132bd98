"""How images move through the chain, callable without DVC: `from pipeline import Encoder, ImageIndex`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.encoder.runtime import Encoder
    from pipeline.search.image_index import ImageIndex

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
