"""Sample-wise Adaptive Adversarial Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import MethodConfig, NonNegative, Positive
from ardbench.losses import entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.attacks.objectives import Net
    from ardbench.data.batches import Batch


class SAADConfig(MethodConfig):
    """weight: c; alpha: of the indirect gradients at the run's end; beta: of the clean term.

    order: of the entropy, 1 is Shannon's; reach: lambda, of the teacher's gradient in the search; extra_forward: of S
    at x, as released, also where beta is 0.
    """

    weight: Positive
    alpha: NonNegative
    beta: NonNegative
    reach: NonNegative
    order: Positive
    extra_forward: bool


class SAAD(Method[SAADConfig]):
    """Sample-wise Adaptive Adversarial Distillation (Lee and Chung, TMLR 2026).

    min  mean_i [w_i (KL(T(x') || S(x')) + alpha (epoch + 1)/epochs KL(T(x') - T(x-) || S(x') - S(x-)))
                 + beta (1 - v_i) KL(T(x) || S(x))],    x' = argmax KL(z(x') || S(x'))

    z = T(x) but for z_y = T_y(x) + lambda <grad_x T_y(x), x' - x>, so that the search goes through a teacher whose gradient
    is taken once; x- = 2x - x', not clipped. w = c (H - min H), H the entropy of T(x'), v = w / max w, both over the global
    batch: examples of which the teacher is less sure after the attack weigh more.
    """

    Config = SAADConfig
    roles = ("robust",)
    examples = True
    gradients = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted terms at x' and between x' and x-, and at x where that weighs."""
        c, ramp = self.config, (epoch + 1) / self.recipe.schedule.epochs
        x_adv = self.maximise(boundary, batch, aux=(*self.linearised(batch), batch.x, batch.y))
        behind = 2 * batch.x - x_adv  # x-
        teacher, student = self.ask(x_adv), self.logits(x_adv)  # (b, K)
        weights, shares = self.weights(batch, entropy(teacher, c.order))  # (b,): w and v
        adversarial = kl(student, teacher)  # (b,)
        gradient = kl(student - self.logits(behind), teacher - self.ask(behind))  # (b,)
        loss = weights * (adversarial + c.alpha * ramp * gradient)
        logs = {"kl_adv": adversarial, "indirect_gradient": gradient, "weight": weights}
        if c.beta:
            clean = kl(self.logits(batch.x), self.teacher_logits(batch))  # (b,)
            loss, logs = loss + c.beta * (1 - shares) * clean, logs | {"kl_clean": clean}
        elif c.extra_forward:
            self.logits(batch.x)  # moves the running statistics alone
        return Step.over(loss, logs)

    def linearised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return T(x) (b, K), and lambda times the gradient of its logits of the true classes to x, (b, C, H, W); constants."""
        logits, gradient = self.teacher_gradient(batch, lambda answer: answer.gather(1, batch.y[:, None]))
        return logits, self.config.reach * gradient

    def weights(self, batch: Batch, entropies: Tensor) -> tuple[Tensor, Tensor]:
        """Return w and v (b,) of the teacher's entropies (b,) at x'."""
        every = batch.everybodys(entropies)  # (B,)
        weights = self.config.weight * (entropies - every.min())
        return weights, weights / (self.config.weight * (every.max() - every.min()) + 1e-8)  # as released: no 0/0


def boundary(net: Net, x_adv: Tensor, teacher: Tensor, gradient: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """Return KL(z(x') || net(x')) (B,): the teacher's logits (B, K) at x, that of the true class moved along its gradient."""
    along = ((x_adv - x) * gradient).flatten(1).sum(dim=1)  # (B,)
    true = teacher.gather(1, labels[:, None]) + along[:, None]  # (B, 1)
    return kl(net(x_adv), teacher.scatter(1, labels[:, None], true))
