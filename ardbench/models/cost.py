"""What a network costs: parameters, and multiply-accumulates of one forward, counted on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ardbench.models import build, names
from ardbench.models.library import check

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates (1 MAC = 2 FLOP) of one forward of one image."""

    parameters: int
    macs: int


def cost(name: str, info: DatasetInfo) -> Cost:
    """Return what the network called `name` costs on one image of a data set, without allocating its weights.

    Convolutions, linear layers and attention are counted; BatchNorm, activations and pooling are not.
    """
    if names.of_library(name):
        check(name, info)
    with torch.device("meta"), torch.no_grad():
        net = build(name, info).eval()
        x = torch.empty(1, info.channels, info.size, info.size)  # (1, C, H, W)
        with FlopCounterMode(display=False) as counter:
            net(x)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)
