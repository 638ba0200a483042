"""Anti-Bias Soft Label Distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ardbench.attacks.objectives import divergence
from ardbench.config import MethodConfig, Positive, Share
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


def moved(temperatures: Tensor, losses: Tensor, rate: float, lowest: float, highest: float) -> Tensor:
    """Return temperatures (..., K) after a step of `rate` at most: lower where a class has lost more than the mean.

    Args:
        losses: (..., K) C, summed over an epoch; where all classes have the same, nothing moves.

    Source: Zhao et al., NeurIPS 2024, released code.
    """
    above = losses - losses.mean(dim=-1, keepdim=True)
    most = above.abs().amax(dim=-1, keepdim=True)
    return (temperatures - rate * above / most.where(most > 0, most.new_ones(()))).clamp(lowest, highest)


class ABSLDConfig(MethodConfig):
    """alpha: share of the term at x'; scale: s; rate: k, which falls to a tenth at each of the milestones.

    lowest, highest: of a temperature; temperatures: separate, or as released their product in both terms and in the search.
    """

    alpha: Share
    scale: Positive
    rate: Positive
    milestones: tuple[Share, ...]
    lowest: Positive
    highest: Positive
    temperatures: Literal["separate", "released"]


class ABSLD(Method[ABSLDConfig]):
    """Anti-Bias Soft Label Distillation (Zhao et al., NeurIPS 2024).

    min  s [alpha KL(T(x)/a_y || S(x')) + (1 - alpha) KL(T(x)/n_y || S(x))],    x' = argmax KL(T(x)/a_y || S(x'))

    Temperatures by true class, of the teacher alone. After each epoch a <- clamp(a - k g / max|g|), g = C - mean C, C the
    epoch's sum of CE(S(x'), y) by class; n likewise of CE(S(x), y). A harder class has sharper labels.
    """

    Config = ABSLDConfig
    roles = ("robust",)
    examples = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        like = next(self.student.parameters()).detach()
        self.softer, self.lost = like.new_ones(2, self.classes), like.new_zeros(2, self.classes)  # a and n; their C

    def begin_epoch(self, epoch: int) -> None:
        """Move the temperatures by what the classes lost in the last epoch."""
        c = self.config
        rate = c.rate * 0.1 ** sum(epoch >= self.epoch_of(share) for share in c.milestones)
        self.softer = moved(self.softer, self.lost, rate, c.lowest, c.highest)
        self.lost = self.lost.new_zeros(self.lost.shape)

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return RSLAD's two divergences from the softened teacher, and count what each class loses."""
        c, teacher = self.config, self.teacher_logits(batch)  # (B, K)
        softer = self.softer if c.temperatures == "separate" else self.softer.prod(dim=0).expand(2, -1)
        hard, easy = (teacher / temperature[batch.y][:, None] for temperature in softer)  # (B, K): T(x)/a_y, T(x)/n_y
        x_adv = self.maximise(divergence, batch, aux=(hard,))
        robust, natural = self.logits(x_adv), self.logits(batch.x)  # (B, K)
        self.count(batch, robust, natural)
        adversarial, clean = kl(robust, hard), kl(natural, easy)  # (B,)
        loss = c.scale * (c.alpha * adversarial + (1 - c.alpha) * clean)
        return Step.over(loss, {"kl_adv": adversarial, "kl_clean": clean})

    def count(self, batch: Batch, *answers: Tensor) -> None:
        """Add to C the cross-entropies of the student's logits (b, K) at x' and at x, by class."""
        labels = batch.everybodys(batch.y)  # (B,)
        for which, logits in enumerate(answers):
            losses = batch.everybodys(cross_entropy(logits.detach(), batch.y))  # (B,)
            self.lost[which].index_add_(0, labels, losses.to(self.lost.dtype))

    def state(self) -> dict[str, Tensor]:
        """Return the temperatures, and what the classes have lost in this epoch."""
        return {"softer": self.softer, "lost": self.lost}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.softer, self.lost = (state[name].to(self.lost) for name in ("softer", "lost"))
