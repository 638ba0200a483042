"""Dynamic Guidance Adversarial Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ardbench.config import MethodConfig, NonNegative, Positive
from ardbench.losses import kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B, K) whose largest is exchanged with the label's: as they are where that is the largest.

    Source: Park and Min, ECCV 2024, released code.
    """
    largest, place = logits.max(dim=1, keepdim=True)  # (B, 1)
    own = logits.gather(1, labels[:, None])
    return logits.scatter(1, place, own).scatter(1, labels[:, None], largest)


class DGADConfig(MethodConfig):
    """scale: of the guided terms; beta: weight of the difference between x and x'.

    bracket: meant, or as released for MobileNetV2, where the terms at x multiply those at x'; counted: meant, or as released
    against the recipe's batch, which the last one of an epoch falls short of.
    """

    LATER = frozenset({"counted"})
    scale: Positive
    beta: NonNegative
    bracket: Literal["meant", "released"]
    counted: Literal["meant", "released"] = "meant"


class DGAD(Method[DGADConfig]):
    """Dynamic Guidance Adversarial Distillation (Park and Min, ECCV 2024).

    min  s mean_i [m_i KL(swap T(x_i) || S(x_i)) + (1 - m_i) KL(swap T(x'_i) || S(x'_i))] + b/K mean_i |p(x'_i) - p(x_i)|^2
         x' = argmax KL(T(x') || S(x'))

    m_i = [argmax T(x_i) != y_i]: what the teacher gets wrong is learnt at x, the rest at x'. swap exchanges the largest
    logit with the label's. p are the student's probabilities, neither of them a constant. The search goes through T too.
    """

    Config = DGADConfig
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the divergence from the swapped teacher at x or at x', and how far the student's two answers are apart."""
        c, y = self.config, batch.y
        x_adv = self.maximise(self.disagreement, batch)
        teacher, teacher_adv = self.teacher_logits(batch), self.ask(x_adv)  # (B, K)
        clean, adversarial = self.logits(batch.x), self.logits(x_adv)  # (B, K)
        wrong = (teacher.argmax(dim=1) != y).to(clean.dtype)  # (B,): m
        natural = wrong * kl(clean, swapped(teacher, y))  # (B,)
        robust = (1 - wrong) * kl(adversarial, swapped(teacher_adv, y))  # (B,)
        released = "released" in (c.bracket, c.counted)
        guided = self.released(batch, natural, robust, wrong) if released else natural + robust  # (B,)
        apart = (adversarial.softmax(dim=1) - clean.softmax(dim=1)).square().mean(dim=1)  # (B,)
        logs = {"kl_clean": natural, "kl_adv": robust, "apart": apart, "wrong": wrong}
        return Step.over(c.scale * guided + c.beta * apart, logs)

    def released(self, batch: Batch, natural: Tensor, robust: Tensor, wrong: Tensor) -> Tensor:
        """Return the guided terms (B,) as released: no number where no example is left at x'."""
        c, n = self.config, batch.mean(wrong)
        whole = self.recipe.data.batch / batch.draws.rows if c.counted == "released" else 1.0
        natural, robust, right = natural / whole, robust / (1 - n), 1 - n / whole
        return (batch.mean(natural) + right) * robust if c.bracket == "released" else natural + right * robust
