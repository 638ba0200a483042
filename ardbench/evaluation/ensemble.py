"""The authors' attacks as their package gives them (`pyautoattack`): configured, run on a batch, and listened to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import CLASSES_NEEDED, AutoAttack

NORMS = {"linf": "Linf", "l2": "L2"}


def configured(
    logits: Callable[[Tensor], Tensor],
    protocol: AutoAttack,
    threat: Threat,
    seed: int,
    device: torch.device,
    classes: int,
    notes: list[str],
) -> Any:
    """Return the package's attack objects, configured as the protocol says, for a network of so many classes.

    Args:
        logits: what is attacked, (B, C, H, W) -> fp32 (B, classes).
        notes: where a smaller number of targeted classes than usual is noted.
    """
    from pyautoattack import AutoAttack as Package

    norm = NORMS[threat.norm]
    aa = Package(logits, norm=norm, eps=threat.eps, seed=seed, version=protocol.configured, device=device)
    for name, attack in (("apgd-t", aa.apgd_targeted), ("fab-t", aa.fab)):
        if attack.n_target_classes > classes - 1:
            if name in protocol.attacks:
                usual = attack.n_target_classes
                add(notes, f"{name} targets {classes - 1} classes instead of {usual}: there are no more.")
            attack.n_target_classes = classes - 1
    return aa


def perturb(aa: Any, name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return what one attack of the package makes of x (B, C, H, W), contiguous, with labels y (B,).

    The switches are those of the package's `run_standard_evaluation`; nothing else is carried from batch to batch.
    """
    if name in ("apgd-ce", "apgd-dlr"):
        aa.apgd.loss = name.removeprefix("apgd-")
        attack = aa.apgd
    elif name in ("fab", "fab-t"):
        aa.fab.targeted = name == "fab-t"
        if aa.fab.targeted:
            aa.fab.n_restarts = 1
        attack = aa.fab
    else:
        attack = {"apgd-t": aa.apgd_targeted, "square": aa.square}[name]
    x_adv: Tensor = attack.perturb(x, y)
    return x_adv


def refuse_few_classes(protocol: AutoAttack, classes: int) -> None:
    """Refuse attacks whose loss needs more classes than there are, and say which list does not."""
    if short := protocol.undefined(classes):
        raise ArdbenchError(
            f"{short[0]} in protocol {protocol.name} needs at least {CLASSES_NEEDED[short[0]]} classes, and the "
            f"network has {classes}: evaluate aa:apgd-ce,fab-t,square instead."
        )


def add(notes: list[str], note: str) -> None:
    """Note something once."""
    if note not in notes:
        notes.append(note)


class Listener:
    """Stands where the package expects a logger: each warning becomes a note, once, without its count of points."""

    def __init__(self, notes: list[str], attack: str = "") -> None:
        self.notes, self.attack = notes, attack

    def warning(self, text: str) -> None:
        """Note what the package says, in one line that a table can quote."""
        if "zero gradient" in text:
            text = f"points with zero gradient in {self.attack}, gradient-based attacks may be unreliable."
        text = re.sub(r"\s*See flags_doc\.md for details\.", "", text).replace('version="rand"', "aa-rand")
        add(self.notes, f"AutoAttack: {text.replace('; ', ', ')}")
