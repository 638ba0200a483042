"""What a protocol costs, before it is measured: forwards of the network, and FLOP."""

from __future__ import annotations

from functools import cache

from ardbench import data
from ardbench.evaluation.protocols import AutoAttack, Clean, Protocol, protocol
from ardbench.models.cost import cost

ROBUST = 0.5
"""The share of test images that AutoAttack is taken to spend all its attacks on; the others fall to the first ones."""


def forwards(asked: str | Protocol, classes: int) -> float:
    """Return what a protocol costs on one image, in forwards of the network; a backward to the image counts as one.

    AutoAttack's numbers are those of a point that stays robust, times `ROBUST`, and hold for 100 steps and 9 targets.
    """
    rules = protocol(asked) if isinstance(asked, str) else asked
    if isinstance(rules, Clean):
        return 1
    if not isinstance(rules, AutoAttack):
        return 1 + rules.restarts * (2 * rules.steps + 1)
    return 1 + ROBUST * sum(of_attack(attack, rules, classes) for attack in rules.defined(classes).attacks)


def of_attack(name: str, rules: AutoAttack, classes: int) -> int:
    """Return what one of AutoAttack's attacks costs on an image that stays robust, counted as in `forwards`."""
    restarts, samples = 5 if rules.configured == "plus" else 1, 20 if rules.configured == "rand" else 1
    apgd = 202 * restarts * samples + 2
    costs = {"apgd-ce": apgd, "apgd-dlr": apgd, "apgd-t": 1829, "fab-t": 2729, "square": 5004}
    costs["fab"] = (202 + 100 * classes) * restarts + 2  # a backward per class and step
    return costs[name]


def flop(asked: str | Protocol, images: int, model: str, dataset: str) -> float:
    """Return what a protocol costs on so many images of a data set."""
    return images * forwards(asked, data.info(dataset).num_classes) * _forward(model, dataset)


@cache
def _forward(model: str, dataset: str) -> int:
    return 2 * cost(model, data.info(dataset)).macs
