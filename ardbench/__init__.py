"""ardbench: a benchmark of adversarial robustness distillation."""

from __future__ import annotations

import os
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import device as Device
    from torch import nn

    from ardbench.errors import ArdbenchError as ArdbenchError
    from ardbench.verbs.attacking import attack as attack
    from ardbench.verbs.comparing import compare as compare
    from ardbench.verbs.comparing import compare_all as compare_all
    from ardbench.verbs.comparing import ranking as ranking
    from ardbench.verbs.evaluating import evaluate as evaluate
    from ardbench.verbs.identifying import identify as identify
    from ardbench.verbs.reporting import report as report
    from ardbench.verbs.reporting import results as results
    from ardbench.verbs.reproducing import reproduce as reproduce
    from ardbench.verbs.reproducing import sweep as sweep
    from ardbench.verbs.training import distill as distill
    from ardbench.verbs.training import train as train
    from ardbench.verbs.verifying import verify as verify

__version__ = "0.1.0"

VERBS = {
    "ArdbenchError": "ardbench.errors:ArdbenchError",
    "attack": "ardbench.verbs.attacking:attack",
    "compare": "ardbench.verbs.comparing:compare",
    "compare_all": "ardbench.verbs.comparing:compare_all",
    "distill": "ardbench.verbs.training:distill",
    "evaluate": "ardbench.verbs.evaluating:evaluate",
    "identify": "ardbench.verbs.identifying:identify",
    "ranking": "ardbench.verbs.comparing:ranking",
    "report": "ardbench.verbs.reporting:report",
    "reproduce": "ardbench.verbs.reproducing:reproduce",
    "results": "ardbench.verbs.reporting:results",
    "sweep": "ardbench.verbs.reproducing:sweep",
    "train": "ardbench.verbs.training:train",
    "verify": "ardbench.verbs.verifying:verify",
}
"""Name -> where it lies; nothing is imported before it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in VERBS:
        raise AttributeError(f"module 'ardbench' has no attribute {name!r}")
    return resolve_name(VERBS[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *VERBS])


def load(folder: str | os.PathLike[str], device: str | Device = "cpu") -> nn.Module:
    """Return the network that `ardbench export` wrote into a folder, in eval mode.

    Pixels (b, C, H, W) in [0, 1] go in, and any normalisation is inside; logits (b, K) come out. `net.info` holds the
    facts of the data set, its classes among them.

    Args:
        folder: with model.safetensors and config.json.
        device: where to put the network.

    Raises:
        ArdbenchError: the folder is no export, or its weights are not those that it was written with.
    """
    net: nn.Module = resolve_name("ardbench.engine.exported:load")(folder, device)
    return net
