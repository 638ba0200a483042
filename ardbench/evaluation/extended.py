"""AutoAttack on a part of the images, carried to all of them by the weaker attacks that were measured there. Torch-free.

The part tells how many points AutoAttack takes beyond weaker attacks, which differs little from image to image; all images
tell how many stand under these. So the estimate is far surer than the part alone, and without bias whatever the weaker attacks
are, since parts are drawn at random, class by class.

Source: the difference estimator of two-phase sampling, W. G. Cochran, "Sampling Techniques", 1977, chapter 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import erfc, sqrt
from statistics import NormalDist, covariance

from ardbench.evaluation.statistics import paired_interval, wilson
from ardbench.evaluation.verdicts import Verdicts, shared, worst_case


@dataclass(frozen=True)
class Extended:
    """What is known of one network under an attack on a part of the images.

    Args:
        whole: a weaker attack on all of them.
        weaker: (N) whether each of all images stands under every weaker attack.
        part: the attack on the part.
        before: (n) whether each image of the part stands under every weaker attack.
    """

    whole: Verdicts
    weaker: list[bool]
    part: Verdicts
    before: list[bool]

    @cached_property
    def taken(self) -> list[int]:
        """(n) 1 for images of the part that stand under weaker attacks and not under the attack, -1 for the reverse."""
        return [before - after for before, after in zip(self.before, self.part.robust, strict=True)]

    @property
    def lost(self) -> float:
        """The share of the part that the attack takes beyond weaker ones."""
        return sum(self.taken) / self.part.n

    @property
    def value(self) -> float:
        """The accuracy on all images: what stands under weaker attacks, less what is lost beyond them."""
        return max(sum(self.weaker) / self.whole.n - self.lost, 0.0)

    @property
    def number(self) -> tuple[float, float, float]:
        """The accuracy and its 95 % interval.

        Wilson's limits on all images and Newcombe's of what is lost, less the part's own share of the images, joined as those
        of independent numbers (G. Y. Zou and A. Donner, Statistics in Medicine, 2008).
        """
        value, (low, high) = self.value, wilson(round(self.value * self.whole.n), self.whole.n)
        least, most = paired_interval(self.before, self.part.robust)
        left = 1 - self.part.n / self.whole.n
        below, above = (
            (value - low) ** 2 + left * (most - self.lost) ** 2,
            (high - value) ** 2 + left * (self.lost - least) ** 2,
        )
        return value, max(value - sqrt(below), 0.0), min(value + sqrt(above), 1.0)


def extended(part: Verdicts, attacks: Sequence[Verdicts]) -> Extended | None:
    """Return what weaker attacks on more images say beside an attack on a part; None where there are none of its images.

    Args:
        attacks: of the same network; those under the same threat on the most images count.
    """
    larger = [one for one in attacks if one.protocol != "clean" and one.threat == part.threat and one.n > part.n]
    if not larger or part.n < 2:
        return None
    whole = max(larger, key=lambda one: one.n)
    alike = [one for one in larger if one.images == whole.images]
    pairs = [shared(part, one) for one in alike]
    behind = [pair[1] for pair in pairs if pair]
    if not pairs[0] or len(behind) < len(alike):
        return None
    return Extended(whole, worst_case(alike), pairs[0][0], worst_case(behind))


def covariance_of_estimates(a: Extended, b: Extended) -> float:
    """Return the covariance of two estimates, of one network or of two, over other choices of the images and of the part.

    Args:
        a, b: on the same images, and attacked on the same part of them.
    """
    crossed = covariance(a.before, b.taken) + covariance(a.taken, b.before)
    return (covariance(a.weaker, b.weaker) - crossed) / a.whole.n + covariance(a.taken, b.taken) / a.part.n


def difference(a: Extended, b: Extended, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the interval (low, high) of the accuracy of a minus that of b, and the p-value of no difference.

    The normal approximation, with the answers of both to the same images taken as pairs.

    Args:
        a, b: as in `covariance_of_estimates`.
    """
    alone = covariance_of_estimates(a, a) + covariance_of_estimates(b, b)
    error = sqrt(max(alone - 2 * covariance_of_estimates(a, b), 0.0))
    gap = a.value - b.value
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    p = erfc(abs(gap) / error / sqrt(2)) if error else float(gap == 0)
    return gap - half, gap + half, p
