"""Intervals and tests against the numbers of others."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from ardbench.evaluation.statistics import (
    bootstrap_difference,
    covariance_of_shares,
    image_variance,
    mcnemar,
    paired_interval,
    tolerance,
    welch,
    wilson,
)


def test_the_interval_of_one_half_is_the_closed_form() -> None:
    """With p = 1/2 the formula is 1/2 +- z / (2 sqrt(n + z^2)); worked out on paper for n = 100."""
    z = 1.959963984540054
    low, high = wilson(50, 100)
    assert low == pytest.approx(0.5 - z / (2 * sqrt(100 + z * z)), abs=1e-12)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 200), (200, 200), (3, 7), (5341, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_scipys(k: int, n: int, confidence: float) -> None:
    theirs = binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_share_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(k, n)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (27, 11), (13, 60), (300, 900), (1500, 1600)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(b: int, c: int) -> None:
    theirs = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("b", "c", "n"), [(60, 30, 1000), (27, 11, 360), (0, 40, 500)])
def test_the_bootstrap_is_near_the_normal_interval_of_a_paired_difference(b: int, c: int, n: int) -> None:
    low, high = bootstrap_difference(b, c, n)
    gap = (b - c) / n
    half = 1.96 * sqrt((b + c) / n - gap**2) / sqrt(n)
    assert (low, high) == pytest.approx((gap - half, gap + half), abs=2.5 / n)
    assert (low, high) == bootstrap_difference(b, c, n) != bootstrap_difference(b, c, n, confidence=0.9)
    assert bootstrap_difference(0, 0, n) == (0, 0)


def test_the_bootstrap_is_that_of_the_images_themselves() -> None:
    """Draw 40 images again and again, each with the answers of both networks, and take the 2.5 and 97.5 % quantiles."""
    answers = np.array([1] * 9 + [-1] * 3 + [0] * 28)  # right in the first alone, in the second alone, in both or none
    drawn = np.random.default_rng(1).choice(answers, size=(20_000, 40)).mean(axis=1)
    assert bootstrap_difference(9, 3, 40) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1.01 / 40)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("first", "second"), [([1, 2, 3], [4, 6, 8]), ([0.51, 0.52], [0.49, 0.5, 0.53]), ([5, 5, 6], [5, 5, 5.5, 4])]
)
def test_welch_is_scipys(first: list[float], second: list[float], confidence: float) -> None:
    theirs = ttest_ind(first, second, equal_var=False)
    interval = theirs.confidence_interval(confidence)
    assert welch(first, second, confidence) == pytest.approx((interval.low, interval.high, theirs.pvalue), rel=1e-9)


@pytest.mark.parametrize("second", [[0.9, 0.9], [0.8, 0.8, 0.8]])
def test_seeds_without_a_spread_tell_nothing_about_it(second: list[float]) -> None:
    assert welch([0.9, 0.9], second) == (-1, 1, 1)


def seeds(draw: np.random.Generator, n: int, count: int = 3, method: float = 0.0) -> list[np.ndarray]:
    """Return which of n images each seed of two alike methods gets right, as (2, seeds, n) in a list by method.

    Args:
        method: how much images differ from method to method, beside 1 from image to image and 0.4 from seed to seed.
    """
    hard = draw.normal(size=n)
    own = [hard + method * draw.normal(size=n) for _ in "ab"]
    return [one + 0.4 * draw.normal(size=(count, n)) + 0.02 * draw.normal(size=(count, 1)) > 0.6 for one in own]


def test_the_variance_of_the_images_is_that_of_the_two_way_analysis() -> None:
    """Mean squares: (images - residual) / seeds of each side, less twice the covariance of the sides' means, over n."""
    n, count = 200, 3
    first, second = sides = seeds(np.random.default_rng(3), n, count, method=1.0)
    within = 0.0
    for side in sides:
        by_image, by_seed = side.mean(0), side.mean(1, keepdims=True)
        images = count * ((by_image - side.mean()) ** 2).sum() / (n - 1)
        residual = ((side - by_image - by_seed + side.mean()) ** 2).sum() / ((n - 1) * (count - 1))
        within += (images - residual) / count
    across = np.cov(first.mean(0), second.mean(0))[0, 1]
    found = image_variance(covariance_of_shares, *([one.tobytes() for one in side] for side in sides))
    assert found == pytest.approx((within - 2 * across) / n, rel=1e-12) and found > 0


def test_alike_methods_are_told_apart_as_seldom_as_promised_on_other_images_too() -> None:
    """Two methods that differ from image to image and not on the whole: seeds alone see a difference twice too often."""
    draw, wrong = np.random.default_rng(4), np.zeros(2)
    for _ in range(500):
        sides = seeds(draw, 500, 5, method=0.3)
        images = image_variance(covariance_of_shares, *([one.tobytes() for one in side] for side in sides))
        means = [side.mean(1).tolist() for side in sides]
        wrong += [welch(*means)[2] < 0.05, welch(*means, images=images)[2] < 0.05]
    assert wrong[0] / 500 > 0.09 and 0.02 < wrong[1] / 500 < 0.08


def test_the_tolerance_worked_out_by_hand() -> None:
    assert tolerance(0.5, 10_000, 0.004, 1) == pytest.approx(2 * sqrt(0.25 / 1e4 + 2 * 0.004**2))
    assert tolerance(0.5, 10_000, 0.002, 3) == pytest.approx(0.0110151, abs=1e-6)


def paired(both: int, only_a: int, only_b: int, none: int) -> tuple[list[bool], list[bool]]:
    """Return two lists of verdicts with these counts."""
    pairs = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * none
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_the_paired_interval_is_newcombes() -> None:
    """The example of 36, 12, 2 and 0 in Table II of the paper: 0.0569 to 0.3404 by method 10."""
    low, high = paired_interval(*paired(36, 12, 2, 0))
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (500, 20, 5, 475), (3, 0, 9, 8), (0, 10, 0, 0), (7, 0, 0, 0)])
def test_swapping_the_two_mirrors_the_interval(counts: tuple[int, int, int, int]) -> None:
    a, b = paired(*counts)
    low, high = paired_interval(a, b)
    assert paired_interval(b, a) == pytest.approx((-high, -low), abs=1e-12)
    assert -1 <= low <= (sum(a) - sum(b)) / len(a) <= high <= 1


def test_what_agrees_on_more_images_is_known_more_narrowly() -> None:
    """Accuracies of 0.5 and 0.48 each time; only in how far the two agree do the pairs differ."""
    widths = [high - low for low, high in (paired_interval(*paired(480 - k, 20 + k, k, 500 - k)) for k in (0, 50, 240))]
    assert widths == sorted(widths) and widths[-1] > 3 * widths[0]
    assert paired_interval(*paired(480, 20, 0, 500))[0] > 0 > paired_interval(*paired(240, 260, 240, 260))[0]


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False])])
def test_what_is_not_paired_is_refused(a: list[bool], b: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"no share|longer"):
        paired_interval(a, b)
