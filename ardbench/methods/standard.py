"""Ordinary training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import MethodConfig
from ardbench.losses import cross_entropy
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from ardbench.data.batches import Batch


class Standard(Method[MethodConfig]):
    """Training on clean images: the clean teacher that AKD2 and IAD-II want.

    min  CE(S(x), y)
    """

    attacks = False
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the mean cross-entropy of the clean batch."""
        return Step.over(cross_entropy(self.logits(batch.x), batch.y))
