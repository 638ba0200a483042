"""Images of the steps to come, on their way to the device while the present step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ardbench.data.images import Elsewhere

DEPTH = 4
"""Batches that are read before they are asked for; one of them is copied to the device."""


class Ahead:
    """What an epoch's steps see of images that lie elsewhere.

    A thread reads; on CUDA a stream of its own copies from pinned memory, and the step's stream waits for it: the host never
    waits for the device. Any step may be asked for, in order at no cost.

    Args:
        images: where from.
        plan: gives for an epoch the rows (b,) of each of its steps, on the host.
    """

    def __init__(self, images: Elsewhere, plan: Callable[[int], Sequence[Tensor]]) -> None:
        self._images, self._plan = images, plan
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._next, self._coming = (-1, -1), deque[Future[Tensor]]()
        self._source: Iterator[Tensor] = iter(())
        self._left = 0
        cuda = images.device.type == "cuda"
        self._side = torch.cuda.Stream(images.device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def images(self, epoch: int, step: int) -> Tensor:
        """Return the images (b, C, H, W) uint8 of a step, on the device."""
        if (epoch, step) != self._next:
            self._begin(epoch, step)
        self._next = epoch, step + 1
        self._read()
        found = self._coming.popleft().result() if self._side is None else self._landed(self._side)
        return found.contiguous()

    def _begin(self, epoch: int, step: int) -> None:
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._copied = None
        plan = self._plan(epoch)[step:]
        self._source, self._left = self._images.stream(plan), len(plan)

    def _read(self) -> None:
        """Let the thread read until enough is on its way."""
        while self._left and len(self._coming) < DEPTH:
            self._coming.append(self._reader.submit(_next, self._source, self._images.device))
            self._left -= 1

    def _landed(self, side: torch.cuda.Stream) -> Tensor:
        """Return this step's images on the device, and begin to copy the next step's if they have been read."""
        found, ready = self._copied or self._copy(self._coming.popleft().result(), side)
        self._copied = None
        present = torch.cuda.current_stream(self._images.device)
        present.wait_event(ready)
        found.record_stream(present)
        if self._coming and self._coming[0].done():
            self._copied = self._copy(self._coming.popleft().result(), side)
        return found

    def _copy(self, images: Tensor, side: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
        with torch.cuda.stream(side):
            there = images.to(self._images.device, non_blocking=True)
            return there, side.record_event()


def _next(source: Iterator[Tensor], device: torch.device) -> Tensor:
    """Return the next images of a source, in pinned memory where they go to a GPU; in the thread."""
    if device.type != "cuda":
        return next(source)
    with torch.cuda.device(device):  # of this thread, which else would begin a context on the first GPU
        images = next(source)
        return images if images.is_pinned() else images.pin_memory()
