"""PeerAiD: a peer that is trained together with the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import divergence
from ardbench.config import NonNegative, Positive, ReleasedConfig
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import nn

    from ardbench.data.batches import Batch


class PeerAiDConfig(ReleasedConfig):
    """peer: its architecture; peer_label, peer_imitation: weights gamma_1 and gamma_2 of the peer's loss.

    label, imitation, consistency: weights lambda_1 to lambda_3 of the student's; temperature: t of the last two.
    detach_peer_target: whether S(x') is a constant of the peer's loss.
    """

    peer: str
    peer_label: NonNegative
    peer_imitation: NonNegative
    label: NonNegative
    imitation: NonNegative
    consistency: NonNegative
    temperature: Positive
    detach_peer_target: bool


class PeerAiD(Method[PeerAiDConfig]):
    """PeerAiD: distillation from a specialised peer tutor (Jung et al., CVPR 2024).

    peer     min  peer_label CE(P(x'), y) + peer_imitation KL(S(x') || P(x'))
    student  min  label CE(S(x'), y) + imitation t^2 KL(P(x') || S(x')) + consistency t^2 KL(S(x) || S(x'))
             x' = argmax KL(P(x) || S(x')), P in eval mode and fixed while x' is crafted

    Peer and student start from scratch; one backward of the sum, an optimizer each. The student's loss sees P(x') as a
    constant; the peer's does not see S(x') as one, after the released code (`detach_peer_target`). S(x) is not detached.
    The released code forwards x', x', x of the student: the second x' changes its running statistics alone (`forwards`).
    """

    Config = PeerAiDConfig
    peer = True
    others = ("peer",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.build is not None, "the engine builds peers"
        self.tutor = context.build(self.config.peer)

    def trainables(self) -> dict[str, nn.Module]:
        """Return the student and the peer, which is never deployed."""
        return {"student": self.student, "peer": self.tutor}

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the sum of the student's and the peer's loss, which share no gradient but by S(x') in the peer's."""
        c = self.config
        x_adv = self.maximise(divergence, batch, aux=(self.eval_logits(batch.x, self.tutor),))
        student = self.student_at(batch.x, x_adv, ("x_adv", "x"), c.forwards)
        student_adv, peer_adv = student["x_adv"], self.logits(x_adv, self.tutor)  # (B, K), (B, K)
        target = student_adv.detach() if c.detach_peer_target else student_adv
        terms = {
            "peer_label": cross_entropy(peer_adv, batch.y).mean(),
            "peer_imitation": kl(peer_adv, target).mean(),
            "label": cross_entropy(student_adv, batch.y).mean(),
            "imitation": kl(student_adv, peer_adv.detach(), c.temperature).mean(),
            "consistency": kl(student_adv, student["x"], c.temperature).mean(),
        }
        peer = c.peer_label * terms["peer_label"] + c.peer_imitation * terms["peer_imitation"]
        own = c.label * terms["label"] + c.imitation * terms["imitation"] + c.consistency * terms["consistency"]
        return Step(peer + own, terms)
