"""Adaptive Adversarial Distillation with introspection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import NonNegative, Point, Positive, ReleasedConfig, Share
from ardbench.losses import cross_entropy, kl, trust
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class AdaIADConfig(ReleasedConfig):
    """alpha: share of the distillation; temperature: of the first term; beta, begin: of the trust, as in IAD-I."""

    alpha: Share
    temperature: Positive
    beta: NonNegative
    begin: Share


class AdaIAD(Method[AdaIADConfig]):
    """AdaIAD: AdaAD with IAD-I's introspection (Huang et al., CVPR 2023).

    min  alpha mean_i [t^2 KL(T^t(x') || S^t(x')) + (1 - A_i) KL(S(x) || S(x'))] + (1 - alpha) CE(S(x), y),
         x' = argmax KL(T(x') || S(x'))

    A_i = T_y(x'_i)^beta from `begin` on and 1 before it; t is the temperature. The search goes through the teacher too, at
    temperature 1. S(x) is not detached. The released code forwards x, x', x (`forwards`).
    """

    Config = AdaIADConfig
    roles = ("robust",)

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the divergence from the teacher at x', introspective from `begin` on, and the label's term if it weighs."""
        c, begun = self.config, epoch >= self.epoch_of(self.config.begin)
        x_adv = self.maximise(self.disagreement, batch)
        needed: tuple[Point, ...] = ("x_adv", "x") if begun or c.alpha < 1 else ("x_adv",)
        student, teacher_adv = self.student_at(batch.x, x_adv, needed, c.forwards), self.ask(x_adv)
        imitation = kl(student["x_adv"], teacher_adv, c.temperature).mean()
        loss, logs = c.alpha * imitation, {"imitation": imitation}
        if begun:
            a = trust(teacher_adv, batch.y, c.beta)  # (B,)
            introspection = ((1 - a) * kl(student["x_adv"], student["x"])).mean()
            loss = loss + c.alpha * introspection
            logs |= {"introspection": introspection, "trust": a.mean()}
        if c.alpha < 1:
            label = cross_entropy(student["x"], batch.y).mean()
            loss, logs = loss + (1 - c.alpha) * label, logs | {"label": label}
        return Step(loss, logs)
