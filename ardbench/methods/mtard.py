"""Multi-Teacher Adversarial Robustness Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, Positive, Share
from ardbench.losses import kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


class MTARDConfig(MethodConfig):
    """scale: of the loss; rate: eta, which falls to a tenth at each of the milestones; power: b."""

    scale: Positive
    rate: Share
    milestones: tuple[Share, ...]
    power: Positive


class MTARD(Method[MTARDConfig]):
    """Multi-Teacher Adversarial Robustness Distillation (Zhao et al., ECCV 2022).

    min  s [(1 - w) L_a + w L_n],    L_a = KL(T_robust(x') || S(x')),  L_n = KL(T_clean(x) || S(x)),    x' = argmax CE(S(x'), y)

    w <- w - eta (w - r_n / (r_a + r_n)) before each step, from 1/2;  r = (L / L(0))^b, L(0) that of the run's first batch.
    The teacher whose loss has fallen less is heard more. s = 0.1 is the released mean over batch and ten classes.
    """

    Config = MTARDConfig
    roles = ("robust", "clean")
    examples = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        like = next(self.student.parameters()).detach()
        self.weight, self.first = (
            like.new_tensor(0.5),
            like.new_zeros(2),
        )  # w; L_a(0) and L_n(0), 0 before the first batch

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two teachers' mean divergences."""
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        adversarial = kl(self.logits(x_adv), self.ask(x_adv, 0))  # (B,)
        clean = kl(self.logits(batch.x), self.teacher_logits(batch, 1))  # (B,)
        self.balance(batch.mean(adversarial.detach()), batch.mean(clean.detach()), epoch)
        loss = self.config.scale * ((1 - self.weight) * adversarial + self.weight * clean)
        logs = {"kl_adv": adversarial, "kl_clean": clean, "weight_clean": self.weight.expand(len(loss))}
        return Step.over(loss, logs)

    def balance(self, adversarial: Tensor, clean: Tensor, epoch: int) -> None:
        """Move w towards the share that L_n has of what is left of both, by this epoch's eta."""
        c = self.config
        now = self.first.new_zeros(2)
        now[0], now[1] = adversarial, clean
        self.first = self.first.where(self.first > 0, now)
        left = (now / self.first) ** c.power  # r_a, r_n
        rate = c.rate * 0.1 ** sum(epoch >= self.epoch_of(share) for share in c.milestones)
        self.weight = self.weight - rate * (self.weight - left[1] / left.sum())

    def state(self) -> dict[str, Tensor]:
        """Return w and the losses of the first batch."""
        return {"weight": self.weight, "first": self.first}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.weight, self.first = (state[name].to(self.first) for name in ("weight", "first"))
