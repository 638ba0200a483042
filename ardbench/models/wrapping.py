"""A trained network for images of another size than its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network


class Resized(nn.Module):
    """Resize images bilinearly, without antialiasing, to the size of a network, whose own first layer then normalises.

    The whole is differentiable to x, so an attack goes through the resizing.

    Args:
        net: gives logits (b, K) of pixels (b, C, S, S) in [0, 1], S being the size of its data set.
    """

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        self.size, self.notes, self.of_bytes = net.info.size, net.notes, net.of_bytes

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (b, K) of pixels x (b, C, H, W) in [0, 1]."""
        resized = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)  # (b, C, S, S)
        logits: Tensor = self.net(resized)
        return logits


def fitted(net: Network, size: int) -> nn.Module:
    """Return a network for images of side `size`: as it is, or behind a resizing where its own are of another."""
    return net if net.info.size == size else Resized(net)
