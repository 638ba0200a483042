"""`transfer`: how many of the adversarial examples crafted on one network another one misclassifies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.confirm import check_allowed, logits_of, measuring, predict
from ardbench.evaluation.ensemble import NORMS
from ardbench.evaluation.matrix import Transfer
from ardbench.progress import Progress

if TYPE_CHECKING:
    from ardbench.data.batches import Split


def transfer(
    nets: Sequence[nn.Module],
    split: Split,
    threat: Threat,
    *,
    steps: int = 40,
    batch: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Transfer:
    """Attack each network by APGD on the cross-entropy and ask all of them about what comes out.

    An example is the point of highest loss that the search saw (`best_loss` of the package, one restart), whether it
    fools its source or not: where the package is asked for fooling points it hands back the clean image of any other,
    which is no adversarial example. An image that j misclassifies without an attack counts as well, as t is defined.

    Args:
        nets: give logits (B, K) of pixels in [0, 1]; they are as before afterwards, and so is the global RNG.
        split: what is attacked, on the device of the networks.
        batch: examples at a time; it decides the noise of the random starts.

    Raises:
        ArdbenchError: a network is never right, its logits are not finite, or the attack left ball or box.
    """
    listener, device = progress or Progress(), split.labels.device
    counts, fooled = list[int](), list[tuple[int, ...]]()
    with ExitStack() as stack:
        for net in nets:
            stack.enter_context(measuring(net, device))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        for number, source in enumerate(nets, 1):
            right = _right(source, split, batch)
            if not len(right):
                raise ArdbenchError(
                    f"Teacher {number} classifies none of the {len(split)} images correctly: leave it out."
                )
            listener.task(f"from teacher {number}/{len(nets)}", len(right))
            wrong = torch.zeros(len(nets), dtype=torch.int64, device=device)
            for begin in range(0, len(right), batch):
                rows = right[begin : begin + batch]
                x_adv = _crafted(source, split, rows, threat, steps, seed)
                wrong += (torch.stack([predict(net, x_adv) for net in nets]) != split.labels[rows]).sum(dim=1)
                listener.update(begin + len(rows))
            counts.append(len(right))
            fooled.append(tuple(wrong.tolist()))
    return Transfer(tuple(counts), tuple(fooled))


def _right(net: nn.Module, split: Split, batch: int) -> Tensor:
    """Return the rows that a network classifies correctly, in order."""
    pieces = [slice(begin, begin + batch) for begin in range(0, len(split), batch)]
    said = torch.cat([predict(net, split.pixels(rows)) for rows in pieces])  # (N,)
    return (said == split.labels).nonzero().squeeze(1)


def _crafted(net: nn.Module, split: Split, rows: Tensor, threat: Threat, steps: int, seed: int) -> Tensor:
    """Return adversarial examples (b, C, H, W) of some rows, checked to lie in ball and box."""
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        partial(logits_of, net), n_iter=steps, norm=NORMS[threat.norm], eps=threat.eps, seed=seed, device=rows.device
    )
    torch.manual_seed(seed)  # with best_loss the package does not seed itself
    x_adv: Tensor = attack.perturb(split.pixels(rows).contiguous(), split.labels[rows], best_loss=True)
    check_allowed(split.pixels(rows), x_adv, threat, "apgd-ce")
    return x_adv
