"""A data set as its files hold it, before it is split and moved to a device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CheckedFile:
    """A file that was read, and how it was known to be right; `md5` is None where nothing publishes one."""

    name: str
    md5: str | None
    verdict: str


@dataclass(frozen=True, eq=False)
class Raw:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of the training and the test set, on the CPU."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    files: tuple[CheckedFile, ...] = ()
