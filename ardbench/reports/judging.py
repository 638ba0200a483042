"""What the tables claim: which number is significantly best in its column, and whether a published one was reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ardbench.evaluation.statistics import LIMITS, covariance_of_shares, holm, image_variance, mcnemar, tolerance, welch

Result = dict[str, Any]
"""A row of the tidy results."""


class Answers(NamedTuple):
    """What a result is made of.

    Args:
        question: equal where the same images were asked in the same way.
        robust: (n) whether each image is classified right, a byte of 0 or 1 each.
    """

    question: int
    robust: bytes


class Judgement(NamedTuple):
    """Whether a published accuracy was reached.

    Args:
        verdict: "match", "within noise" or "off".
        difference: measured minus published.
        tolerance: the largest difference within noise.
        assumed: whether the deviation between seeds in it is assumed and not measured.
    """

    verdict: str
    difference: float
    tolerance: float
    assumed: bool


def winners(results: Iterable[tuple[Result, Answers]]) -> list[Result]:
    """Return the results that are significantly best: better than every other setting that was measured alike.

    Alike: same data set, threat, protocol, checkpoint (selected in the same way), images and architecture. One seed each is
    compared by McNemar's exact test on the images, two or more by Welch's test over seeds and images; the p-values against all
    others are corrected by Holm. Where some have one seed and some have several nothing is best.

    Args:
        results: rows with a value, of finished runs, with the answers behind it.
    """
    columns: dict[tuple[Any, ...], dict[tuple[str, str], list[tuple[Result, Answers]]]] = {}
    alike = ("dataset", "norm", "eps", "protocol", "protocol_version", "checkpoint", "student", "total")
    for result, answers in results:
        selection = result["selection"] if result["checkpoint"] == "best" else ""
        column = columns.setdefault((*(result[name] for name in alike), selection, answers.question), {})
        column.setdefault((result["suite_name"], result["setting"]), []).append((result, answers))
    return [result for column in columns.values() for result in _winner(list(column.values()))]


def _winner(column: Sequence[Sequence[tuple[Result, Answers]]]) -> list[Result]:
    """Return the rows of the best setting in a column, or none; a setting has one row a seed."""
    seeds = {min(len(setting), 2) for setting in column}
    if len(column) < 2 or len(seeds) > 1:
        return []
    best, *others = sorted(column, key=lambda setting: -fmean(result["value"] for result, _ in setting))
    told_apart = all(p < LIMITS.significant for p in holm([_p(best, other) for other in others]))
    return [result for result, _ in best] if told_apart else []


def _p(first: Sequence[tuple[Result, Answers]], second: Sequence[tuple[Result, Answers]]) -> float:
    if len(first) > 1:
        a, b = ([result["value"] for result, _ in side] for side in (first, second))
        robust = ([answers.robust for _, answers in side] for side in (first, second))
        return welch(a, b, images=image_variance(covariance_of_shares, *robust))[2]
    pairs = list(zip(first[0][1].robust, second[0][1].robust, strict=True))
    return mcnemar(pairs.count((1, 0)), pairs.count((0, 1)))


def judgement(published: float, measured: Sequence[float], n: int, deviation: float | None = None) -> Judgement:
    """Return whether a published accuracy was reached, or one of a reference.

    Args:
        published: as a fraction.
        measured: one accuracy a seed.
        n: test images.
        deviation: between seeds, where it is known; None takes that of `measured`, or with few seeds assumes one.
    """
    limits = LIMITS.published
    assumed = deviation is None and len(measured) < limits.seeds
    if deviation is None:
        deviation = limits.deviation if assumed else stdev(measured)
    allowed = tolerance(fmean(measured), n, deviation, len(measured))
    difference = fmean(measured) - published
    gap = round(abs(difference), 9)  # 0.8388 - 0.8338 is more than 0.005
    word = "match" if gap <= limits.match else "within noise" if gap <= allowed else "off"
    return Judgement(word, difference, allowed, assumed)


def judge_published(rows: Sequence[Result]) -> None:
    """Write a judgement into the rows of published numbers beside which the same was measured.

    A number of a stated checkpoint is held against that one, any other against the last; what is no run has a single one.
    """
    measured: dict[tuple[Any, ...], list[Result]] = {}
    where = ("suite_name", "setting", "norm", "eps", "protocol")
    for row in rows:
        if row.get("value") is not None and row["status"] == "done":
            measured.setdefault((*(row[name] for name in where), row["checkpoint"]), []).append(row)
    for row in rows:
        if row.get("published") is not None and row["status"] == "done":
            checkpoint = row["checkpoint"] if row["checkpoint"] in ("best", "last") else "last"
            place = tuple(row[name] for name in where)
            found = measured.get((*place, checkpoint)) or measured.get((*place, ""), [])
            if found:
                shown = max((one["protocol_version"], one["n"]) for one in found)
                values = [one["value"] for one in found if (one["protocol_version"], one["n"]) == shown]
                row |= judgement(row["published"], values, shown[1])._asdict()
