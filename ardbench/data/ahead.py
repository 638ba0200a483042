"""Images of the steps to come, on their way to the device while the present step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ardbench.data.images import Elsewhere

Parts = tuple[Tensor, ...]
DEPTH = 4
"""Batches that are read before they are asked for; one of them is copied to the device."""


class Ahead:
    """What an epoch's steps see of images that lie elsewhere.

    A thread reads; on CUDA a stream of its own copies from pinned memory, and the step's stream waits for it: the host never
    waits for the device. Any step may be asked for, in order at no cost.

    Args:
        images: where from.
        plan: gives for each step of an epoch the rows (b,), on the host, with what else of them is wanted on the device.
    """

    def __init__(self, images: Elsewhere, plan: Callable[[int], Sequence[Parts]]) -> None:
        self._images, self._plan = images, plan
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._next, self._coming = (-1, -1), deque[Future[Parts]]()
        self._source: Iterator[Tensor] = iter(())
        self._left: Sequence[Parts] = ()
        cuda = images.device.type == "cuda"
        self._side = torch.cuda.Stream(images.device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: tuple[Parts, torch.cuda.Event] | None = None

    def at(self, epoch: int, step: int) -> Parts:
        """Return the images (b, C, H, W) uint8 of a step, and what the plan has for it, on the device."""
        if (epoch, step) != self._next:
            self._begin(epoch, step)
        self._next = epoch, step + 1
        self._read()
        images, *more = self._coming.popleft().result() if self._side is None else self._landed(self._side)
        return images.contiguous(), *more

    def _begin(self, epoch: int, step: int) -> None:
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._copied = None
        self._left = self._plan(epoch)[step:]
        self._source = self._images.stream([rows for rows, *_ in self._left])

    def _read(self) -> None:
        """Let the thread read until enough is on its way."""
        while self._left and len(self._coming) < DEPTH:
            self._coming.append(self._reader.submit(_next, self._source, self._left[0], self._images.device))
            self._left = self._left[1:]
        if not self._left:
            self._source = iter(())  # what worked for the one that is done may end

    def _landed(self, side: torch.cuda.Stream) -> Parts:
        """Return this step's parts on the device, and begin to copy the next step's if they have been read."""
        found, ready = self._copied or self._copy(self._coming.popleft().result(), side)
        self._copied = None
        present = torch.cuda.current_stream(self._images.device)
        present.wait_event(ready)
        for part in found:
            part.record_stream(present)
        if self._coming and self._coming[0].done():
            self._copied = self._copy(self._coming.popleft().result(), side)
        return found

    def _copy(self, parts: Parts, side: torch.cuda.Stream) -> tuple[Parts, torch.cuda.Event]:
        with torch.cuda.stream(side):
            there = tuple(part.to(self._images.device, non_blocking=True) for part in parts)
            return there, side.record_event()


def _next(source: Iterator[Tensor], planned: Parts, device: torch.device) -> Parts:
    """Return the next images of a source and what was planned for them, pinned where they go to a GPU; in the thread."""
    if device.type != "cuda":
        return next(source), *planned
    with torch.cuda.device(device):  # of this thread, which else would begin a context on the first GPU
        return tuple(part if part.is_pinned() else part.pin_memory() for part in (next(source), *planned))
