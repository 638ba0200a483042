"""RSLAD and TRADES with the one thing changed that is suspected in docs/findings.md: a plugin, for causes.toml beside it.

ardbench --plugin benchmarks/findings/causes.py reproduce benchmarks/findings/causes.toml --from results/cifar10-small/runs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ardbench.attacks.objectives import label_loss
from ardbench.methods.rslad import RSLAD
from ardbench.methods.trades import TRADES

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.attacks.objectives import Objective
    from ardbench.data.batches import Batch


class TRADESByLabels(TRADES):
    """TRADES' loss at an x' that is searched by labels.

    min  CE(S(x), y) + beta KL(S(x) || S(x')),    x' = argmax CE(S(x'), y)
    """

    def maximise(self, objective: Objective, batch: Batch, *_: Any, **__: Any) -> Tensor:
        """Return x' (B, C, H, W) of the search of PGD-AT, whatever is asked for."""
        return super().maximise(label_loss, batch, aux=(batch.y,))


class RSLADSetRight(RSLAD):
    """RSLAD of a teacher that is wrong on no training image: where it is, its logits of label and first class are exchanged."""

    def teacher_logits(self, batch: Batch, teacher: int = 0) -> Tensor:
        """Return logits (B, K) at x whose largest is the label's."""
        said, label = super().teacher_logits(batch, teacher), batch.y[:, None]
        first = said.argmax(1, keepdim=True)
        return said.scatter(1, label, said.gather(1, first)).scatter(1, first, said.gather(1, label))


METHODS = {"trades-by-labels": TRADESByLabels, "rslad-set-right": RSLADSetRight}
RECIPES = {
    f"{name}-cifar10-level": {
        "extends": f"{name.partition('-')[0]}-cifar10-level",
        "title": f"{title} on CIFAR-10, everything but the loss equal",
        "method": {"name": name} | constants,
    }
    for name, title, constants in (
        ("trades-by-labels", "TRADES, searched by labels,", {"beta": 6}),
        ("rslad-set-right", "RSLAD of a teacher set right", {"alpha": "5/6", "scale": 1}),
    )
}
