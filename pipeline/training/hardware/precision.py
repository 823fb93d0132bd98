"""The precision of the forward pass: by a rule, never by a timing, so that equal machines decide alike."""

import torch

from pipeline.params.pretrain import Pretrain

# Views/s of a SimCLR step on two cores of an AMD EPYC, float32 and bfloat16, in one run (channels_last, which
# was the faster layout wherever there are convolutions); in the last column with oneDNN held to what a
# processor without AVX512-bf16 has.
#                                depthwise   float32   bfloat16   bfloat16 without the instructions
#   EfficientNet-Lite0, 128 px        0.34      85.4       60.1       31.2
#   EfficientNet-Lite0, 224 px        0.34      30.4       23.0       10.7
#   MobileNetV3-small, 128 px         0.29     351.2      178.9      134.8
#   ConvNeXt-atto, 128 px             0.16      92.5      111.9       35.8
#   ResNet-18, 64 px                  0         15.3       28.6        5.6
#   ViT-tiny, 224 px                  0         18.1       24.9        8.8
# No processor with AMX was measured: it makes matrix products faster, not depthwise convolutions.
_MUCH = 1 / 4  # of a network in depthwise convolutions


def choose_precision(name: str, device: torch.device, *, depthwise: float = 0.0) -> str:
    """What `auto` is on a device.

    bfloat16 where the hardware computes in it, else float16 on a GPU and float32 on a CPU; on a CPU float32
    too where much of the network is depthwise convolutions.

    Args:
        name: as params.yaml has it.
        device: that computes.
        depthwise: share of the network, `models.depthwise.depthwise_share`.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() and depthwise < _MUCH else "float32"


def precision_of(params: Pretrain, image_size: int, device: torch.device) -> str:
    """The precision of a run: as params say, where `auto` asks what its network is made of."""
    if params.precision != "auto":
        return params.precision
    from models.depthwise import depthwise_share

    return choose_precision("auto", device, depthwise=depthwise_share(params.backbone.name, image_size))
