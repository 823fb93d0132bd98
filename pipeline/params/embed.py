"""Section `embed` of params.yaml: what the encoder runs on."""

from typing import Any

from pipeline.params.section import Count, Device, Section


class Embed(Section):
    """The device of onnxruntime, and images at a time."""

    device: Device
    batch_size: Count

    def embedded(self) -> dict[str, Any]:
        """The values that an embedding may depend on."""
        return self.model_dump(mode="json")
