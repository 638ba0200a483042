"""CUDA graphs: work whose shapes never change is recorded once, and then the host launches it as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from ardbench.errors import ArdbenchError

WARM_UP = 3
"""Calls before the recording, in which libraries choose their algorithms and allocate what they keep."""
MOST = 8
"""Recordings of one network: a full batch and the last one of an epoch, for each objective of a method."""
DRAWN = (
    "The attack is launched step by step, not replayed as a CUDA graph: the network draws random numbers, which a recording "
    "would not draw as this does."
)

_alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
"""Every recording: all take their memory from one pool, which none needs once its output has been copied."""


class Graphs:
    """What was recorded of one network, by what is done and with which shapes. A replay equals the work itself to the bit.

    Args:
        read: the tensors that the work reads beside its arguments; where one has moved in memory, all is recorded again.
        moved: those that it changes, such as running statistics.
        tell: hears why something is not recorded.
    """

    def __init__(
        self, read: Sequence[Tensor] = (), moved: Sequence[Tensor] = (), tell: Callable[[str], None] | None = None
    ) -> None:
        self._known: dict[Hashable, _Recording | None] = {}
        self._read, self._moved, self._tell = read, moved, tell
        self._places = _places(read)

    def __call__(self, name: Hashable, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Return work(*tensors), replayed if it has been recorded under this name for these shapes.

        Work that draws random numbers is done each time and never recorded.

        Args:
            name: what decides the work beside the tensors, the same object or an equal one at each call.
            work: launches kernels only: no number of a tensor is read on the host.

        Raises:
            ArdbenchError: the names never repeat.
        """
        if (places := _places(self._read)) != self._places:
            self._known, self._places = {}, places
        key = (name, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors))
        if key not in self._known:
            if len(self._known) == MOST:
                raise ArdbenchError(
                    f"precision.cuda_graph records an attack for each objective and batch size, and more than {MOST} have "
                    "come up: objective and target must be one object in all steps; or --set precision.cuda_graph=false."
                )
            self._known[key] = self._recorded(work, tensors)
        recording = self._known[key]
        return work(*tensors) if recording is None else recording(*tensors)

    def _recorded(self, work: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> _Recording | None:
        """Return a recording, or None where the work draws; what the work changes is as before."""
        generators = (torch.default_generator, torch.cuda.default_generators[torch.cuda.current_device()])
        before, moved = [generator.get_state() for generator in generators], [tensor.clone() for tensor in self._moved]
        inputs = [tensor.clone() for tensor in tensors]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, kept in zip(self._moved, moved, strict=True):
            tensor.copy_(kept)
        draws = any(not torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))
        if not draws:
            return _Recording(work, inputs)
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        if self._tell is not None:
            self._tell(DRAWN)
        return None


class _Recording:
    def __init__(self, work: Callable[..., Tensor], inputs: list[Tensor]) -> None:
        self._inputs, self._graph = inputs, torch.cuda.CUDAGraph()
        pool = next((graph.pool() for graph in _alive), None)
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = work(*inputs)
        _alive.add(self._graph)

    def __call__(self, *tensors: Tensor) -> Tensor:
        for kept, given in zip(self._inputs, tensors, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output.clone()


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
