"""A training step on a GPU, recorded once and replayed: hundreds of small kernels sent off in one piece.

Sent one by one they keep the processor busy for longer than the GPU: docs/gpu.md has the measurement.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import UserError

# B batch, H height, W width, D feature

Learned = tuple[Tensor, dict[str, Tensor]]
Learn = Callable[[Tensor, Tensor], Learned]

# cuBLAS and cuDNN make their workspaces in the first; as in torch's own example
_REHEARSALS = 3


class RecordedStep:
    """What adds a batch's gradient, as one CUDA graph; recorded at the first call.

    The gradients stay where they are: they may be set to zero, but not to None.

    Args:
        module: whose weights get the gradient; what its buffers hold is part of a replay.
        generators: that are drawn from, on the GPU.
    """

    def __init__(self, module: nn.Module, generators: Sequence[torch.Generator]) -> None:
        self._module, self._generators = module, generators
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, learn: Learn, images: Tensor, labels: Tensor) -> Learned:
        """The same bytes as of `learn`. What it returns are copies: a replay overwrites the last one's.

        Args:
            learn: images and labels -> features [B, D] and scalars by name; the same at every call, and
                nothing in it waits for the GPU. It is not kept: whoever holds this may be what it belongs to.
            images: uint8 [B, H, W, 3], every time of the same shape.
            labels: int64 [B].

        Raises:
            UserError: at the first call, where something in `learn` waits for the GPU.
        """
        if self._graph is None:
            self._graph = self._record(learn, images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        features, numbers = self._learned
        return features.clone(), {name: number.clone() for name, number in numbers.items()}

    def _record(self, learn: Learn, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        self._images, self._labels = images.clone(), labels.clone()
        for weight in self._module.parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        states = [generator.get_state() for generator in self._generators]
        global_state = torch.cuda.get_rng_state()

        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_REHEARSALS):
                learn(self._images, self._labels)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=stream):
                self._learned = learn(self._images, self._labels)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                "params.yaml: pretrain.cuda_graph: a step of this network cannot be recorded "
                f"({str(error).splitlines()[0]}): set it to false"
            ) from None

        # what the rehearsals changed
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                buffer.copy_(buffers[name])
            for weight in self._module.parameters():
                if weight.grad is not None:
                    weight.grad.zero_()
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        torch.cuda.set_rng_state(global_state)
        return graph
