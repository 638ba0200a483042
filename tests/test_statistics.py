"""Wilson intervals against the numbers of others."""

from __future__ import annotations

from math import sqrt

import pytest
from scipy.stats import binomtest

from ardbench.evaluation.statistics import wilson


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
