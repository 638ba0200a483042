"""Whether a network gets the inputs that it was trained on: what its BatchNorms remember of them, against what they see."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ardbench.evaluation.confirm import measuring
from ardbench.evaluation.measure import subset_of
from ardbench.evaluation.trust import LIMITS, NOT_NORMALISED, Finding, Level

if TYPE_CHECKING:
    from ardbench.data.batches import Split

CHECK = "running-statistics"


class Seen:
    """The first two moments of a BatchNorm's inputs, channel by channel, around the mean that it remembers.

    Args:
        norm: in eval mode, with running statistics.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        self.mean, self.eps, self.count = norm.running_mean.float(), norm.eps, 0
        self.variance = norm.running_var.double()  # (C,)
        self.sums = torch.zeros(2, len(self.mean), dtype=torch.float64, device=self.mean.device)  # (2, C)

    def add(self, x: Tensor) -> None:
        """Take in inputs x (b, C) or (b, C, ...)."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        away, axes = x.float() - self.mean.view(shape), (0, *range(2, x.dim()))
        self.sums += torch.stack([power.sum(axes, dtype=torch.float64) for power in (away, away.square())])
        self.count += x.numel() // x.shape[1]

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence (C,) of the Gaussians N(seen) from N(remembered).

        Both variances have the layer's eps added, as the layer itself divides by them: what is constant diverges from
        nothing else that is. That of the inputs is the unbiased one, as torch remembers it.
        """
        shift, square = self.sums / self.count
        variance = (square - shift.square()).clamp(min=0) * self.count / max(self.count - 1, 1)
        seen, remembered = variance + self.eps, self.variance + self.eps
        divergence: Tensor = 0.5 * ((seen + shift.square()) / remembered - 1 - (seen / remembered).log())
        return divergence


def statistics_gap(net: nn.Module, images: Tensor, batch: int = 64) -> dict[str, float]:
    """Return by how much the inputs of each BatchNorm differ from what it remembers: 0 for equal mean and variance.

    The number of a layer is the median over its channels of the Kullback-Leibler divergence of two Gaussians, in nats.
    Some dead or wild channels do not move it. A layer that is used several times counts all its inputs as one; one that
    is not used, stays in train mode or remembers nothing has no number, and a network without others gives {}.

    Args:
        net: takes `images`; its modes, gradients and statistics are as before afterwards.
        images: (N, C, H, W) pixels in [0, 1] on the network's device.
        batch: images at a time.

    Returns:
        Numbers by name of the layer, in the order in which inputs first reach them; inf where they are not finite.
    """
    seen: dict[str, Seen] = {}
    handles = []

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not module.training and module.running_mean is not None:
            seen.setdefault(name, Seen(module)).add(inputs[0])

    try:
        for name, module in net.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                handles.append(module.register_forward_pre_hook(partial(look, name)))
        with measuring(net, images.device):
            for begin in range(0, len(images), batch):
                net(images[begin : begin + batch])
    finally:
        for handle in handles:
            handle.remove()
    gaps = {name: one.divergence().median().item() for name, one in seen.items()}
    return {name: gap if gap < float("inf") else float("inf") for name, gap in gaps.items()}


def keeps_statistics(net: nn.Module, split: Split, batch: int) -> Finding:
    """Return whether a network's BatchNorms get from clean images what they remember of training.

    Args:
        net: gives logits (B, K) of pixels in [0, 1].
        split: of the network's data set; a class-balanced part of it is looked at.
        batch: images at a time.
    """
    limit = LIMITS.statistics
    if len(split) < limit.fewest:
        return Finding(CHECK, "unchecked", f"{len(split)} images are too few: measure at least {limit.fewest}.")
    images = subset_of(split, min(limit.images, len(split)))
    gaps = statistics_gap(net, images.pixels(slice(None)), batch)
    if not gaps:
        return Finding(CHECK, "unchecked", "the network has no BatchNorm that remembers its inputs.")
    worst = max(gaps, key=gaps.__getitem__)
    level: Level = "warning" if gaps[worst] > limit.warning else "note" if gaps[worst] >= limit.note else "ok"
    said = (
        f"inputs differ from what BatchNorms remember by at most {gaps[worst]:.2g} (at {worst}; median of {len(gaps)} "
        f"layers {median(gaps.values()):.2g}; n = {len(images)})"
    )
    if level == "ok":
        return Finding(CHECK, level, f"{said}, within {limit.note:g}.")
    allowed = limit.warning if level == "warning" else limit.note
    beyond = f"{'over' if level == 'warning' else 'not under'} {allowed:g}"
    first = next(name for name, gap in gaps.items() if gap >= allowed)
    why = f"{NOT_NORMALISED}, layers differ, or averaged weights lack statistics of their own"
    return Finding(CHECK, level, f"{said}, {beyond} from {first} on: {why}.")
