"""Indirect gradient distillation, a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import AtLeastOne, ModuleConfig, Positive
from ardbench.losses import kl
from ardbench.methods.base import Step
from ardbench.methods.module import Module

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class IGDMConfig(ModuleConfig):
    """alpha: weight at the end of the ramp; ramp_epochs: its length, the run's unless given; beta, gamma: as below.

    extra_forwards: forward x+, x and x- anew, as the first release does, also where the method has asked S(x').
    """

    alpha: Positive
    beta: Positive = 1.0
    gamma: Positive = 1.0
    ramp_epochs: AtLeastOne | None = None
    extra_forwards: bool = False


class IGDM(Module[IGDMConfig]):
    """Indirect Gradient Distillation Module (Lee et al., ICLR 2025).

    min  L + alpha (epoch + 1)/ramp_epochs KL(T(x+) - T(x-) || S(x+) - S(x-)),    logits subtracted, T the first teacher

    x+ = x + beta d, x- = x - gamma d, neither clipped; d = x' - x, the method's own, a constant. Logits at x' that the
    method has are taken: two forwards more at most. A batch that is not attacked has d = 0 and no term.
    """

    Config = IGDMConfig
    needs = ("teacher", "attack")

    def __call__(self, step: Step, batch: Batch, epoch: int) -> Step:
        """Return the step with the term added."""
        c, method, x, x_adv = self.config, self.method, batch.x, self.method.x_adv
        weight = c.alpha * (epoch + 1) / (c.ramp_epochs or method.recipe.schedule.epochs)
        if x_adv is None:
            return step.plus("igdm", weight, x.new_zeros(len(x)))
        ahead = x_adv if c.beta == 1 else x + c.beta * (x_adv - x)
        behind = x - c.gamma * (x_adv - x)
        student = method.logits(ahead) if c.extra_forwards else method.answered(ahead)  # (b, K)
        if c.extra_forwards:
            method.logits(x)  # moves the running statistics alone
        student = student - method.logits(behind)
        teacher = method.answered(ahead, 0) - method.answered(behind, 0)  # (b, K)
        return step.plus("igdm", weight, kl(student, teacher))
