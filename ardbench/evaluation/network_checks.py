"""Trust checks that need the network or the images themselves, and `examine`, which makes all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor, nn

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.batch_size import fitting, halved
from ardbench.evaluation.confirm import check_allowed, logits_of, measuring
from ardbench.evaluation.measure import subset_of
from ardbench.evaluation.running_statistics import keeps_statistics
from ardbench.evaluation.trust import LIMITS, Finding
from ardbench.evaluation.verdicts import Verdicts, file_name

if TYPE_CHECKING:
    from ardbench.data.batches import Split

LOOKED_AT = 64
"""Images that the network is asked about, if so many fit in memory."""


def examine(net: nn.Module, split: Split, store: Path, n: int | None, key: Mapping[str, Any]) -> list[Finding]:
    """Return what every trust check says of what is measured in a folder, and keep it there as `trust[-n<N>].json`.

    Args:
        net, split, n, key: as in `measure.evaluate`; `key` holds the sha256 of the weights.
        store: the folder of verdicts.

    Raises:
        ArdbenchError: a file of verdicts is damaged.
    """
    chosen = subset_of(split, n)
    measured = trust.measured_in(store, key, chosen.index.tolist())
    looked = min(LOOKED_AT, len(chosen))
    while (findings := fitting(partial(_of_network, net, chosen, looked))) is None:
        looked = halved(looked, "the trust checks")
    clean = trust.above_chance(measured.get("clean"), chosen.info.num_classes)
    findings += [clean, stays_allowed(measured, chosen, store, n), *trust.judged(measured)]
    trust.save(store / file_name(trust.STEM, n), findings, key["weights"])
    return findings


def _of_network(net: nn.Module, chosen: Split, looked: int) -> list[Finding]:
    """Return the findings that need nothing but the network and so many images."""
    with measuring(net, chosen.labels.device):
        x = chosen.pixels(slice(0, looked))
        return [evaluates(net, x), gives_logits(net, x), keeps_statistics(net, chosen, looked)]


def evaluates(net: nn.Module, x: Tensor) -> Finding:
    """Return whether a network that was put into eval mode behaves so: an image's logits depend on nothing else.

    Args:
        net: in eval mode, as far as it lets itself be put there.
        x: (B, C, H, W) in [0, 1].
    """
    left = [name or "the network" for name, module in net.named_modules() if module.training]
    if left:
        return Finding("eval-mode", "warning", f"{left[0]} stays in train mode while it is measured.")
    together = logits_of(net, x)  # (B, K)
    others = (logits_of(net, x[:1]), logits_of(net, x))
    moved = max((other - together[: len(other)]).abs().max().item() for other in others)
    if moved > LIMITS.tolerances["eval-mode"] * together.abs().max().item():
        why = "logits change with the other images of a batch or from call to call, as in train mode"
        return Finding("eval-mode", "warning", f"{why}; if the defence is random, quote aa-rand.")
    return Finding("eval-mode", "ok", "all modules are in eval mode, and the logits of an image depend on it alone.")


def gives_logits(net: nn.Module, x: Tensor) -> Finding:
    """Return whether what the network gives for x (B, C, H, W) may be logits: probabilities are all in [0, 1] and sum to 1."""
    given, slack = logits_of(net, x), LIMITS.tolerances["logits"]  # (B, K)
    within = given.min().item() >= -slack and given.max().item() <= 1 + slack
    if within and (given.sum(dim=1) - 1).abs().max().item() <= slack:
        why = "the network gives probabilities, whose cross-entropy has little gradient: remove its softmax"
        return Finding("logits", "warning", f"{why} and evaluate again.")
    return Finding("logits", "ok", "the network gives no probabilities.")


def stays_allowed(measured: Mapping[str, Verdicts], chosen: Split, store: Path, n: int | None) -> Finding:
    """Return whether adversarial images lie in ball and box, recomputed from the data set.

    No attack is recorded whose images do not as they are made; those that were kept are checked once more as they lie.
    """
    attacks = [name for name, verdicts in measured.items() if name != "clean" and verdicts.threat["eps"]]
    if not attacks:
        return Finding("ball-and-box", "unchecked", "no attack measured: add --protocol pgd20.")
    kept = []
    for name in attacks:
        path = (store / file_name(name, n)).with_suffix(".adversarial.safetensors")
        if path.exists():
            x, x_adv = chosen.pixels(slice(None)), load_file(path, str(chosen.labels.device))["x_adv"]
            try:
                check_allowed(x, x_adv, Threat.model_validate(measured[name].threat), path.name)
            except ArdbenchError as error:
                return Finding("ball-and-box", "warning", f"{str(error).partition(';')[0]}.")
            kept.append(name)
    reason = f"every image of {', '.join(attacks)} was checked as it was made"
    return Finding("ball-and-box", "ok", f"{reason}{', and as kept of ' + ', '.join(kept) if kept else ''}.")
