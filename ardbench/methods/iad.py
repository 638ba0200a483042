"""Introspective Adversarial Distillation, both variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import Forwards, MethodConfig, NonNegative, Point, ReleasedConfig, Share
from ardbench.losses import cross_entropy, kl, trust
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class IADIConfig(ReleasedConfig):
    """beta: exponent of the trust; begin: share of the run before which the loss is ARD's; trust_teacher_term: w_i = A_i.

    forwards, forwards_before: from `begin` on and before it.
    """

    LATER = ReleasedConfig.LATER | {"forwards_before"}
    beta: NonNegative
    begin: Share
    trust_teacher_term: bool
    forwards_before: Forwards = ()


class IADI(Method[IADIConfig]):
    """IAD-I, on ARD (Zhu et al., ICLR 2022).

    min  mean_i [w_i KL(T(x) || S(x')) + (1 - A_i) KL(S(x) || S(x'))],    x' = argmax CE(S(x'), y)

    A_i = T_y(x'_i)^beta. As printed w_i = A_i; as released w_i = 1 (`trust_teacher_term`). S(x) is not detached. Before
    `begin` it is ARD at temperature 1: mean KL(T(x) || S(x')). The released code forwards x', x', x before it and x', x', x, x
    after it (`forwards_before`, `forwards`); the second of a pair changes the running statistics alone.
    """

    Config = IADIConfig
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the base loss before `begin` and the introspective one from there on."""
        c, begun = self.config, epoch >= self.epoch_of(self.config.begin)
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        needed: tuple[Point, ...] = ("x_adv", "x") if begun else ("x_adv",)
        student = self.student_at(batch.x, x_adv, needed, c.forwards if begun else c.forwards_before)
        imitation = kl(student["x_adv"], self.teacher_logits(batch))  # (B,)
        if not begun:
            return Step.over(imitation)
        a = trust(self.ask(x_adv), batch.y, c.beta)  # (B,)
        introspection = (1 - a) * kl(student["x_adv"], student["x"])  # (B,)
        imitation = a * imitation if c.trust_teacher_term else imitation
        logs = {"imitation": imitation, "introspection": introspection, "trust": a}
        return Step.over(imitation + introspection, logs)


class IADIIConfig(MethodConfig):
    """beta, begin: as in IAD-I; label, robust, clean: weights of the three terms."""

    beta: NonNegative
    begin: Share
    label: NonNegative
    robust: NonNegative
    clean: NonNegative


class IADII(Method[IADIIConfig]):
    """IAD-II, on AKD2 (Zhu et al., ICLR 2022).

    min  label CE(S(x'), y) + robust mean_i [A_i KL(T(x') || S(x')) + (1 - A_i) KL(S(x) || S(x'))]
         + clean KL(T_st(x') || S(x')),    x' = argmax CE(S(x'), y)

    T is a robust teacher, T_st a clean one, both asked at x'. S(x) is not detached. Before `begin` A_i = 1: AKD2.
    """

    Config = IADIIConfig
    roles = ("robust", "clean")
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the three weighted terms, the middle one introspective from `begin` on."""
        c = self.config
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        robust_teacher, clean_teacher = self.ask(x_adv, 0), self.ask(x_adv, 1)  # (B, K), (B, K)
        student_adv = self.logits(x_adv)  # (B, K)
        middle = kl(student_adv, robust_teacher)  # (B,)
        if epoch >= self.epoch_of(c.begin):
            a = trust(robust_teacher, batch.y, c.beta)  # (B,)
            middle = a * middle + (1 - a) * kl(student_adv, self.logits(batch.x))
        terms = {  # (B,) each
            "label": cross_entropy(student_adv, batch.y),
            "robust": middle,
            "clean": kl(student_adv, clean_teacher),
        }
        return Step.over(c.label * terms["label"] + c.robust * terms["robust"] + c.clean * terms["clean"], terms)
