"""Adaptive Adversarial Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import Positive, ReleasedConfig, Share
from ardbench.losses import kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class AdaADConfig(ReleasedConfig):
    """alpha: share of the adversarial term; scale: weight of the whole loss in mean-over-batch units."""

    alpha: Share
    scale: Positive


class AdaAD(Method[AdaADConfig]):
    """Adaptive Adversarial Distillation (Huang et al., CVPR 2023).

    min  scale [alpha KL(T(x') || S(x')) + (1 - alpha) KL(T(x) || S(x))],    x' = argmax KL(T(x') || S(x'))

    The search goes through the teacher too. With alpha = 1 no term needs S(x); the released code makes that forward all the
    same, and before S(x'), so that its running statistics are of clean images to 47 % (`forwards`).
    """

    Config = AdaADConfig
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the divergence from the teacher at x', and at x where that weighs."""
        c = self.config
        x_adv = self.maximise(self.disagreement, batch)
        student = self.student_at(batch.x, x_adv, ("x_adv",) if c.alpha == 1 else ("x_adv", "x"), c.forwards)
        adversarial = kl(student["x_adv"], self.ask(x_adv))  # (B,)
        if c.alpha == 1:
            return Step.over(c.scale * adversarial, {"kl_adv": adversarial})
        clean = kl(student["x"], self.teacher_logits(batch))  # (B,)
        loss = c.scale * (c.alpha * adversarial + (1 - c.alpha) * clean)
        return Step.over(loss, {"kl_adv": adversarial, "kl_clean": clean})
