"""Images that do not lie on the device: rows of them are read on the host, into pinned memory where that helps, and copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


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
