"""CRDND, reconstructed: neither the full paper nor its code is public."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ardbench.attacks.objectives import divergence, label_loss, label_margin
from ardbench.config import MethodConfig, Positive, Share
from ardbench.losses import nt_xent
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch

OBJECTIVES = {"margin": label_margin, "ce": label_loss, "kl": divergence}


def compensation(accuracy: Tensor) -> Tensor:
    """Return M (K, K) with M_ii = a_i and M_ij = (1 - a_j)/(K - 1): its columns sum to 1.

    Args:
        accuracy: (K,) a, the teacher's accuracy on each class, in [0, 1].

    Source: a third-party reproduction of CRDND (second-hand).
    """
    spread = (1 - accuracy) / (len(accuracy) - 1)  # (K,), what each column gives to every other row
    return spread.expand(len(accuracy), -1) + (accuracy - spread).diag()


class CRDNDConfig(MethodConfig):
    """balance: lambda, the share of the clean relation; tau: temperature of the cosines.

    compensation: one accuracy per class, one for all, or M = I; domain: whether relations are between logits or
    probabilities; inner: what x' maximises, the margin of S, its cross-entropy, or KL(T(x) || S(x')).
    """

    balance: Share
    tau: Positive
    compensation: Literal["class", "scalar", "off"]
    domain: Literal["logits", "probs"]
    inner: Literal["margin", "ce", "kl"]


class CRDND(Method[CRDNDConfig]):
    """Contrastive Relationship DeNoise Distillation (ICASSP 2023), after a third-party reproduction report.

    min  lambda NTXent(M1 S(x), T(x)) + (1 - lambda) NTXent(M2 S(x'), T(x')),    x' = argmax max_{k != y} S_k(x') - S_y(x')

    M1 and M2 compensate for the teacher's accuracy at x and at x', counted over an epoch and used in the next; in the
    first they are I. Neither cross-entropy nor KL. The inner problem is not known from the paper: the margin is the
    reproduction's. A relation is blind to the scale of the logits, so PGD on cross-entropy flatters the student.
    """

    Config = CRDNDConfig
    roles = ("robust",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        like = next(self.student.parameters()).detach()
        self.accuracy = like.new_ones(2, self.classes)  # a of M1 (at x) and of M2 (at x')
        self.right, self.seen = like.new_zeros(2, self.classes), like.new_zeros(self.classes)

    def begin_epoch(self, epoch: int) -> None:
        """Turn the last epoch's counts into this one's accuracies; a class that was not seen keeps its last one."""
        right, seen = self.right, self.seen
        if self.config.compensation == "scalar":
            right, seen = right.sum(1, keepdim=True).expand_as(right), seen.sum().expand_as(seen)
        self.accuracy = (right / seen.clamp_min(1)).where(seen > 0, self.accuracy)
        self.right, self.seen = self.right.new_zeros(self.right.shape), self.seen.new_zeros(self.seen.shape)

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the two relations, weighted, and count what the teacher got right."""
        c = self.config
        teacher = self.teacher_logits(batch)  # (B, K)
        x_adv = self.maximise(OBJECTIVES[c.inner], batch, aux=(teacher if c.inner == "kl" else batch.y,))
        teacher_adv = self.ask(x_adv)  # (B, K)
        adversarial = self.relation(batch, self.logits(x_adv), teacher_adv, self.accuracy[1])
        clean = self.relation(batch, self.logits(batch.x), teacher, self.accuracy[0])
        self.count(batch, teacher, teacher_adv)
        loss = c.balance * clean + (1 - c.balance) * adversarial
        return Step(loss, {"relation_clean": clean, "relation_adv": adversarial})

    def relation(self, batch: Batch, student: Tensor, teacher: Tensor, accuracy: Tensor) -> Tensor:
        """Return NTXent(M S, T) of logits (b, K), or of softmax(M S) and softmax(T): the mean over the batch's 2b anchors.

        Each anchor is compared with the whole global batch.
        """
        if self.config.compensation != "off":
            student = student @ compensation(accuracy).T
        if self.config.domain == "probs":
            student, teacher = student.softmax(dim=-1), teacher.softmax(dim=-1)
        whole = nt_xent(batch.everybodys(student), batch.everybodys(teacher), self.config.tau)  # (B,)
        return batch.own(whole).mean()

    def count(self, batch: Batch, *answers: Tensor) -> None:
        """Add to the counts which of the global batch's labels the teacher's logits at x and at x', (b, K), get right."""
        labels = batch.everybodys(batch.y)  # (B,)
        for which, logits in enumerate(answers):
            right = batch.everybodys((logits.argmax(dim=-1) == batch.y).to(self.right.dtype))  # (B,)
            self.right[which].index_add_(0, labels, right)
        self.seen.index_add_(0, labels, self.seen.new_ones(len(labels)))

    def state(self) -> dict[str, Tensor]:
        """Return the accuracies in use and the counts of the present epoch."""
        return {"accuracy": self.accuracy, "right": self.right, "seen": self.seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.accuracy, self.right, self.seen = (state[name].to(self.seen) for name in ("accuracy", "right", "seen"))
