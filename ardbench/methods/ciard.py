"""Cyclic Iterative Adversarial Robustness Distillation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, Positive, Share
from ardbench.losses import cross_entropy, entropy, evened, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ardbench.data.batches import Batch


class CIARDConfig(MethodConfig):
    """scale: of the divergences; temperature_rate: k, `fall` times as large from each of the milestones on; highest: of u.

    push_temperature: of S where it is pushed away; floor: the least that o takes a term for; clean_first: forward S at x
    before the search, as released, so that the attacked running statistics have seen x.
    """

    LATER = frozenset({"clean_first"})
    scale: Positive
    temperature_rate: Share
    milestones: tuple[Share, ...]
    fall: Share
    highest: Positive
    push_temperature: Positive
    floor: Positive
    clean_first: bool = False


class CIARD(Method[CIARDConfig]):
    """Cyclic Iterative Adversarial Robustness Distillation (ICCV 2025): the robust teacher is trained too.

    min  L_a + L_n - o P,    L_a = s KL(T_robust(x')/u_a || S(x')),  L_n = s KL(T_clean(x)/u_n || S(x)),
         x' = argmax CE(S(x'), y)

    P is s times the mean of KL(T_clean(x') || S(x')/t) over the examples that T_clean gets wrong at x'; o, a constant, the
    power of ten that gives P the order of magnitude of the smaller of L_a and L_n. u_a and u_n are B-MTARD's. T_robust
    minimises CE(T_robust(x'), y) in train mode, with an optimizer and a rate of its own ([trainables.teacher]); L_a does not
    reach it.
    """

    Config = CIARDConfig
    roles = ("robust", "clean")
    others = ("teacher",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.teacher = context.teachers[0].requires_grad_(True)
        self.teachers = (partial(self.eval_logits, net=self.teacher), self.teachers[1])
        self.temperatures = next(self.student.parameters()).detach().new_ones(2)  # u_a, u_n

    def trainables(self) -> dict[str, nn.Module]:
        """Return the student and the robust teacher, which is never deployed."""
        return {"student": self.student, "teacher": self.teacher}

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the two divergences less the push, and the teacher's own loss."""
        c = self.config
        early = self.logits(batch.x) if c.clean_first else None
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        taught, u = self.logits(x_adv, self.teacher), self.temperatures  # (b, K)
        robust, natural = taught.detach() / u[0], self.teacher_logits(batch, 1) / u[1]  # (b, K)
        rate = c.temperature_rate * c.fall ** sum(epoch >= self.epoch_of(share) for share in c.milestones)
        self.temperatures = evened(u, batch.mean(entropy(robust) - entropy(natural)), rate, c.highest)
        clean = self.logits(batch.x) if early is None else early  # (b, K)
        attacked = self.logits(x_adv)  # (b, K)
        adversarial, kept = c.scale * kl(attacked, robust), c.scale * kl(clean, natural)  # (b,)
        push = c.scale * self.push(batch, attacked, self.ask(x_adv, 1))  # (b,)
        order = self.order(*(batch.mean(term.detach()) for term in (adversarial, kept, push)))
        terms = {"kl_adv": adversarial, "kl_clean": kept, "push": push, "teacher": cross_entropy(taught, batch.y)}
        logs = {name: term.mean() for name, term in terms.items()} | {"order": order}
        return Step(logs["kl_adv"] + logs["kl_clean"] - order * logs["push"] + logs["teacher"], logs)

    def push(self, batch: Batch, attacked: Tensor, clean_teacher: Tensor) -> Tensor:
        """Return (b,) whose mean over the global batch is that over the examples which the clean teacher gets wrong, or 0."""
        wrong = (clean_teacher.argmax(dim=-1) != batch.y).to(attacked.dtype)  # (b,)
        share = batch.mean(wrong)
        return (
            wrong
            * kl(attacked / self.config.push_temperature, clean_teacher)
            / share.where(share > 0, share.new_ones(()))
        )

    def order(self, adversarial: Tensor, clean: Tensor, push: Tensor) -> Tensor:
        """Return o of the three means, scalars."""
        a, n, p = (term.clamp_min(self.config.floor).log10().floor() for term in (adversarial, clean, push))
        return 10.0 ** (a.minimum(n) - p)

    def state(self) -> dict[str, Tensor]:
        """Return the temperatures."""
        return {"temperatures": self.temperatures}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.temperatures = state["temperatures"].to(self.temperatures)
