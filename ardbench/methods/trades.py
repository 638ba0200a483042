"""TRADES."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import divergence, own_logits
from ardbench.config import NonNegative, ReleasedConfig
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class TRADESConfig(ReleasedConfig):
    """beta: weight of the robust term (1/lambda in the paper)."""

    beta: NonNegative


class TRADES(Method[TRADESConfig]):
    """TRADES (Zhang et al., ICML 2019, Equation 5).

    min  CE(S(x), y) + beta KL(S(x) || S(x')),    x' = argmax KL(S(x) || S(x'))

    The inner S(x) is one forward in the attack form; the outer one is a train-mode forward and not detached. The released
    code forwards x, x', x in the outer step: the second x changes the running statistics alone (`forwards`).
    """

    Config = TRADESConfig
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the mean clean cross-entropy plus beta times the mean divergence."""
        x_adv = self.maximise(divergence, batch, target=own_logits)
        student = self.student_at(batch.x, x_adv, ("x", "x_adv"), self.config.forwards)
        natural = cross_entropy(student["x"], batch.y)  # (B,)
        robust = kl(student["x_adv"], student["x"])  # (B,)
        return Step.over(natural + self.config.beta * robust, {"natural": natural, "robust": robust})
