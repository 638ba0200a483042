"""What the tables claim: which number is significantly best in its column, and whether a published one was reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from ardbench.evaluation.statistics import mcnemar, tolerance, welch

Result = dict[str, Any]
"""A row of the tidy results."""
Robust = Sequence[bool]

SIGNIFICANT = 0.05
MATCH = 0.005
"""A published number this near is reached, whatever the noise: half a point."""
ASSUMED_DEVIATION = 0.004
"""Between seeds, where fewer than `SEEDS_NEEDED` were measured: 0.4 points, amid the 0.1 to 0.6 reported elsewhere."""
SEEDS_NEEDED = 3


def winners(results: Iterable[tuple[Result, Robust]]) -> list[Result]:
    """Return the results that are significantly best: better than every other setting that was measured alike.

    Alike: same data set, threat, protocol, checkpoint, images and architecture. One seed each is compared by McNemar's
    exact test on the images, two or more by Welch's test of the means; the p-values against all others are corrected by
    Holm for a family-wise error of 5 %. Where some have one seed and some have several nothing is best.

    Args:
        results: rows with a value, of finished runs, with the robust flags (n) of their images.
    """
    columns: dict[tuple[Any, ...], dict[tuple[str, str], list[tuple[Result, Robust]]]] = {}
    alike = ("dataset", "norm", "eps", "protocol", "protocol_version", "checkpoint", "student", "n", "total")
    for result, robust in results:
        column = columns.setdefault(tuple(result[name] for name in alike), {})
        column.setdefault((result["suite_name"], result["setting"]), []).append((result, robust))
    return [result for column in columns.values() for result in _winner(list(column.values()))]


def _winner(column: Sequence[Sequence[tuple[Result, Robust]]]) -> list[Result]:
    """Return the rows of the best setting in a column, or none; a setting has one row a seed."""
    seeds = {min(len(setting), 2) for setting in column}
    if len(column) < 2 or len(seeds) > 1:
        return []
    best, *others = sorted(column, key=lambda setting: -fmean(result["value"] for result, _ in setting))
    p = sorted(_p(best, other) for other in others)
    holm = all(value < SIGNIFICANT / (len(p) - i) for i, value in enumerate(p))
    return [result for result, _ in best] if holm else []


def _p(first: Sequence[tuple[Result, Robust]], second: Sequence[tuple[Result, Robust]]) -> float:
    if len(first) > 1:
        return welch([result["value"] for result, _ in first], [result["value"] for result, _ in second])[2]
    pairs = list(zip(first[0][1], second[0][1], strict=True))
    return mcnemar(pairs.count((True, False)), pairs.count((False, True)))


def verdict(published: float, measured: Sequence[float], n: int) -> tuple[str, float]:
    """Return whether a published accuracy was reached, "match", "within noise" or "off", and the tolerance.

    Args:
        published: as a fraction.
        measured: one accuracy a seed.
        n: test images.
    """
    deviation = stdev(measured) if len(measured) >= SEEDS_NEEDED else ASSUMED_DEVIATION
    allowed = tolerance(fmean(measured), n, deviation, len(measured))
    gap = abs(fmean(measured) - published)
    return ("match" if gap <= MATCH else "within noise" if gap <= allowed else "off"), allowed


def judge_published(rows: Sequence[Result]) -> None:
    """Write verdict and tolerance into the rows of published numbers beside which the same was measured.

    A number of a stated checkpoint is held against that one, any other against the last.
    """
    measured: dict[tuple[Any, ...], list[Result]] = {}
    where = ("suite_name", "setting", "norm", "eps", "protocol")
    for row in rows:
        if row.get("value") is not None and row["status"] == "done":
            measured.setdefault((*(row[name] for name in where), row["checkpoint"]), []).append(row)
    for row in rows:
        if row.get("published") is not None:
            checkpoint = row["checkpoint"] if row["checkpoint"] in ("best", "last") else "last"
            found = measured.get((*(row[name] for name in where), checkpoint), [])
            if found:
                n = max(one["n"] for one in found)
                values = [one["value"] for one in found if one["n"] == n]
                row["verdict"], row["tolerance"] = verdict(row["published"], values, n)
