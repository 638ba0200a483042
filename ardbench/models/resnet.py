"""Residual networks for small images: ResNet-18 with a 3x3 stem, and the thin ones of depth 6n + 2.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016: table 1 for ResNet-18, section 4.2 for
the thin ones. The stem without stride and pooling is the field's adaptation to 32x32. Thin networks have projection
shortcuts (option B), so that every convolution is followed by a BatchNorm: ResNet-20 has 272,474 parameters, against
269,722 with option A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network, conv1x1, conv3x3

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv1x1(inside, outside, stride), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, outside, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(Network):
    """Stages of basic blocks; each stage after the first halves the size and doubles the width.

    Args:
        width: channels of the first stage.
        blocks: blocks of each stage.
        he_init: whether convolutions start from He et al.'s normal (ICCV 2015) rather than torch's default.
    """

    def __init__(
        self, info: DatasetInfo, normalise: bool, width: int, blocks: Sequence[int], he_init: bool = False
    ) -> None:
        super().__init__(info, normalise)
        self.conv1 = conv3x3(info.channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self._stages = len(blocks)
        inside = width
        for stage, count in enumerate(blocks):
            outside = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            sizes = [inside] + [outside] * (count - 1)
            layer = (BasicBlock(size, outside, stride) for size, stride in zip(sizes, strides, strict=True))
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
            inside = outside
        self.head = nn.Linear(inside, info.num_classes)
        for module in self.modules() if he_init else ():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, d) of pixels x (b, C, H, W) in [0, 1]."""
        out = F.relu(self.bn1(self.conv1(self.normalise(x))))  # (b, width, H, W)
        for stage in range(self._stages):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        return out.mean((2, 3))  # (b, d)


def resnet18(info: DatasetInfo, normalise: bool) -> ResNet:
    """Return ResNet-18 with a 3x3 stem: 11,173,962 parameters for 10 classes of colour images."""
    return ResNet(info, normalise, 64, (2, 2, 2, 2))


def resnet20(info: DatasetInfo, normalise: bool) -> ResNet:
    """Return the thin ResNet-20: 0.27 M parameters."""
    return ResNet(info, normalise, 16, (3, 3, 3), he_init=True)


def resnet56(info: DatasetInfo, normalise: bool) -> ResNet:
    """Return the thin ResNet-56: 855,770 parameters for 10 classes of colour images."""
    return ResNet(info, normalise, 16, (9, 9, 9), he_init=True)


def resnet8(info: DatasetInfo, normalise: bool) -> ResNet:
    """Return the thin ResNet-8: 78 k parameters."""
    return ResNet(info, normalise, 16, (1, 1, 1), he_init=True)


def resnet8_tiny(info: DatasetInfo, normalise: bool) -> ResNet:
    """Return ResNet-8 at half its width: 20 k parameters, a student for digits on a CPU."""
    return ResNet(info, normalise, 8, (1, 1, 1), he_init=True)
