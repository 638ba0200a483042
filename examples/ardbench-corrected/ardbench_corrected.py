"""Distillation from soft labels that the true ones correct: an example of a method that lives outside ardbench."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import MethodConfig, NonNegative, Share
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.attacks.objectives import Net
    from ardbench.data.batches import Batch


def soft_cross_entropy(net: Net, x_adv: Tensor, target: Tensor) -> Tensor:
    """Return CE(q, net(x')) (B,), q the probabilities `target` (B, K)."""
    return -(target * net(x_adv).log_softmax(dim=-1)).sum(dim=-1)


class CorrectedConfig(MethodConfig):
    """alpha: share of the adversarial term; gamma: how fast the trust falls with the teacher's T_y."""

    alpha: Share
    gamma: NonNegative


class Corrected(Method[CorrectedConfig]):
    """Corrected soft labels: the teacher's where it is right, the true label where it is not.

    min  alpha CE(q, S(x')) + (1 - alpha) CE(q, S(x)),    x' = argmax CE(q, S(x'))
         q_i = a_i T(x_i) + (1 - a_i) onehot(y_i),        a_i = T_y(x_i)^gamma, a constant

    From no paper: made to show the contract. With gamma = 0 it is RSLAD, up to the entropy of T(x), a constant.
    """

    Config = CorrectedConfig
    roles = ("robust",)

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two mean cross-entropies."""
        c, labels = self.config, batch.y[:, None]
        soft = self.teacher_logits(batch).softmax(dim=-1)  # (B, K)
        trust = soft.gather(1, labels) ** c.gamma  # (B, 1)
        target = (trust * soft).scatter_add(1, labels, 1 - trust)  # (B, K)
        x_adv = self.maximise(soft_cross_entropy, batch, aux=(target,))
        adversarial = soft_cross_entropy(self.logits, x_adv, target).mean()
        clean = soft_cross_entropy(self.logits, batch.x, target).mean()
        logs = {"ce_adv": adversarial, "ce_clean": clean, "trust": trust.mean()}
        return Step(c.alpha * adversarial + (1 - c.alpha) * clean, logs)
