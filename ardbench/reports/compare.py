"""Two runs on the same images, or two settings over seeds: which is better, by how much, and how sure that is. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ardbench.errors import ArdbenchError
from ardbench.evaluation.extended import Extended, covariance_of_estimates, difference
from ardbench.evaluation.statistics import (
    LIMITS,
    bootstrap_difference,
    covariance_of_shares,
    image_variance,
    mcnemar,
    welch,
)
from ardbench.evaluation.verdicts import Verdicts


@dataclass(frozen=True)
class Difference:
    """The accuracies of A and B under one protocol, as fractions.

    Args:
        protocol, threat: what was measured, the threat in words; "" where nothing is attacked.
        n: test images.
        a, b: accuracies, means over `seeds`.
        seeds: of each side.
        deviations: between the seeds of each side; None for one seed.
        low, high: the 95 % interval of a - b.
        p: of no difference.
        alone: images that one side alone gets right; None over several seeds.
        pairs: for how many comparisons p is corrected.
        part: of how many of the images an estimate was attacked itself; 0 for what is none.
    """

    protocol: str
    threat: str
    n: int
    a: float
    b: float
    seeds: tuple[int, int]
    deviations: tuple[float, float] | None
    low: float
    high: float
    p: float
    alone: tuple[int, int] | None
    pairs: int = 1
    part: int = 0

    @property
    def difference(self) -> float:
        """A minus B."""
        return self.a - self.b

    @property
    def told_apart(self) -> bool:
        """Whether one is better at all."""
        return self.p < LIMITS.significant

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Those of A and B in %, over seeds as a table has them."""
        values = (f"{100 * value:.1f}" for value in (self.a, self.b))
        if self.deviations is None:
            return tuple(values)
        return tuple(
            f"{value} ± {100 * s:.1f} ({k})" for value, s, k in zip(values, self.deviations, self.seeds, strict=True)
        )

    def sentence(self, a: str, b: str) -> str:
        """Return which of the two is better, by how much, and why that is said."""
        under = "on clean images" if self.protocol == "clean" else f"under {self.protocol}"
        if self.deviations is not None:
            count = f"n = {self.n} over {self.seeds[0]} and {self.seeds[1]} seeds"
            why = f"Welch's p over seeds and images = {self.p:.2g}"
        elif self.alone is None:
            count = f"n = {self.n}, of which {self.part} were attacked so"
            why = f"both on the same images, normal p = {self.p:.2g}"
        else:
            count = f"n = {self.n}"
            why = f"A alone is right on {self.alone[0]} images, B alone on {self.alone[1]}, McNemar's exact p = {self.p:.2g}"
        if self.pairs > 1:
            why += f" (Holm-corrected for {self.pairs} pairs)"
        a, b = f"A ({a})", f"B ({b})"
        if not self.told_apart:
            gap = f"A - B is {_points(self.difference)} points (95 % interval {_points(self.low)} to {_points(self.high)})"
            return f"{a} and {b} cannot be told apart {under} at {count}: {gap}; {why}."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        low, high = (self.low, self.high) if self.difference > 0 else (-self.high, -self.low)
        gap = f"{100 * abs(self.difference):.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        return f"{better} is better than {worse} {under} by {gap} at {count}; {why}."

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        return vars(self) | {"difference": self.difference, "told_apart": self.told_apart}


def compare(first: Sequence[Verdicts], second: Sequence[Verdicts], threat: str) -> Difference:
    """Return how two sides differ under one protocol.

    Args:
        first, second: one evaluation a seed; one each is compared image by image, two or more each by their means.
        threat: in words.

    Raises:
        ArdbenchError: other images or versions of the protocol, or one seed against several.
    """
    one = first[0]
    for other in (*first[1:], *second):
        if other.images != one.images:
            raise ArdbenchError(
                f"{one.protocol} was measured on {one.n} and on {other.n} images that are not the same ones: "
                "evaluate both with the same --n."
            )
        attacked = one.protocol != "clean"
        if other.version != one.version or (attacked and other.threat != one.threat):
            raise ArdbenchError(
                f"{one.protocol} was measured in another version or under another threat: evaluate both again, alike."
            )
    a, b = ([verdicts.accuracy for verdicts in side] for side in (first, second))
    about = (one.protocol, threat if one.protocol != "clean" else "", one.n, fmean(a), fmean(b), (len(a), len(b)))
    if len(a) == len(b) == 1:
        pairs = list(zip(one.robust, second[0].robust, strict=True))
        alone = (pairs.count((True, False)), pairs.count((False, True)))
        return Difference(*about, None, *bootstrap_difference(*alone, one.n), mcnemar(*alone), alone)
    _check_seeds(first, second)
    images = image_variance(covariance_of_shares, *([bytes(one.robust) for one in side] for side in (first, second)))
    return Difference(*about, (stdev(a), stdev(b)), *welch(a, b, images=images), None)


def compare_extended(name: str, first: Sequence[Extended], second: Sequence[Extended], threat: str) -> Difference:
    """Return how two sides differ on all images by an attack on a part of them; everything else is as in `compare`.

    Args:
        name: of the difference.

    Raises:
        ArdbenchError: other images, other parts of them, or one seed against several.
    """
    if any(
        (one.whole.images, one.part.images) != (first[0].whole.images, first[0].part.images)
        for one in (*first, *second)
    ):
        raise ArdbenchError(
            f"{first[0].part.protocol} was measured on other parts of the images: evaluate both with the same --n."
        )
    _check_seeds(first, second)
    a, b = [one.value for one in first], [one.value for one in second]
    whole, part = first[0].whole.n, first[0].part.n
    about = (name, threat, whole, fmean(a), fmean(b), (len(a), len(b)))
    if len(a) == 1:
        return Difference(*about, None, *difference(first[0], second[0]), None, part=part)
    images = image_variance(covariance_of_estimates, first, second)
    return Difference(*about, (stdev(a), stdev(b)), *welch(a, b, images=images), None, part=part)


def _check_seeds(first: Sequence[Any], second: Sequence[Any]) -> None:
    if 1 in (len(first), len(second)) and len(first) != len(second):
        raise ArdbenchError(
            f"A has {len(first)} seeds and B {len(second)}: compare one run with one, or two seeds or more with two or more."
        )


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0: no -0.0
