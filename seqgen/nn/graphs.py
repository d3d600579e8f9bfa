"""A step that is asked for again and again as one CUDA graph: its kernels are recorded once and started together.

A token of a small model is some forty kernels, each of which the host takes longer to start than a card to compute.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Replay:
    """A function of tensors, recorded for the shapes of those it is made with.

    The function may read other tensors as they are, must not ask for what the device holds, and its results are
    overwritten by the next call.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._outputs: tuple[Tensor, ...] = ()

        def run() -> None:
            self._outputs = function(*self._inputs)

        self._replay = _recorded(run)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the results for inputs of the same shapes."""
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        self._replay()
        return self._outputs


def _recorded(run: Callable[[], None]) -> Callable[[], None]:
    """Return what starts the kernels of `run` again, which has run to warm up: buffers and libraries are made then."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay
