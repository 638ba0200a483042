"""The student-teacher feature map of DARHT: a head with a block of logits per teacher below the class logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn


class FeatureMap(nn.Module):
    """A head of two linear layers: z = A h + a in R^{M K}, a block per teacher, and f = B z + b in R^K, the class logits.

    Nothing non-linear lies between, so both fold into one layer with equal logits.

    Args:
        features: d, the width of h.
        teachers: M.
        classes: K.
        drop_block: set one block of z, drawn anew, to zero in every forward, at test too; nothing folds then.

    Source: the first author's released code of DARHT (December 2023).
    """

    def __init__(self, features: int, teachers: int, classes: int, drop_block: bool = False) -> None:
        super().__init__()
        self.teachers, self.drop_block = teachers, drop_block
        self.map = nn.Linear(features, teachers * classes)
        self.out = nn.Linear(teachers * classes, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the class logits f (b, K) of features h (b, d)."""
        return self.classify(self.map(features))

    def classify(self, z: Tensor) -> Tensor:
        """Return the class logits f (b, K) of the teachers' blocks z (b, M K)."""
        f: Tensor = self.out(drop_one_block(z, self.teachers) if self.drop_block else z)
        return f

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the one linear layer BA h + (Ba + b)."""
        a, b = self.map, self.out
        layer = nn.Linear(a.in_features, b.out_features, device="meta", dtype=b.weight.dtype)
        layer.to_empty(device=b.weight.device)
        layer.weight.copy_(b.weight @ a.weight)
        layer.bias.copy_(b.weight @ a.bias + b.bias)
        return layer

    @classmethod
    def fitting(cls, state: Mapping[str, Tensor]) -> FeatureMap | None:
        """Return a dropping map for the weights of a network that has one (one that does not drop is exported folded)."""
        if "head.map.weight" not in state:
            return None
        classes, blocks = state["head.out.weight"].shape
        return cls(state["head.map.weight"].shape[1], blocks // classes, classes, drop_block=True)


@fx.wrap  # a traced copy of the network draws in each forward too
def drop_one_block(z: Tensor, teachers: int) -> Tensor:
    """Return z (b, M K) with one of its M blocks, drawn from torch's generator, set to zero."""
    dropped = torch.randint(teachers, (1,), device=z.device)
    kept = torch.arange(teachers, device=z.device) != dropped  # (M,)
    return z * kept.repeat_interleave(z.shape[1] // teachers)
