"""Wide residual networks with ReLU, in the layout of TRADES' checkpoints.

Source: Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016; no dropout, as in Zhang et al. (TRADES), ICML 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network, conv1x1, conv3x3

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice; a projected shortcut starts after the first ReLU."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside)
        self.convShortcut = conv1x1(inside, outside, stride) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, outside, H / stride, W / stride)."""
        out = F.relu(self.bn1(x))
        short = x if self.convShortcut is None else self.convShortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + short  # type: ignore[no-any-return]


class WideStage(nn.Module):
    """Blocks of one width; the first may halve the size."""

    def __init__(self, inside: int, outside: int, stride: int, blocks: int) -> None:
        super().__init__()
        rest = (WideBlock(outside, outside, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(inside, outside, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output, (b, outside, H / stride, W / stride)."""
        return self.layer(x)  # type: ignore[no-any-return]


class WideResNet(Network):
    """WRN-depth-widen: three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `widen` channels."""

    def __init__(self, info: DatasetInfo, normalise: bool, depth: int, widen: int) -> None:
        super().__init__(info, normalise)
        blocks, widths = (depth - 4) // 6, (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv3x3(info.channels, 16)
        self.block1 = WideStage(16, widths[0], 1, blocks)
        self.block2 = WideStage(widths[0], widths[1], 2, blocks)
        self.block3 = WideStage(widths[1], widths[2], 2, blocks)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.head = nn.Linear(widths[2], info.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, 64 widen) of pixels x (b, C, H, W) in [0, 1]."""
        out = self.conv1(self.normalise(x))  # (b, 16, H, W)
        out = self.block3(self.block2(self.block1(out)))  # (b, 64 widen, H / 4, W / 4)
        return F.relu(self.bn1(out)).mean((2, 3))  # (b, 64 widen)


def wrn_16_2(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-16-2: 691,674 parameters for 10 classes of colour images."""
    return WideResNet(info, normalise, 16, 2)


def wrn_22_6(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-22-6: 9.66 M parameters."""
    return WideResNet(info, normalise, 22, 6)


def wrn_28_10(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-28-10: 36.48 M parameters."""
    return WideResNet(info, normalise, 28, 10)


def wrn_34_10(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-34-10: 46,160,474 parameters for 10 classes of colour images."""
    return WideResNet(info, normalise, 34, 10)


def wrn_34_20(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-34-20: 184.53 M parameters."""
    return WideResNet(info, normalise, 34, 20)


def wrn_70_16(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-70-16: 266.80 M parameters."""
    return WideResNet(info, normalise, 70, 16)


def wrn_94_16(info: DatasetInfo, normalise: bool) -> WideResNet:
    """Return WRN-94-16: 365.92 M parameters."""
    return WideResNet(info, normalise, 94, 16)
