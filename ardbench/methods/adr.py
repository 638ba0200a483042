"""Annealing Self-Distillation Rectification."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ardbench.attacks.objectives import divergence, own_logits, soft_label_loss
from ardbench.config import MethodConfig, NonNegative, Positive, Share
from ardbench.losses import kl, soft_cross_entropy
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


class ADRConfig(MethodConfig):
    """base: whose loss is rectified; beta: of TRADES's robust term; temperature, mixing: u and l, at the start and the end.

    one_forward: over TRADES, forward x and x' as one batch, as released.
    """

    LATER = frozenset({"one_forward"})
    base: Literal["pgd-at", "trades"]
    beta: NonNegative
    temperature: tuple[Positive, Positive]
    mixing: tuple[Share, Share]
    one_forward: bool = False


class ADR(Method[ADRConfig]):
    """Annealing Self-Distillation Rectification (Wu et al., ICLR 2024): PGD-AT or TRADES with rectified labels.

    pgd-at:  min  CE(q, S(x')),                                x' = argmax CE(q, S(x'))
    trades:  min  CE(q, S(x)) + beta KL(S(x) || S(x')),        x' = argmax KL(S(x) || S(x'))

    q = l_i P + (1 - l_i) onehot(y), P = softmax(E(x)/u), l_i = clamp(l - (max P - P_y), 0, 1), E the student's moving average.
    u and l go by half a cosine from one value to another over the steps of the run. No teacher.
    """

    Config = ADRConfig
    examples = True
    averages = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the base's loss with the rectified label."""
        soft, trusted = self.rectified(batch)  # (b, K), (b,)
        logs = {"trust_average": trusted}
        if self.config.base == "pgd-at":
            x_adv = self.maximise(soft_label_loss, batch, aux=(soft,))
            return Step.over(soft_cross_entropy(self.logits(x_adv), soft), logs)
        x_adv = self.maximise(divergence, batch, target=own_logits)
        student, attacked = self.answers(batch.x, x_adv)  # (b, K)
        natural, robust = soft_cross_entropy(student, soft), kl(attacked, student)  # (b,)
        return Step.over(natural + self.config.beta * robust, logs | {"natural": natural, "robust": robust})

    def answers(self, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return S(x) and S(x') (b, K), which are two BatchNorm batches, or one as released."""
        import torch

        if not self.config.one_forward:
            return self.logits(x), self.logits(x_adv)
        student, attacked = self.logits(torch.cat([x, x_adv])).chunk(2)
        return student, attacked

    def rectified(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return q (b, K), and how much of each it has from the average, l_i (b,); constants."""
        temperature, mixing = (self.annealed(batch, ends) for ends in (self.config.temperature, self.config.mixing))
        answer = self.once(lambda: self.eval_logits(batch.x, self.average))
        p, labels = (answer / temperature).softmax(dim=-1), batch.y[:, None]
        trusted = (mixing - (p.amax(dim=-1, keepdim=True) - p.gather(1, labels))).clamp(0, 1)  # (b, 1)
        return trusted * p + (1 - trusted) * p.new_zeros(p.shape).scatter(1, labels, 1.0), trusted.squeeze(1)

    def annealed(self, batch: Batch, ends: tuple[float, float]) -> float:
        """Return the value at this step of the run, between those at its two ends."""
        i, steps = self.iteration(batch)
        return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * i / steps)) / 2
