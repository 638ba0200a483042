"""Wide residual networks with Swish, in the layout of Gowal et al.'s checkpoints.

Source: Gowal et al., "Uncovering the limits of adversarial training against norm-bounded adversarial examples", 2020;
used by Rebuffi et al. (NeurIPS 2021) and Wang et al. (ICML 2023) too. Beside the activation they differ from TRADES'
by the padding of convolutions with stride 2, which follows TensorFlow's SAME: one row below, one column to the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ardbench.models.network import Network, conv1x1, conv3x3

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class SwishBlock(nn.Module):
    """BatchNorm, Swish, 3x3 convolution, twice; a projected shortcut starts after the first Swish."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inside)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
        self.conv_0 = nn.Conv2d(inside, outside, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outside)
        self.conv_1 = conv3x3(outside, outside)
        self.shortcut = conv1x1(inside, outside, stride) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, outside, H / stride, W / stride)."""
        out = F.silu(self.batchnorm_0(x))
        short = x if self.shortcut is None else self.shortcut(out)
        out = self.conv_0(self.pad(out))
        return self.conv_1(F.silu(self.batchnorm_1(out))) + short  # type: ignore[no-any-return]


class SwishStage(nn.Module):
    """Blocks of one width; the first may halve the size."""

    def __init__(self, inside: int, outside: int, stride: int, blocks: int) -> None:
        super().__init__()
        rest = (SwishBlock(outside, outside, 1) for _ in range(blocks - 1))
        self.block = nn.Sequential(SwishBlock(inside, outside, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output, (b, outside, H / stride, W / stride)."""
        return self.block(x)  # type: ignore[no-any-return]


class SwishWideResNet(Network):
    """WRN-depth-widen with Swish: three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times `widen` channels."""

    def __init__(self, info: DatasetInfo, normalise: bool, depth: int, widen: int) -> None:
        super().__init__(info, normalise)
        blocks, widths = (depth - 4) // 6, (16 * widen, 32 * widen, 64 * widen)
        self.init_conv = conv3x3(info.channels, 16)
        self.layer = nn.Sequential(
            SwishStage(16, widths[0], 1, blocks),
            SwishStage(widths[0], widths[1], 2, blocks),
            SwishStage(widths[1], widths[2], 2, blocks),
        )
        self.batchnorm = nn.BatchNorm2d(widths[2])
        self.head = nn.Linear(widths[2], info.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, 64 widen) of pixels x (b, C, H, W) in [0, 1]."""
        out = self.layer(self.init_conv(self.normalise(x)))  # (b, 64 widen, H / 4, W / 4)
        return F.silu(self.batchnorm(out)).mean((2, 3))  # (b, 64 widen)


def wrn_28_10_swish(info: DatasetInfo, normalise: bool) -> SwishWideResNet:
    """Return WRN-28-10 with Swish: 36.48 M parameters."""
    return SwishWideResNet(info, normalise, 28, 10)


def wrn_70_16_swish(info: DatasetInfo, normalise: bool) -> SwishWideResNet:
    """Return WRN-70-16 with Swish: 266.80 M parameters."""
    return SwishWideResNet(info, normalise, 70, 16)


def wrn_94_16_swish(info: DatasetInfo, normalise: bool) -> SwishWideResNet:
    """Return WRN-94-16 with Swish: 365.92 M parameters."""
    return SwishWideResNet(info, normalise, 94, 16)
