"""Intervals and tests of accuracies. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import combinations, product
from math import sqrt
from statistics import NormalDist, fmean, variance
from typing import Annotated, TypeVar

from pydantic import Field

from ardbench.config import Section, Share

T = TypeVar("T")


class Bootstrap(Section):
    """How often images are drawn again, and the seed of the draws."""

    draws: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


class Published(Section):
    """When a published accuracy was reached: nearer than `match`, or within the tolerance.

    The deviation between seeds is assumed where fewer than `seeds` were measured.
    """

    match: Share
    deviation: Share
    seeds: Annotated[int, Field(ge=2)]


class Reference(Section):
    """Deviations between networks of one recipe, on the clean and on attacked images, where a reference has too few seeds."""

    clean: Share
    attacked: Share


class Limits(Section):
    """The file of limits."""

    significant: Share
    bootstrap: Bootstrap
    published: Published
    reference: Reference


LIMITS = Limits.model_validate(
    tomllib.loads((resources.files("ardbench.evaluation") / "statistics.toml").read_text(encoding="utf-8"))
)


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        successes: k in [0, n]; p = k / n.
        n: examples, at least 1.
        confidence: in (0, 1).

    Returns:
        (low, high), within [0, 1].

    Raises:
        ValueError: there are no examples, or more successes than examples.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA, 1927.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    low = 0.0 if successes == 0 else centre - half  # exactly: rounding leaves 1e-17
    high = 1.0 if successes == n else centre + half
    return low, high


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Return the exact two-sided p-value of two networks being right equally often on the same images.

    Args:
        first_alone, second_alone: images that one of the two alone gets right; the others tell nothing.

    Returns:
        min(1, 2 P(X <= min(first_alone, second_alone))), X ~ Binomial(first_alone + second_alone, 1/2).

    Source: Q. McNemar, Psychometrika, 1947, in its exact form.
    """
    several = first_alone + second_alone
    tail = ways = 1
    for k in range(min(first_alone, second_alone)):
        ways = ways * (several - k) // (k + 1)  # several choose k + 1
        tail += ways
    return min(1.0, 2 * tail / (1 << several))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several: the chance of one false difference among all stays below each limit.

    The r-th smallest of m (r from 0) is multiplied by m - r, is no smaller than those before it, and at most 1.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    corrected, largest = [1.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = corrected[place] = max(largest, min(1.0, (len(values) - rank) * values[place]))
    return corrected


def bootstrap_difference(first_alone: int, second_alone: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the difference of two accuracies, first minus second, over images drawn again.

    An image is drawn with both of its answers, so that a draw is a multinomial one of (first alone, second alone, neither
    alone), and the images themselves are not needed.

    Args:
        first_alone, second_alone: images that one of the two alone gets right, of `n`.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    import numpy as np

    shares = [first_alone / n, second_alone / n, 1 - (first_alone + second_alone) / n]
    drawn = np.random.default_rng(LIMITS.bootstrap.seed).multinomial(n, shares, size=LIMITS.bootstrap.draws)
    tail = (1 - confidence) / 2
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [tail, 1 - tail])
    return float(low), float(high)


def welch(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, images: float = 0.0
) -> tuple[float, float, float]:
    """Return the interval (low, high) of the difference of two means over seeds, first minus second, and its p-value.

    Args:
        first, second: one accuracy a seed, two or more each; their spreads may differ. Where there is no spread at all
            nothing is known of it: the interval is [-1, 1] and p is 1.
        images: the variance that the images add (`image_variance`); with 0 the answer is about these images alone.

    Source: B. L. Welch, Biometrika, 1947; with images the degrees of freedom of S. L. Hillis, Statistics in Medicine, 2007,
    who takes those of the images as so many that they do not count.
    """
    from scipy.special import stdtr, stdtrit

    a, b = (variance(side) / len(side) for side in (first, second))
    if a + b == 0:
        return -1.0, 1.0, 1.0
    freedom = (a + b + images) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    gap, error = fmean(first) - fmean(second), sqrt(a + b + images)
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return gap - half, gap + half, 2 * float(stdtr(freedom, -abs(gap) / error))


def image_variance(covariance: Callable[[T, T], float], first: Sequence[T], second: Sequence[T]) -> float:
    """Return the variance that the choice of the test images adds to the difference of two means over seeds, at least 0.

    C(A, A) + C(B, B) - 2 C(A, B), C the mean covariance of two different networks of these sides: what all seeds of a side
    get right alike, and those of the other do not. What images add to a single network is in the spread of its seeds.

    Args:
        covariance: of the accuracies of two networks, over other choices of as many images.
        first, second: what was measured, one a seed, two or more each, all on the same images.

    Source: N. A. Obuchowski and H. E. Rockette, Communications in Statistics, 1995, whose readers are the seeds here, whose
    cases are the images and whose tests are the sides.
    """
    within = (fmean(covariance(*pair) for pair in combinations(side, 2)) for side in (first, second))
    return max(sum(within) - 2 * fmean(covariance(a, b) for a, b in product(first, second)), 0.0)


def covariance_of_shares(first: bytes, second: bytes) -> float:
    """Return the covariance of two accuracies on the same images, over other choices of as many.

    Args:
        first, second: (n) whether each image is classified right, a byte of 0 or 1 each.
    """
    n, both = len(first), (int.from_bytes(first) & int.from_bytes(second)).bit_count()
    return (both / n - first.count(1) * second.count(1) / n**2) / max(n - 1, 1)


def tolerance(accuracy: float, n: int, deviation: float, seeds: int) -> float:
    """Return how far a quoted accuracy may lie from a measured one by chance: 2 sqrt(p (1 - p) / n + s^2 (1 + 1/k)).

    Args:
        accuracy: p, measured, the mean over the seeds.
        n: test images.
        deviation: s, between seeds.
        seeds: k that were measured; the quoted number, published or of a reference, is taken to be one more.
    """
    return 2 * sqrt(accuracy * (1 - accuracy) / n + deviation**2 * (1 + 1 / seeds))


def paired_interval(
    robust_a: Sequence[bool], robust_b: Sequence[bool], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of accuracy(a) - accuracy(b), both measured on the same images, in the same order.

    The Wilson limits of both are combined, less what the two have in common (phi, corrected for continuity).

    Args:
        robust_a, robust_b: whether each image is classified right.
        confidence: in (0, 1).

    Returns:
        (low, high), within [-1, 1].

    Raises:
        ValueError: there are no images, or not as many of both.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine, 1998, method 10.
    """
    n, pairs = len(robust_a), list(zip(robust_a, robust_b, strict=True))
    both, only_a, only_b, none = (
        pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))
    )
    (low_a, high_a), (low_b, high_b) = wilson(both + only_a, n, confidence), wilson(both + only_b, n, confidence)
    p_a, p_b = (both + only_a) / n, (both + only_b) / n
    excess = both * none - only_a * only_b
    common = max(excess - n / 2, 0) if excess > 0 else excess
    scale = sqrt((both + only_a) * (only_b + none) * (both + only_b) * (only_a + none))
    phi = common / scale if scale else 0.0
    below, above = _joined(p_a - low_a, high_b - p_b, phi), _joined(high_a - p_a, p_b - low_b, phi)
    return p_a - p_b - below, p_a - p_b + above


def _joined(one: float, other: float, phi: float) -> float:
    return sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))
