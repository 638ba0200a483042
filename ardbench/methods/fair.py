"""Weights of classes by their robustness, the module of the Fair-ARD family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from ardbench.config import ModuleConfig, NonNegative, Positive
from ardbench.methods.base import Step
from ardbench.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch
    from ardbench.methods.base import Method


LEAST = 1e-9
"""Fewer iterates than any class withstands that withstands one in an epoch."""


def class_weights(steps: Tensor, exponent: float, lowest: float, highest: float, offset: float) -> Tensor:
    """Return r (K,): (1 / (m + offset))^exponent, scaled to the sum K, then clamped to [lowest, highest].

    Args:
        steps: (K,) m, the mean number of the attack's iterates that an example of the class withstands.
        offset: 0 still gives a class that withstands nothing the highest weight, not one that is no number.

    Source: Yue et al., NeurIPS 2023, released code; clamped last, so that the sum may leave K.
    """
    raw = (steps + offset).clamp_min(LEAST) ** -exponent
    return (raw * len(raw) / raw.sum()).clamp(lowest, highest)


class FairConfig(ModuleConfig):
    """exponent, lowest, highest, offset: see `class_weights`; defaults of the released code, but for Fair-RSLAD's offset, 0."""

    exponent: Positive = 2.0
    lowest: NonNegative = 5 / 6
    highest: Positive = 5 / 2
    offset: NonNegative = 1e-5

    @model_validator(mode="after")
    def _is_a_range(self) -> FairConfig:
        if self.lowest > self.highest:
            raise ValueError(f"lowest = {self.lowest:g} must not be above highest = {self.highest:g}")
        return self


class Fair(Module[FairConfig]):
    """Fairness by class weights, of Fair-ARD, Fair-IAD and Fair-RSLAD (Yue et al., NeurIPS 2023).

    min  mean_i r_{y_i} L_i,    r = class_weights(m),    m_k = mean of kappa_i over the examples of class k in the last epoch

    kappa_i counts the attack's iterates, the start included and x' not, that S classifies right in eval mode. r = 1 in the
    first epoch. Released code divides sums by N/K, here by the class's own count: the same where classes are of one size.
    """

    Config = FairConfig
    needs = ("examples", "attack")
    watches = True

    def __init__(self, method: Method[Any], section: dict[str, Any]) -> None:
        super().__init__(method, section)
        like = next(method.student.parameters()).detach()
        self.weights = like.new_ones(method.classes)  # r
        self.withstood, self.seen = like.new_zeros(method.classes), like.new_zeros(method.classes)
        self.kappa: Tensor | None = None  # (b,) of the present step

    def begin_epoch(self, epoch: int) -> None:
        """Turn the last epoch's counts into this one's weights; where a class was not seen, all weights stay."""
        c, m = self.config, self.withstood / self.seen.clamp_min(1)
        renewed = class_weights(m, c.exponent, c.lowest, c.highest, c.offset)
        self.weights = renewed.where((self.seen > 0).all(), self.weights)
        self.withstood, self.seen = self.seen.new_zeros(self.seen.shape), self.seen.new_zeros(self.seen.shape)

    def observe(self, batch: Batch, number: int, iterate: Tensor, logits: Tensor) -> None:
        """Count who is still right."""
        attack = self.method.recipe.attack
        if attack is not None and attack.bn == "train":
            logits = self.method.eval_logits(iterate, self.method.student)
        right = (logits.argmax(dim=-1) == batch.y).to(self.seen.dtype)
        self.kappa = right if number == 0 or self.kappa is None else self.kappa + right

    def __call__(self, step: Step, batch: Batch, epoch: int) -> Step:
        """Return the step with its examples weighted, and count."""
        labels = batch.everybodys(batch.y)  # (B,)
        if self.kappa is not None and self.method.x_adv is not None:
            self.withstood.index_add_(0, labels, batch.everybodys(self.kappa))
            self.seen.index_add_(0, labels, self.seen.new_ones(len(labels)))
        return step.times(self.weights[batch.y])

    def state(self) -> dict[str, Tensor]:
        """Return the weights in use and the counts of the present epoch."""
        return {"weights": self.weights, "withstood": self.withstood, "seen": self.seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        names = ("weights", "withstood", "seen")
        self.weights, self.withstood, self.seen = (state[name].to(self.seen) for name in names)
