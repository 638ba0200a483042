"""Images that do not lie on the device: rows of them are read on the host, into pinned memory where that helps, and copied."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ardbench.data.raw import Undecoded
from ardbench.errors import ArdbenchError

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""


class Elsewhere(ABC):
    """Images (N, C, H, W) uint8 off the device on which they are wanted. Indexed by rows they are there, as a tensor's are.

    Args:
        shape: N, C, H, W.
        device: where they are wanted.
    """

    def __init__(self, shape: Sequence[int], device: torch.device | str) -> None:
        self.shape, self.device = torch.Size(shape), torch.device(device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the images of some rows, (b, C, H, W) uint8, on the device, which is waited for."""
        chosen = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows.cpu()
        return next(iter(self.stream([chosen]))).to(self.device).contiguous()

    @abstractmethod
    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield for each list of rows (b,) of a plan the images (b, C, H, W), on the host; what can be is read ahead."""

    @abstractmethod
    def take(self, rows: Tensor) -> Elsewhere:
        """Return the images of these rows (n,) as others of the kind; none is read."""

    def empty(self, *shape: int) -> Tensor:
        """Return memory on the host for images that go to the device."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")


class HostImages(Elsewhere):
    """Images in one array on the host, which may be a file that is mapped into memory.

    Args:
        array: (M, C, H, W) uint8, or (M, H, W, C) with `channels_last`.
        rows: (N,) which of them, int64; None takes all.
    """

    def __init__(
        self,
        array: np.ndarray,
        device: torch.device | str,
        rows: Tensor | None = None,
        *,
        channels_last: bool = False,
    ) -> None:
        count, *size = array.shape
        size = [size[-1], *size[:-1]] if channels_last else size
        super().__init__([count if rows is None else len(rows), *size], device)
        self._array, self._rows, self._last = array, rows, channels_last

    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        for rows in plan:
            held = rows if self._rows is None else self._rows[rows]
            found = self.empty(len(rows), *self._array.shape[1:])
            # mode="raise" would copy through a buffer; NumPy lets other threads work meanwhile, and torch's pool alone
            np.take(self._array, held.numpy(), axis=0, out=found.numpy(), mode="clip")
            yield found.permute(0, 3, 1, 2) if self._last else found

    def take(self, rows: Tensor) -> HostImages:
        held = rows if self._rows is None else self._rows[rows]
        return HostImages(self._array, self.device, held, channels_last=self._last)


class FileImages(Elsewhere):
    """Images that are decoded from their files each time; several processes decode those of a longer plan.

    Args:
        source: all files.
        rows: (N,) which of them, int64; None takes all.
        workers: processes; None takes one for each processor but one.
    """

    def __init__(
        self, source: Undecoded, device: torch.device | str, rows: Tensor | None = None, workers: int | None = None
    ) -> None:
        rows = torch.arange(len(source.names)) if rows is None else rows
        super().__init__((len(rows), *source.size), device)
        self._source, self._rows, self._workers = source, rows, workers

    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        together = len(plan) > 1
        loader = DataLoader(
            _Files(self._source),
            batch_sampler=[self._rows[rows].tolist() for rows in plan],
            num_workers=(self._workers or _idle_processors()) if together else 0,
            collate_fn=_whole,
            multiprocessing_context="fork" if together else None,
            worker_init_fn=_end_with_the_parent,
            generator=torch.Generator(),  # torch's own would lose a number to it
        )
        return map(_unless_refused, iter(loader))

    def take(self, rows: Tensor) -> FileImages:
        return FileImages(self._source, self.device, self._rows[rows], self._workers)


class _Files(Dataset[Tensor]):
    """What DataLoader asks for: a batch at a time; a refusal travels as what it is, which raised there would not."""

    def __init__(self, source: Undecoded) -> None:
        self.source = source

    def __getitems__(self, rows: list[int]) -> Tensor | ArdbenchError:
        channels, height, width = self.source.size
        images = np.empty((len(rows), height, width, channels), np.uint8)
        try:
            for place, row in enumerate(rows):
                images[place] = self.source.decode(self.source.names[row])
        except ArdbenchError as refusal:
            return refusal
        return torch.from_numpy(images).permute(0, 3, 1, 2)


def _end_with_the_parent(_: int) -> None:
    """Let the system end this process when the one that forked it dies: it has the run's lock open as well."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _whole(batch: Any) -> Any:
    """Return what is a batch already."""
    return batch


def _unless_refused(batch: Tensor | ArdbenchError) -> Tensor:
    if isinstance(batch, ArdbenchError):
        raise batch
    return batch


def _idle_processors() -> int:
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1)
