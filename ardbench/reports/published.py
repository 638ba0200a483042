"""Published numbers: one row of published.csv per number, each with its paper and its kind."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from ardbench.config import Published
from ardbench.errors import ArdbenchError
from ardbench.suites import benchmarks_folder

UNSTATED = "not stated"


@dataclass(frozen=True)
class Number:
    """A published accuracy.

    Args:
        value: as a fraction.
        checkpoint: best, last, or "not stated".
        kind: paper (read in it), re-run (of others' methods by that work), second-hand (as others quote it), ...
        paper: where it is printed.
    """

    value: float
    checkpoint: str
    kind: str
    paper: str


def published_number(
    wanted: Published | None, student: str, dataset: str, checkpoint: str, protocol: str
) -> Number | None:
    """Return the number that stands beside a measurement, or None.

    A number without a stated checkpoint stands beside any; a paper that gives two for one cell is quoted by its first.
    """
    if wanted is None:
        return None
    key = (wanted.method, wanted.paper, wanted.teacher, student, dataset, protocol)
    found = _numbers().get(key, ())
    exact = [number for number in found if number.checkpoint == checkpoint]
    unstated = [number for number in found if number.checkpoint == UNSTATED]
    return next(iter(exact + unstated), None)


@cache
def _numbers() -> dict[tuple[str, ...], tuple[Number, ...]]:
    """Return the published numbers by (method, paper, teacher, student, dataset, protocol)."""
    path = benchmarks_folder() / "published.csv"
    found: dict[tuple[str, ...], tuple[Number, ...]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                protocol = row["metric"].replace("_", "-")
                key = (row["method"], row["paper"], row["teacher"], row["student"], row["dataset"], protocol)
                number = Number(float(row["value_percent"]) / 100, row["checkpoint"], row["kind"], row["paper"])
                found[key] = (*found.get(key, ()), number)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArdbenchError(f"{path} holds no published numbers ({error}): restore it or reinstall ardbench.") from None
    return found
