"""Learning-rate schedules as pure functions of the position in the run."""

from __future__ import annotations

import math

from ardbench.config import Schedule, epoch_at


def factor(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """Return what the base learning rate is multiplied by at a step.

    Args:
        schedule: kind and shape.
        step: optimizer steps already made in the run.
        steps_per_epoch: steps of one epoch.

    Returns:
        constant: 1. step: gamma per milestone whose epoch has begun, times `first` in the first epoch. cosine: from 1 to 0 by
        half a cosine. onecycle: linearly from 0 to 1 over the warmup, then linearly to 0.
    """
    total = schedule.epochs * steps_per_epoch
    done = step / total
    if schedule.kind == "step":
        assert schedule.gamma is not None
        passed = sum(step // steps_per_epoch >= epoch_at(share, schedule.epochs) for share in schedule.milestones)
        return schedule.gamma**passed * (schedule.first if step < steps_per_epoch else 1)
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule.kind == "onecycle":
        middle = (step + 0.5) / total  # so that neither the first nor the last step has a rate of 0
        return middle / schedule.warmup if middle < schedule.warmup else (1 - middle) / (1 - schedule.warmup)
    return 1.0
