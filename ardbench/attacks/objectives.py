"""Objectives of inner maximisations: (net, x_adv, *aux) -> (B,), larger is worse for the network.

An objective closes over no tensor that changes from step to step; what a batch brings travels in `aux`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ardbench.losses import cross_entropy, kl, margin, soft_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    Net = Callable[[Tensor], Tensor]
    Objective = Callable[..., Tensor]
    Target = Callable[[Net, Tensor], Tensor]


def label_loss(net: Net, x_adv: Tensor, labels: Tensor) -> Tensor:
    """Return CE(net(x'), y), the objective of PGD adversarial training (Madry et al., ICLR 2018)."""
    return cross_entropy(net(x_adv), labels)


def soft_label_loss(net: Net, x_adv: Tensor, labels: Tensor) -> Tensor:
    """Return CE(q, net(x')) of labels q (B, K) that are probabilities, the objective of ADR (Wu et al., ICLR 2024)."""
    return soft_cross_entropy(net(x_adv), labels)


def label_margin(net: Net, x_adv: Tensor, labels: Tensor) -> Tensor:
    """Return the margin max_{k != y} z_k - z_y at x' (Carlini and Wagner, 2017)."""
    return margin(net(x_adv), labels)


def scaled(objective: Objective, factor: float) -> Objective:
    """Return an objective of the logits times a factor: the cross-entropy of large logits has no gradient left in fp32.

    Source: N. Carlini and D. Wagner, "Defensive distillation is not robust to adversarial examples", 2016.
    """
    return lambda net, x_adv, *aux: objective(lambda x: factor * net(x), x_adv, *aux)


def divergence(net: Net, x_adv: Tensor, target_logits: Tensor) -> Tensor:
    """Return KL(target || net(x')), the objective of TRADES (target: the network at x) and RSLAD (the teacher at x)."""
    return kl(net(x_adv), target_logits)


def own_logits(net: Net, x: Tensor) -> Tensor:
    """Return net(x): the target of TRADES, evaluated once in the attack form."""
    return net(x)
