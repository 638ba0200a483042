"""Learnable Boundary Guided Adversarial Training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import divergence, own_logits
from ardbench.config import NonNegative, Point, ReleasedConfig
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import nn

    from ardbench.data.batches import Batch


class LBGATConfig(ReleasedConfig):
    """peer: its architecture; beta: weight of the robust term."""

    peer: str
    beta: NonNegative


class LBGAT(Method[LBGATConfig]):
    """Learnable Boundary Guided Adversarial Training (Cui et al., ICCV 2021).

    min  1/K |S(x') - P(x)|^2 + CE(P(x), y) + beta KL(S(x) || S(x')),    x' = argmax KL(S(x) || S(x'))

    The peer P learns from clean images together with the student, whose logits are drawn to its own. Nothing is a constant:
    the square moves both networks, and S(x) learns too.
    """

    Config = LBGATConfig
    peer = True
    others = ("peer",)
    examples = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.build is not None, "the engine builds peers"
        self.guide = context.build(self.config.peer)

    def trainables(self) -> dict[str, nn.Module]:
        """Return the student and the peer, which is never deployed."""
        return {"student": self.student, "peer": self.guide}

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the student's distance from the peer, the peer's label loss, and TRADES' robust term where that weighs."""
        c = self.config
        x_adv = self.maximise(divergence, batch, target=own_logits)
        needed: tuple[Point, ...] = ("x_adv", "x") if c.beta else ("x_adv",)
        student = self.student_at(batch.x, x_adv, needed, c.forwards)
        peer = self.logits(batch.x, self.guide)  # (B, K)
        guided = (student["x_adv"] - peer).square().mean(dim=1)  # (B,)
        label = cross_entropy(peer, batch.y)  # (B,)
        loss, logs = guided + label, {"guided": guided, "peer_label": label}
        if c.beta:
            robust = kl(student["x_adv"], student["x"])  # (B,)
            loss, logs = loss + c.beta * robust, logs | {"robust": robust}
        return Step.over(loss, logs)
