"""What every network of ardbench is: features of raw pixels, and one linear head on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class Normalise(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel; no part of the state dict.

    Args:
        mean: one number a channel, of pixels in [0, 1].
        std: one number a channel, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)  # (C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (b, C, H, W), normalised."""
        return (x - self.mean) / self.std


class Network(nn.Module):
    """A classifier of pixels in [0, 1]: forward(x) = head(features(x)), features including the normalisation.

    A family's class builds its layers between `super().__init__` and setting `head`, and defines `features`, without
    control flow on values: convolutional networks are traced by torch.fx, and all are run on the meta device.

    Args:
        info: the data set whose images go in and whose classes come out.
        normalise: whether the first layer normalises by the data set's mean and deviation.
    """

    head: nn.Module
    """nn.Linear on the features, unless a method has put another in its place."""
    notes: tuple[str, ...]
    """What a user should know of the file that the weights came from, in sentences."""
    of_bytes: bool
    """Whether that file normalises pixels up to 255, whose mean and deviation were divided by it."""

    def __init__(self, info: DatasetInfo, normalise: bool) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.info = info
        self.notes, self.of_bytes = (), False
        self.normalise: nn.Module = Normalise(info.mean, info.std) if normalise else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, d) of pixels x (b, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (b, K) of pixels x (b, C, H, W) in [0, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def notes_of(net: nn.Module) -> tuple[str, ...]:
    """Return what a user should know of the file that a network came from; nothing for networks of other packages."""
    notes: tuple[str, ...] = getattr(net, "notes", ())
    return notes


def key_of(net: nn.Module) -> dict[str, str]:
    """Return what enters the key of verdicts beside the file's sha256.

    Files that normalise pixels up to 255 were once fed with those up to 1, and what was measured then is not to be reused.
    """
    return {"pixels": "255"} if getattr(net, "of_bytes", False) else {}


def conv3x3(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps the size, or halves it with stride 2."""
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)


def conv1x1(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
