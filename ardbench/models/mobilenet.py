"""MobileNetV2 for small images.

Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, table 2, as the field adapts
it to 32x32: stride 1 in the stem and the second group, ReLU for ReLU6, and a projected shortcut wherever the stride is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network, conv1x1, conv3x3

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo

GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Of each group of blocks: expansion, channels, blocks, stride of the first block."""


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel by a 3x3, project by a 1x1 without activation; shortcut at stride 1."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * inside
        self.conv1 = conv1x1(inside, middle)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv1x1(middle, outside)
        self.bn3 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential() if stride == 1 else None
        if stride == 1 and inside != outside:
            self.shortcut = nn.Sequential(conv1x1(inside, outside), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, outside, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        projected: Tensor = self.bn3(self.conv3(out))
        return projected if self.shortcut is None else projected + self.shortcut(x)


class MobileNetV2(Network):
    """MobileNetV2 at width 1: 2,296,922 parameters for 10 classes of colour images."""

    def __init__(self, info: DatasetInfo, normalise: bool) -> None:
        super().__init__(info, normalise)
        self.conv1 = conv3x3(info.channels, 32)
        self.bn1 = nn.BatchNorm2d(32)
        blocks, inside = [], 32
        for expansion, outside, count, first in GROUPS:
            for stride in [first] + [1] * (count - 1):
                blocks.append(InvertedResidual(inside, outside, expansion, stride))
                inside = outside
        self.layers = nn.Sequential(*blocks)
        self.conv2 = conv1x1(inside, 1280)
        self.bn2 = nn.BatchNorm2d(1280)
        self.head = nn.Linear(1280, info.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, 1280) of pixels x (b, C, H, W) in [0, 1]."""
        out = F.relu(self.bn1(self.conv1(self.normalise(x))))  # (b, 32, H, W)
        out = self.layers(out)  # (b, 320, H / 8, W / 8)
        return F.relu(self.bn2(self.conv2(out))).mean((2, 3))  # (b, 1280)
