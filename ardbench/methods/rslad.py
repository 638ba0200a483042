"""Robust Soft Label Adversarial Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import divergence
from ardbench.config import MethodConfig, Positive, Share
from ardbench.losses import kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class RSLADConfig(MethodConfig):
    """alpha: share of the adversarial term; scale: s, the weight of the whole loss in mean-over-batch units."""

    alpha: Share
    scale: Positive


class RSLAD(Method[RSLADConfig]):
    """Robust Soft Label Adversarial Distillation (Zi et al., ICCV 2021).

    min  s [alpha KL(T(x) || S(x')) + (1 - alpha) KL(T(x) || S(x))],    x' = argmax KL(T(x) || S(x'))

    The teacher sees clean images only. The equation has s = 1; the released code averages over batch and classes, which is
    s = 0.1 with ten classes. Two train-mode forwards, the adversarial one first, after the released code.
    """

    Config = RSLADConfig
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two mean divergences from the teacher."""
        teacher = self.teacher_logits(batch)  # (B, K)
        x_adv = self.maximise(divergence, batch, aux=(teacher,))
        adversarial = kl(self.logits(x_adv), teacher)  # (B,)
        clean = kl(self.logits(batch.x), teacher)  # (B,)
        alpha = self.config.alpha
        loss = self.config.scale * (alpha * adversarial + (1 - alpha) * clean)
        return Step.over(loss, {"kl_adv": adversarial, "kl_clean": clean})
