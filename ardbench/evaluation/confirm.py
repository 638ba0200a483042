"""What every number of an evaluation passes through: fp32 arithmetic, confirmed predictions, the ball and the box."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ardbench.attacks.form import frozen
from ardbench.attacks.threat import l2_norm
from ardbench.config import Threat
from ardbench.errors import ArdbenchError

TOLERANCE = 1e-6
"""How far, in pixel units, rounding may push a perturbation over eps; projecting in fp32 overshoots by about 6e-8."""


@contextmanager
def measuring(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Hold a network as it is measured: eval mode, frozen, plain fp32 without TF32 or autocast, no gradients kept.

    Everything is put back afterwards. cuDNN's autotuner is off inside: attacks drop the points that they have taken,
    so that nearly every forward would come in a new shape and be tuned for.
    """
    backends: Any = torch.backends
    # each by itself: torch's older switches refuse to be read where somebody has used these
    operators = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    before, tuning = [operator.fp32_precision for operator in operators], backends.cudnn.benchmark
    try:
        for operator in operators:
            operator.fp32_precision = "ieee"
        backends.cudnn.benchmark = False
        with frozen(net, "eval"), torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for operator, precision in zip(operators, before, strict=True):
            operator.fp32_precision = precision
        backends.cudnn.benchmark = tuning


def logits_of(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return fp32 logits (B, K), finite or not, of x (B, C, H, W)."""
    logits = net(x)
    return logits.float()


def finite_logits(net: nn.Module, x: Tensor) -> Tensor:
    """Return fp32 logits (B, K) of x (B, C, H, W).

    Raises:
        ArdbenchError: a logit is NaN or infinite: argmax would call such an image robust or not by accident.
    """
    logits = logits_of(net, x)
    good = logits.isfinite().all(dim=1)  # (B,)
    if not good.all():
        raise ArdbenchError(
            f"The network gives NaN or infinite logits for {int((~good).sum())} of {len(x)} images: its accuracy "
            "means nothing; evaluate an earlier checkpoint, or train again with a smaller learning rate."
        )
    return logits


def predict(net: nn.Module, x: Tensor) -> Tensor:
    """Return the predicted classes (B,) of x (B, C, H, W), from finite fp32 logits."""
    return finite_logits(net, x).argmax(dim=1)


def check_allowed(x: Tensor, x_adv: Tensor, threat: Threat, attack: str) -> None:
    """Check, outside of the attack, that x' is finite, in the pixel box and in the ball around x (1e-6).

    Args:
        x: (B, C, H, W) in [0, 1], read from the data set again.
        x_adv: (B, C, H, W).

    Raises:
        ArdbenchError: the attack left what the threat allows; no number comes out of it.
    """
    if x_adv.shape != x.shape or not x_adv.isfinite().all():
        raise ArdbenchError(f"{attack} returned images of another shape or with NaN: nothing was recorded.")
    delta = x_adv.double() - x.double()
    size = delta.flatten(1).abs().amax(dim=1) if threat.norm == "linf" else l2_norm(delta)  # (B,)
    largest, low, high = size.max().item(), x_adv.min().item(), x_adv.max().item()
    if largest > threat.eps + TOLERANCE * max(1.0, threat.eps):
        raise ArdbenchError(
            f"{attack} left the {threat.norm} ball: {largest:.8f} instead of at most {threat.eps:.8f}; "
            "nothing was recorded."
        )
    if low < 0 or high > 1:
        raise ArdbenchError(f"{attack} left the pixel box [0, 1]: [{low:.8f}, {high:.8f}]; nothing was recorded.")
