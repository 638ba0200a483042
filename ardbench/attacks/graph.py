"""CUDA graphs: work whose shapes never change is recorded once, and then the host launches it as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ardbench.errors import ArdbenchError

WARM_UP = 3
"""Calls before the recording, in which libraries choose their algorithms and allocate what they keep."""
MOST = 8
"""Recordings of one network: a full batch and the last one of an epoch, for each objective of a method."""


class Graphs:
    """What was recorded of one network, by what is done and with which shapes. A replay equals the work itself to the bit."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Recording] = {}

    def __call__(self, name: Hashable, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Return work(*tensors), replayed if it has been recorded under this name for these shapes.

        Args:
            name: what decides the work beside the tensors, the same object or an equal one at each call.
            work: launches kernels only: no number of a tensor is read on the host, nothing random is drawn.

        Raises:
            ArdbenchError: the names never repeat.
        """
        key = (name, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors))
        if key not in self._known:
            if len(self._known) == MOST:
                raise ArdbenchError(
                    f"precision.cuda_graph records an attack for each objective and batch size, and more than {MOST} have "
                    "come up: the objective must be one object in all steps; or --set precision.cuda_graph=false."
                )
            self._known[key] = _Recording(work, tensors)
        return self._known[key](*tensors)


class _Recording:
    def __init__(self, work: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        self._inputs = [tensor.clone() for tensor in tensors]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = work(*self._inputs)

    def __call__(self, *tensors: Tensor) -> Tensor:
        for kept, given in zip(self._inputs, tensors, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output.clone()
