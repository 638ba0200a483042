"""Adversarially Robust Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import Positive, ReleasedConfig, Share
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class ARDConfig(ReleasedConfig):
    """alpha: share of the imitation; temperature: t; scale: weight of the imitation in mean-over-batch units."""

    alpha: Share
    temperature: Positive
    scale: Positive


class ARD(Method[ARDConfig]):
    """Adversarially Robust Distillation (Goldblum et al., AAAI 2020, Equation 3).

    min  alpha scale t^2 KL(T^t(x) || S^t(x')) + (1 - alpha) CE(S(x), y),    x' = argmax CE(S(x'), y)

    The released code averages over batch and classes: scale = 1/K. With alpha = 1 no term needs S(x); the released code makes
    that forward all the same, which moves the running statistics (`forwards`).
    """

    Config = ARDConfig
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the imitation of the teacher at x by the student at x', and the clean cross-entropy where it weighs."""
        c = self.config
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        student = self.student_at(batch.x, x_adv, ("x_adv",) if c.alpha == 1 else ("x_adv", "x"), c.forwards)
        imitation = kl(student["x_adv"], self.teacher_logits(batch), c.temperature)  # (B,)
        if c.alpha == 1:
            return Step.over(c.scale * imitation, {"imitation": imitation})
        label = cross_entropy(student["x"], batch.y)  # (B,)
        loss = c.alpha * c.scale * imitation + (1 - c.alpha) * label
        return Step.over(loss, {"imitation": imitation, "label": label})
