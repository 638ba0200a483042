"""The exponential moving average of a network, whose host never waits for the device."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Trailing(AveragedModel):
    """torch's AveragedModel with an exponential moving average, to the bit and with its state.

    Torch copies the count of updates to the device at each of them, for averages that ask for it.

    Args:
        model: the network that is followed.
        decay: weight of the old average at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the present weights; buffers are copied."""
        if not self.n_averaged:  # on the host; the first update copies
            super().update_parameters(model)
            return
        self._move([*self.module.parameters()], [*model.parameters()], None)
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)
        self.n_averaged += 1
