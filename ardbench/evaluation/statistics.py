"""Intervals of accuracies. Torch-free."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


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
