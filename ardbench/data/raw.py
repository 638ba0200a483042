"""A data set as its files hold it, before it is split and moved to a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class CheckedFile:
    """A file that was read, and how it was known to be right; `md5` is None where nothing publishes one."""

    name: str
    md5: str | None
    verdict: str


@dataclass(frozen=True, eq=False)
class Undecoded:
    """Images in files, which are decoded when they are wanted.

    Args:
        names: N files.
        size: C, H, W of every image.
        decode: gives the image of a name, (H, W, C) uint8; other processes call it too, forked from this one.
        why: what is said where nobody has asked for it.
    """

    names: Sequence[str]
    size: tuple[int, int, int]
    decode: Callable[[str], np.ndarray]
    why: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""
        return (len(self.names), *self.size)


@dataclass(frozen=True, eq=False)
class Raw:
    """Images (N, C, H, W) uint8, decoded or not, and labels (N,) int64 of the training and the test set, on the CPU."""

    train_images: Tensor | Undecoded
    train_labels: Tensor
    test_images: Tensor | Undecoded
    test_labels: Tensor
    classes: tuple[str, ...]
    files: tuple[CheckedFile, ...] = ()
