"""The ONNX file as a Python object: pixels in, embeddings out, without torch."""

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.artifacts import sha256_of
from pipeline.errors import MachineError, UserError, existing

if TYPE_CHECKING:
    from pipeline.params.section import Device  # a type alone: a query reads no params.yaml

INPUT_NAME = "images"
OUTPUT_NAME = "embeddings"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# In ONNX's own bytes: one number, and the same number again.
_SMALLEST_MODEL = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n'
    b"\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
_ONLY_FATAL = 4  # onnxruntime's log level: what it cannot do is said here, in one line

_A_THREAD_A_CORE = 0  # onnxruntime's own word for it
# Processors with AVX2 or AVX-512 but without VNNI add products of uint8 and int8 in 16 bits, which overflow:
# there int8 weights are taken as uint8, slower and right. Elsewhere it changes nothing.
_NO_OVERFLOW = ("session.x64quantprecision", "1")


class Encoder:
    """An image encoder under the encoder contract.

    Attributes:
        dim: D, of the embeddings.
        image_size: H = W of the pixels that it takes.
        metadata: name, version, method, backbone, mean, std, how to resize, and where it was learned.
        provider: onnxruntime's execution provider that really runs.
        sha256: of the file, in hexadecimal.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, metadata: Mapping[str, Any], sha256: str
    ) -> None:
        self._session = session
        self.metadata = dict(metadata)
        self.sha256 = sha256
        self.image_size = int(metadata["image_size"])
        self.dim = int(metadata["feature_dim"])
        self.provider: str = session.get_providers()[0]

    @classmethod
    def open(cls, path: Path | str, device: "Device" = "auto", num_threads: int | None = None) -> Self:
        """Loads an encoder.

        Args:
            path: an ONNX file of stage `export`.
            device: `auto` is CUDA where there is a GPU.
            num_threads: of the CPU; None: one a core.

        Raises:
            UserError: the file is missing, damaged or no encoder of this project.
            MachineError: `cuda` was asked for and onnxruntime would run on something else.
        """
        path = existing(Path(path), made_by="export")
        chosen = device if device != "auto" else ("cuda" if has_cuda() else "cpu")
        if chosen == "cuda":
            onnxruntime.preload_dlls()  # from the nvidia packages, or the system's
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ONLY_FATAL
        options.intra_op_num_threads = num_threads or _A_THREAD_A_CORE
        options.add_session_config_entry(*_NO_OVERFLOW)
        onnxruntime.set_default_logger_severity(_ONLY_FATAL)
        wanted = [_PROVIDERS[chosen]]
        try:
            # the CPU stands behind CUDA for the few operations that a GPU has no kernel for
            session = onnxruntime.InferenceSession(
                path, options, providers=list(dict.fromkeys([*wanted, _PROVIDERS["cpu"]]))
            )
            metadata = {
                key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()
            }
        except Exception as error:  # onnxruntime's own exceptions share no class but this one
            raise UserError(
                f"{path}: not an ONNX file that onnxruntime can load: {_first_line(error)}"
            ) from None
        # without an error onnxruntime falls back to the CPU where CUDA cannot be loaded
        if session.get_providers()[0] != wanted[0] and device == "cuda":
            raise MachineError(
                f"device is cuda, but onnxruntime would run on {session.get_providers()[0]}: "
                "install the CUDA libraries that it needs, or set device to auto or cpu"
            )
        if "image_size" not in metadata or "feature_dim" not in metadata:
            raise UserError(f"{path}: not an encoder of stage 'export': its metadata has no image_size")
        return cls(session, metadata, sha256_of(path))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds a batch.

        Args:
            images: uint8 [B, H, W, 3], H = W = `image_size`, RGB.

        Returns:
            float32 [B, D], L2-normalised.

        Raises:
            ValueError: another dtype or shape.
        """
        expected = (self.image_size, self.image_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}, the encoder takes uint8 [B, "
                f"{self.image_size}, {self.image_size}, 3]"
            )
        (embeddings,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        return np.asarray(embeddings)


def has_cuda() -> bool:
    """Whether the driver sees a GPU; asked of the driver itself, since torch must not be imported here."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def usable_providers() -> list[str]:
    """The execution providers that really run a model here, the fastest first.

    Those that onnxruntime was built with are no answer: without an error it falls back to the CPU where
    CUDA's libraries cannot be loaded.
    """
    onnxruntime.set_default_logger_severity(_ONLY_FATAL)
    if has_cuda():
        onnxruntime.preload_dlls()
    built_with = onnxruntime.get_available_providers()
    devices = ("cuda", "cpu") if has_cuda() else ("cpu",)
    wanted = [_PROVIDERS[device] for device in devices if _PROVIDERS[device] in built_with]
    return list(onnxruntime.InferenceSession(_SMALLEST_MODEL, providers=wanted).get_providers())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
