"""Section `embed` of params.yaml: what the encoder runs on."""

from typing import Any, Literal

from pipeline.params.section import Count, Device, NonEmpty, Section


class Embed(Section):
    """The engine, the device of onnxruntime, images at a time, and threads on the CPU; none: one a core."""

    engine: Literal["local", "ray"]
    ray_address: NonEmpty | None
    device: Device
    batch_size: Count
    threads: Count | None

    def embedded(self) -> dict[str, Any]:
        """The values that an embedding may depend on."""
        return self.model_dump(mode="json", exclude={"ray_address"})
