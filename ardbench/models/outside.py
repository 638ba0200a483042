"""Networks of plugins and installed packages, held to what a network of ours is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ardbench import plugins
from ardbench.errors import ArdbenchError
from ardbench.models.network import Network

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


def build(name: str, info: DatasetInfo, normalise: bool) -> Network:
    """Return a freshly initialised network from outside.

    Raises:
        ArdbenchError: its code fails, or what it gives is no `Network`.
    """
    one = plugins.of("model")[name]
    net = plugins.called(one, plugins.load("model", name, one.value), info, normalise)
    if not (isinstance(net, Network) and isinstance(getattr(net, "head", None), nn.Module)):
        raise ArdbenchError(
            f"The {one.word} of {one.origin} is no Network with a head: derive its class from ardbench.models.network.Network, "
            "define features(x) -> (b, d), and set self.head = nn.Linear(d, info.num_classes)."
        )
    return net


def check(net: Network, info: DatasetInfo) -> None:
    """Refuse a fresh network that does not give K finite logits an image of the data set.

    Raises:
        ArdbenchError: it does not, or its code fails.
    """
    one, mode = plugins.of("model")[net.name], net.training
    with torch.no_grad():
        said = plugins.called(one, net.eval(), torch.full((2, info.channels, info.size, info.size), 0.5))
    net.train(mode)
    wanted, whose = (2, info.num_classes), f"The {one.word} of {one.origin}"
    if not isinstance(said, torch.Tensor) or tuple(said.shape) != wanted:
        given = tuple(said.shape) if isinstance(said, torch.Tensor) else f"a {type(said).__name__}"
        raise ArdbenchError(
            f"{whose} gives {given} for 2 images of {info.name}: give logits {wanted}, one for each class."
        )
    if not torch.isfinite(said).all():
        raise ArdbenchError(f"{whose} answers with numbers that are not finite before any training: mend it.")
