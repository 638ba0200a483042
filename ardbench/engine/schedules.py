"""Learning-rate schedules as pure functions of the position in the run."""

from __future__ import annotations

import math

from ardbench.config import Rates, epoch_at


def factor(rates: Rates, epochs: int, step: int, steps_per_epoch: int) -> float:
    """Return what the base learning rate is multiplied by at a step.

    Args:
        rates: kind and shape.
        epochs: of the run.
        step: optimizer steps already made in the run.
        steps_per_epoch: steps of one epoch.

    Returns:
        constant: 1. step: gamma per milestone whose epoch has begun, times `first` in the first epoch. cosine: from 1 at
        `begin` to 0 at the end by half a cosine, damped. onecycle: linearly from 0 to 1 over the warmup, then linearly to 0.
    """
    total = epochs * steps_per_epoch
    if rates.kind == "step":
        assert rates.gamma is not None
        passed = sum(step // steps_per_epoch >= epoch_at(share, epochs) for share in rates.milestones)
        return rates.gamma**passed * (rates.first if step < steps_per_epoch else 1)
    if rates.kind == "cosine":
        begin = epoch_at(rates.begin, epochs) * steps_per_epoch
        fallen = max(step - begin, 0) / (total - begin)
        return 0.5 * (1 + math.cos(math.pi * fallen)) * math.exp(-rates.damping * fallen**2)
    if rates.kind == "onecycle":
        middle = (step + 0.5) / total  # so that neither the first nor the last step has a rate of 0
        return middle / rates.warmup if middle < rates.warmup else (1 - middle) / (1 - rates.warmup)
    return 1.0
