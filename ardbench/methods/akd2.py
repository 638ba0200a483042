"""Adversarial training with two teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, NonNegative, Positive
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class AKD2Config(MethodConfig):
    """label, robust, clean: weights of the three terms; temperature: t of both teachers."""

    label: NonNegative
    robust: NonNegative
    clean: NonNegative
    temperature: Positive


class AKD2(Method[AKD2Config]):
    """Adversarial training with knowledge distillation from a robust and a clean teacher (Chen et al., ICLR 2021).

    min  label CE(S(x'), y) + robust t^2 KL(T_at(x') || S(x')) + clean t^2 KL(T_st(x') || S(x')),
         x' = argmax CE(S(x'), y)

    Both teachers are asked at x'.
    """

    Config = AKD2Config
    roles = ("robust", "clean")
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the three weighted terms."""
        c = self.config
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        student_adv = self.logits(x_adv)  # (B, K)
        terms = {  # (B,) each
            "label": cross_entropy(student_adv, batch.y),
            "robust": kl(student_adv, self.ask(x_adv, 0), c.temperature),
            "clean": kl(student_adv, self.ask(x_adv, 1), c.temperature),
        }
        return Step.over(c.label * terms["label"] + c.robust * terms["robust"] + c.clean * terms["clean"], terms)
