"""Intervals and tests against the numbers of others."""

from __future__ import annotations

from math import sqrt

import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from ardbench.evaluation.statistics import bootstrap_difference, mcnemar, tolerance, welch, wilson


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


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (27, 11), (13, 60), (300, 900)])
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


def test_welch_worked_out_by_hand() -> None:
    """Means 2 and 6, variances 1 and 4, three seeds each: t = -4 / sqrt(5/3) at 50/17 degrees of freedom."""
    low, high, p = welch([1, 2, 3], [4, 6, 8])
    assert (low + high) / 2 == pytest.approx(-4)
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, 50 / 17) * sqrt(5 / 3))
    assert p == pytest.approx(2 * student.sf(4 / sqrt(5 / 3), 50 / 17))


def test_the_tolerance_worked_out_by_hand() -> None:
    assert tolerance(0.5, 10_000, 0.004, 1) == pytest.approx(2 * sqrt(0.25 / 1e4 + 2 * 0.004**2))
    assert tolerance(0.5, 10_000, 0.002, 3) == pytest.approx(0.0110151, abs=1e-6)
