"""Section `embed` of params.yaml: what the encoder runs on."""

from pipeline.params.section import Count, Device, Section


class Embed(Section):
    """The device of onnxruntime, and images at a time."""

    device: Device
    batch_size: Count
