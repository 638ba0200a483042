"""The pre-activation ResNet-18 for small images.

Source: He et al., "Identity mappings in deep residual networks", ECCV 2016: BatchNorm and ReLU before each
convolution and once more after the last block, which the copy
`preactresnet18-no-last-bn` of the field leaves out. Another copy, that of
fast_adversarial (Wong et al., ICLR 2020) and robust_overfitting (Rice et al., ICML 2020), has its weights' names and
shapes and starts projected shortcuts from the block's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network, conv1x1, conv3x3

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice; a projected shortcut starts after the first ReLU, or from x where `raw`."""

    raw = False

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside)
        self.projects = stride != 1 or inside != outside
        if self.projects:
            self.shortcut = nn.Sequential(conv1x1(inside, outside, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, outside, H / stride, W / stride)."""
        out = F.relu(self.bn1(x))
        short = self.shortcut(x if self.raw else out) if self.projects else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + short  # type: ignore[no-any-return]


class RawShortcutBlock(PreActBlock):
    """A block whose projected shortcut starts from x."""

    raw = True


class PreActResNet18(Network):
    """Four stages of two pre-activation blocks, 64 to 512 channels: 11,172,170 parameters for 10 classes."""

    Block: type[PreActBlock] = PreActBlock

    def __init__(self, info: DatasetInfo, normalise: bool) -> None:
        super().__init__(info, normalise)
        block = self.Block
        self.conv1 = conv3x3(info.channels, 64)
        self.layer1 = nn.Sequential(block(64, 64, 1), block(64, 64, 1))
        self.layer2 = nn.Sequential(block(64, 128, 2), block(128, 128, 1))
        self.layer3 = nn.Sequential(block(128, 256, 2), block(256, 256, 1))
        self.layer4 = nn.Sequential(block(256, 512, 2), block(512, 512, 1))
        self.bn = nn.BatchNorm2d(512)
        self.head = nn.Linear(512, info.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, 512) of pixels x (b, C, H, W) in [0, 1]."""
        out = self.conv1(self.normalise(x))  # (b, 64, H, W)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))  # (b, 512, H / 8, W / 8)
        return self.last(out).mean((2, 3))  # (b, 512)

    def last(self, out: Tensor) -> Tensor:
        """Return what is averaged of the last block's output."""
        return F.relu(self.bn(out))


class PreActResNet18Fast(PreActResNet18):
    """The copy of fast_adversarial and robust_overfitting, whose projected shortcuts start from the block's input."""

    Block = RawShortcutBlock


class PreActResNet18NoLastBN(PreActResNet18):
    """The copy without BatchNorm and ReLU after the last block: 11,171,146 parameters for 10 classes."""

    def __init__(self, info: DatasetInfo, normalise: bool) -> None:
        super().__init__(info, normalise)
        del self.bn

    def last(self, out: Tensor) -> Tensor:
        """Return the last block's output as it is."""
        return out
