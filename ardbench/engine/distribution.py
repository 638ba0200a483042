"""One run in several processes, each with its rows of every global batch: gradients, terms and statistics of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ardbench import processes
from ardbench.attacks.form import activates
from ardbench.data.batches import TrainBatches
from ardbench.errors import ArdbenchError
from ardbench.methods.base import Step


def check_shares(batches: TrainBatches) -> None:
    """Refuse batches that leave a process without an example, whose means would be of nothing.

    Raises:
        ArdbenchError: with what to change.
    """
    smallest = batches.epoch.mix(len(batches) - 1).rows
    if smallest < batches.world:
        raise ArdbenchError(
            f"A batch of {smallest} examples cannot be shared by {batches.world} processes: start fewer, or set data.batch, "
            "or data.drop_last = true where only an epoch's last batch is small."
        )


def reduce(step: Step, share: float, nets: Iterable[nn.Module]) -> Step:
    """Sum what the processes found for their rows, in one message; return the step of the global batch.

    Args:
        step: of this process's rows, after backward of `share` times its loss.
        share: of the global batch that these rows are.
        nets: whose gradients become the global batch's; a parameter without gradient has none in any process.
    """
    if processes.size() == 1:
        return step
    gradients = [p.grad for net in nets for p in net.parameters() if p.grad is not None]
    scalars = torch.stack([term.detach().reshape(()) for term in (step.loss, *step.logs.values())]) * share
    parts = [scalars.to(gradients[0].dtype), *gradients]
    scalars, *whole = _totals(parts)
    for gradient, summed in zip(gradients, whole, strict=True):
        gradient.copy_(summed)
    loss, *logs = scalars
    return Step(loss, dict(zip(step.logs, logs, strict=True)))


@torch.no_grad()
def average_statistics(share: float, nets: Iterable[nn.Module]) -> None:
    """Give every process the mean of the BatchNorms' running statistics, each weighted by its share of the batch."""
    norms = [module for net in nets for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    running = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if processes.size() == 1 or not running:
        return
    for statistic, mean in zip(running, _totals([share * statistic for statistic in running]), strict=True):
        statistic.copy_(mean)


def _totals(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over all processes of several tensors of one type, in one message."""
    whole = processes.total(torch.cat([part.flatten() for part in parts]))
    pieces = torch.split(whole, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def synchronise(net: nn.Module) -> nn.Module:
    """Return `net`, whose BatchNorm2ds in train mode now use the global batch; names of parameters stay."""
    if processes.size() > 1:
        for module in net.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d
            elif activates(module):
                module.__class__ = GlobalBatchNormAct2d
    return net


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the examples of all processes, on any device (torch's SyncBatchNorm refuses the CPU)."""

    plain_in_eval = True
    """It may be folded into a convolution (`attacks.form.folds`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (b, C, H, W) normalised: in eval mode by the running statistics, else by those of the global batch."""
        if not self.training:
            return super().forward(x)
        pixels = x.to(self.weight.dtype)
        axes, count = (0, 2, 3), x.new_full((1,), x.numel() / x.shape[1], dtype=pixels.dtype)
        sums = processes.total(torch.cat([pixels.sum(axes), count]))  # (C + 1,)
        n = sums[-1].detach()
        mean = sums[:-1] / n  # (C,)
        centred = pixels - mean[:, None, None]
        variance = processes.total(centred.square().sum(axes)) / n  # (C,)
        if self.track_running_stats:
            self._record(mean.detach(), variance.detach() * n / (n - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _record(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """The same for a BatchNorm of timm, which drops and activates as well."""

    plain_in_eval, activates_in_eval = False, True
    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Return x (b, C, H, W) normalised, dropped and activated."""
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated
