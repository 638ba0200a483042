"""MART."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ardbench.attacks.objectives import label_loss
from ardbench.config import NonNegative, ReleasedConfig
from ardbench.losses import boosted_cross_entropy, cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class MARTConfig(ReleasedConfig):
    """beta: weight of the misclassification-aware term; boost: log(1 - max p) exactly, or bounded as released."""

    beta: NonNegative
    boost: Literal["exact", "released"]


class MART(Method[MARTConfig]):
    """Misclassification-aware adversarial training (Wang et al., ICLR 2020, Equation 11).

    min  BCE(S(x'), y) + beta mean_i [(1 - S_y(x_i)) KL(S(x) || S(x'))],    x' = argmax CE(S(x'), y)

    BCE(z, y) = CE(z, y) - log(1 - max_{k != y} p_k). Nothing is detached. The released code forwards x before x' (`forwards`).
    """

    Config = MARTConfig
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the boosted cross-entropy at x' plus the weighted divergence from the student at x."""
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        student = self.student_at(batch.x, x_adv, ("x_adv", "x"), self.config.forwards)
        boosted = boosted_cross_entropy(student["x_adv"], batch.y, self.config.boost == "released")  # (B,)
        doubt = 1 - (-cross_entropy(student["x"], batch.y)).exp()  # (B,), 1 - S_y(x)
        aware = doubt * kl(student["x_adv"], student["x"])  # (B,)
        return Step.over(boosted + self.config.beta * aware, {"boosted": boosted, "aware": aware})
