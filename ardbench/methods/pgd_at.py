"""PGD adversarial training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig
from ardbench.losses import cross_entropy
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class PGDAT(Method[MethodConfig]):
    """PGD adversarial training (Madry et al., ICLR 2018, Equation 2.1).

    min  CE(S(x'), y),    x' = argmax CE(S(x'), y)
    """

    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the mean cross-entropy of the adversarial batch."""
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        return Step.over(cross_entropy(self.logits(x_adv), batch.y))
