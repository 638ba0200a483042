"""The running means of an epoch, kept on the device so that the loop never waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ardbench.errors import ArdbenchError
from ardbench.methods.base import Step


class Ledger:
    """Sums of loss and terms, and the first step at which one of them was not finite."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None  # (terms,) float64 on the device
        self._bad: Tensor | None = None  # (1 + terms,): step and values at the first non-finite loss, or step -1
        self._images = 0

    @torch.no_grad()
    def add(self, step: Step, index: int, images: int) -> None:
        """Add one step of `images` examples; `index` is its position in the epoch."""
        values = torch.stack([term.detach().double().reshape(()) for term in (step.loss, *step.logs.values())])
        if self._sums is None or self._bad is None or self._names != ["loss", *step.logs]:
            self._restart(["loss", *step.logs], values)
            assert self._sums is not None and self._bad is not None
        self._sums += values * images
        self._images += images
        found = torch.cat([values.new_full((1,), index), values])
        first_bad = ~values.isfinite().all() & (self._bad[0] < 0)
        self._bad = torch.where(first_bad, found, self._bad)

    def means(self) -> dict[str, float]:
        """Return the mean of each term per example; this waits for the device."""
        if self._sums is None:
            return {}
        return dict(zip(self._names, (self._sums / max(self._images, 1)).tolist(), strict=True))

    def check(self, epoch: int) -> None:
        """Refuse to go on if a loss or term was not finite; this waits for the device.

        Raises:
            ArdbenchError: with the epoch and the batch, counted from 1, and the terms.
        """
        if self._bad is None:
            return
        at, *values = self._bad.tolist()
        if at >= 0:
            terms = ", ".join(f"{name} = {value:g}" for name, value in zip(self._names, values, strict=True))
            where = f"epoch {epoch + 1}, batch {int(at) + 1}"
            raise ArdbenchError(
                f"The loss is not finite in {where} ({terms}): the last good checkpoint is kept; lower optimizer.lr or set "
                "optimizer.clip."
            )

    def state(self) -> dict[str, object]:
        """Return what a checkpoint in the middle of an epoch needs."""
        return {"names": self._names, "sums": self._sums, "images": self._images}

    def load_state(self, state: dict[str, object], device: torch.device) -> None:
        """Take back what `state` returned."""
        sums = state["sums"]
        if isinstance(sums, Tensor) and isinstance(state["names"], list) and isinstance(state["images"], int):
            self._restart(state["names"], sums.to(device))
            self._sums, self._images = sums.to(device), state["images"]

    def _restart(self, names: list[str], like: Tensor) -> None:
        """Begin again with these terms; the terms of a method change only at the start of a phase, so of an epoch."""
        self._names, self._images = names, 0
        self._sums = torch.zeros_like(like, dtype=torch.float64)
        self._bad = torch.full((1 + len(names),), -1.0, dtype=torch.float64, device=like.device)
