"""Images that do not lie on the device: rows of them are read on the host, into pinned memory where that helps, and copied."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ardbench import processes
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
        return self.read(chosen).to(self.device).contiguous()

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Return the images of some rows (b,) as (b, C, H, W) on the host."""

    @abstractmethod
    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield for each list of rows (b,) of a plan the images (b, C, H, W), on the host; what can be is read ahead."""

    @abstractmethod
    def take(self, rows: Tensor) -> Elsewhere:
        """Return the images of these rows (n,) as others of the kind; none is read."""


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

    def read(self, rows: Tensor) -> Tensor:
        held = rows if self._rows is None else self._rows[rows]
        found = torch.empty(
            (len(rows), *self._array.shape[1:]), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        # mode="raise" would copy through a buffer; NumPy lets other threads work meanwhile, and torch's pool alone
        np.take(self._array, held.numpy(), axis=0, out=found.numpy(), mode="clip")
        return found.permute(0, 3, 1, 2) if self._last else found

    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        return map(self.read, plan)

    def take(self, rows: Tensor) -> HostImages:
        held = rows if self._rows is None else self._rows[rows]
        return HostImages(self._array, self.device, held, channels_last=self._last)


class FileImages(Elsewhere):
    """Images that are decoded from their files each time: those of a plan by other processes, a few alone by threads.

    Args:
        source: all files.
        rows: (N,) which of them, int64; None takes all.
        workers: how many decode at once; None takes one for each processor but one.
    """

    def __init__(
        self, source: Undecoded, device: torch.device | str, rows: Tensor | None = None, workers: int | None = None
    ) -> None:
        rows = torch.arange(len(source.names)) if rows is None else rows
        super().__init__((len(rows), *source.size), device)
        self._source, self._rows, self._workers = source, rows, workers or _idle_processors()

    def read(self, rows: Tensor) -> Tensor:
        names = [self._source.names[row] for row in self._rows[rows].tolist()]
        with ThreadPoolExecutor(self._workers) as pool:  # the libraries that decode let each other work
            return _stacked(list(pool.map(self._source.decode, names)), self._source.size)

    def stream(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        if processes.size() > 1:  # their messages have threads, beside which a process that is forked may never begin
            return map(self.read, plan)
        loader = DataLoader(
            _Files(self._source),
            batch_sampler=[self._rows[rows].tolist() for rows in plan],
            num_workers=self._workers,
            collate_fn=_whole,
            multiprocessing_context="fork",
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
        try:
            return _stacked([self.source.decode(self.source.names[row]) for row in rows], self.source.size)
        except ArdbenchError as refusal:
            return refusal


def _stacked(images: Sequence[np.ndarray], size: tuple[int, int, int]) -> Tensor:
    """Return images (H, W, C), of which there may be none, as (b, C, H, W)."""
    channels, height, width = size
    return torch.from_numpy(np.array(images, np.uint8).reshape(len(images), height, width, channels)).permute(
        0, 3, 1, 2
    )


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
