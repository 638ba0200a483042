"""What the papers argue with: who is right on x and on the student's x', counted over an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ardbench.data.batches import Batch
from ardbench.methods.base import Method

ON_X, ON_ADV, ON_BOTH, SEEN = range(4)


class Diagnostics:
    """Counts of right answers of a method's teachers and peers, kept on the device; nothing of the training changes.

    Batches that are not attacked are not counted. IAD's three cases are shares of the examples: right on x and on x'
    (`both`), right on x alone (`clean_only`), wrong on x (`neither`).

    Args:
        method: whose `watch` is taken.
        device: of the training.
    """

    def __init__(self, method: Method[Any], device: torch.device) -> None:
        self.teachers = len(method.teachers)
        self.answering: list[Callable[[Tensor], Tensor]] = list(method.teachers)
        peers = [net for name, net in method.trainables().items() if name == "peer"]
        self.answering += [lambda x, net=net: method.eval_logits(x, net) for net in peers]  # type: ignore[misc]
        self.counts = torch.zeros(len(self.answering), 4, method.classes, device=device)
        method.watch = self.observe

    @torch.no_grad()
    def observe(self, batch: Batch, x_adv: Tensor) -> None:
        """Count one attacked batch."""
        for counts, answer in zip(self.counts, self.answering, strict=True):
            right, right_adv = ((answer(x).argmax(1) == batch.y).float() for x in (batch.x, x_adv))
            facts = torch.stack([right, right_adv, right * right_adv, torch.ones_like(right)])  # (4, B)
            counts.index_add_(1, batch.everybodys(batch.y), batch.everybodys(facts.T).T)

    def close(self) -> dict[str, Any]:
        """Return the row of the epoch and begin the next."""
        rows = [_row(counts) for counts in self.counts.double().cpu()]
        self.counts.zero_()
        peers = [{"clean": row["clean"], "adv": row["adv"]} for row in rows[self.teachers :]]
        return {"teachers": rows[: self.teachers]} | ({"peer": peers[0]} if peers else {})


def _row(counts: Tensor) -> dict[str, Any]:
    """Return accuracies, shares and accuracies by class from counts (4, K); None where nothing was seen."""
    right, right_adv, both, seen = (float(value) for value in counts.sum(1))
    if not seen:
        return dict.fromkeys(("clean", "adv", "both", "clean_only", "neither", "class_clean", "class_adv"))
    by_class = {
        name: [float(r / n) if n else None for r, n in zip(counts[which], counts[SEEN], strict=True)]
        for name, which in (("class_clean", ON_X), ("class_adv", ON_ADV))
    }
    shares = {"both": both / seen, "clean_only": (right - both) / seen, "neither": 1 - right / seen}
    return {"clean": right / seen, "adv": right_adv / seen, **shares, **by_class}
