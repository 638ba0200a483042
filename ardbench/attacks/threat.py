"""The ball around x and the pixel box: projection, ascent step and starting points for L-inf and L2."""

from __future__ import annotations

import torch
from torch import Tensor

from ardbench.config import Threat
from ardbench.draws import Draws

START_DEVIATION = 0.001
"""Standard deviation, in pixel units, of the `normal` start (Zhang et al., ICML 2019, and every method after it)."""


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Return (B,) values shaped to broadcast over `like` (B, ...)."""
    return values.reshape([-1] + [1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """Return the L2 norm (B,) of each example of `delta` (B, ...)."""
    norm: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norm


def project(x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
    """Return the point of ball and box nearest to x' in the ball's norm, per example.

    For L2 the ball comes first and the box after it; since x lies in the box, clamping only shortens the perturbation.

    Args:
        x: (B, C, H, W) in [0, 1].
        x_adv: (B, C, H, W).
    """
    if threat.norm == "linf":
        return torch.clamp(torch.minimum(torch.maximum(x_adv, x - threat.eps), x + threat.eps), 0, 1)
    delta = x_adv - x
    shrink = (threat.eps / l2_norm(delta).clamp_min(1e-12)).clamp_max(1)
    return (x + delta * per_example(shrink, x)).clamp(0, 1)


def ascend(x: Tensor, x_adv: Tensor, gradient: Tensor, size: float, threat: Threat) -> Tensor:
    """Return x' after one projected step of steepest ascent of length `size` (pixel units) in the threat's norm."""
    if threat.norm == "linf":
        direction = gradient.sign()
    else:
        direction = gradient / per_example(l2_norm(gradient).clamp_min(1e-12), gradient)
    return project(x, x_adv + size * direction, threat)


def leap(x_adv: Tensor, gradient: Tensor, size: float) -> Tensor:
    """Return x' in the box after a step of signs of length `size` (pixel units), wherever in or out of a ball it ends."""
    return (x_adv + size * gradient.sign()).clamp(0, 1)


def start_at(x: Tensor, start: str, threat: Threat, draws: Draws, purpose: str) -> Tensor:
    """Return the first x' of an attack: x itself, x plus small noise, or a uniform point of the ball; in ball and box.

    Two starts of L-inf attacks of one step heed no box: "wide", uniform within 2 eps (N-FGSM: de Jorge et al., NeurIPS
    2022), and "signs", x +- eps / 2 with a fair sign for each value (NuAT: Sriramanan et al., NeurIPS 2021; 4/255 at 8/255).

    Args:
        x: (B, C, H, W) in [0, 1].
        start: "none", "normal" (deviation 0.001), "uniform", "wide" or "signs".
        purpose: names the draw; two attacks of one step need two names.
    """
    if start == "none":
        return x.clone()
    if start == "normal":
        return project(x, x + START_DEVIATION * draws.normal(purpose, x), threat)
    if start == "wide":
        return x + 2 * threat.eps * draws.uniform(purpose, x)
    if start == "signs":
        half = threat.eps / 2
        return torch.where(draws.uniform(purpose, x) < 0, x - half, x + half)
    if threat.norm == "linf":
        return project(x, x + threat.eps * draws.uniform(purpose, x), threat)
    direction = draws.normal(purpose, x)
    share = draws.uniform(f"{purpose}-radius", x.flatten(1)[:, 0]).add(1).div(2)  # (B,) in [0, 1)
    radius = threat.eps * share.pow(1 / x[0].numel())
    return project(x, x + direction * per_example(radius / l2_norm(direction), x), threat)
