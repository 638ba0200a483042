"""Helper-based Adversarial Training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import divergence, own_logits
from ardbench.config import MethodConfig, NonNegative, Positive
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class HATConfig(MethodConfig):
    """beta: weight of the robust term; gamma: weight of the helpers' term; reach: c, how far helpers lie along x' - x."""

    beta: NonNegative
    gamma: NonNegative
    reach: Positive


class HAT(Method[HATConfig]):
    """Helper-based Adversarial Training (Rade and Moosavi-Dezfooli, ICLR 2022).

    min  CE(S(x), y) + beta KL(S(x) || S(x')) + gamma CE(S(x_h), argmax T(x')),    x' = argmax KL(S(x) || S(x'))

    x_h = x + c (x' - x) is the helper: beyond the ball and not clipped to [0, 1]. T was trained on clean images alone. Three
    train-mode forwards, x, x', x_h, after the released code.
    """

    Config = HATConfig
    roles = ("clean",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the mean of TRADES' two terms and the helper's."""
        c = self.config
        x_adv = self.maximise(divergence, batch, target=own_logits)
        helper = batch.x + c.reach * (x_adv - batch.x)
        clean, adversarial, beyond = self.logits(batch.x), self.logits(x_adv), self.logits(helper)  # (B, K)
        natural = cross_entropy(clean, batch.y)  # (B,)
        robust = kl(adversarial, clean)  # (B,)
        helped = cross_entropy(beyond, self.ask(x_adv).argmax(dim=1))  # (B,)
        loss = natural + c.beta * robust + c.gamma * helped
        return Step.over(loss, {"natural": natural, "robust": robust, "helper": helped})
