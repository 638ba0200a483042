"""Published numbers: one row of published.csv per number, each with its paper and its kind."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

from ardbench.campaigns.suites import benchmarks_folder
from ardbench.errors import ArdbenchError
from ardbench.untrusted import TEXT_LIMIT, read_bytes

UNNAMED = {
    "iad-i": "iad", "iad-ii": "iad", "adaad+igdm": "igdm", "lbgat": "lbgat6", "adr": "adr+wa", "adr+sam-like": "adr+wa+awp",
}  # fmt: skip
"""From a method to another name under which papers print its numbers, such as one that does not say which variant they ran, or
one that says which weights: those of the average."""
FIELDS = ("method", "student", "teacher", "dataset", "checkpoint", "metric", "value_percent", "kind", "paper")
"""The columns of a file of published numbers that are read; it may have more."""


@dataclass(frozen=True)
class Number:
    """A published accuracy.

    Args:
        method: as published; "iad" is either variant of it, "igdm" that module over a base that is not stated, "adr+wa" the
            average of ADR.
        student: its architecture.
        teacher: as published, "" where it is not stated or there is none.
        dataset: of training and test.
        checkpoint: best, last, or "not stated".
        protocol: the protocol here that comes nearest; a metric without one keeps its own name.
        value: as a fraction.
        kind: paper (read in it), re-run (of others' methods by that work), second-hand (as others quote it), ...
        paper: where it is printed.
    """

    method: str
    student: str
    teacher: str
    dataset: str
    checkpoint: str
    protocol: str
    value: float
    kind: str
    paper: str


def published_beside(
    method: str, student: str, dataset: str, protocols: Collection[str], published: Sequence[Number]
) -> list[Number]:
    """Return what was published of a method, modules included, a student and a data set, by any checkpoint and teacher."""
    wanted = {method, UNNAMED.get(method, method)}
    return [
        number
        for number in published
        if number.method in wanted
        and (number.student, number.dataset) == (student, dataset)
        and number.protocol in protocols
    ]


@cache
def numbers() -> tuple[Number, ...]:
    """Return every published number that comes with ardbench, in the order of the file."""
    path = benchmarks_folder() / "published.csv"
    try:
        return _parsed(path)
    except (OSError, ValueError, csv.Error) as error:
        raise ArdbenchError(f"{path} holds no published numbers ({error}): restore it or reinstall ardbench.") from None


def own_numbers(path: Path) -> tuple[Number, ...]:
    """Return the published numbers in a file of the user's, which is written as benchmarks/published.csv is.

    Raises:
        ArdbenchError: it cannot be read, lacks a column, or has a value that is no accuracy in per cent.
    """
    try:
        found = _parsed(path)
    except (OSError, ValueError, csv.Error) as error:
        raise ArdbenchError(
            f"--published {path} holds no published numbers ({error}): give a CSV with the columns {', '.join(FIELDS)}."
        ) from None
    if not found:
        raise ArdbenchError(f"--published {path} holds no numbers: write one a line below its header.")
    return found


def _parsed(path: Path) -> tuple[Number, ...]:
    reader = csv.DictReader(StringIO(read_bytes(path, TEXT_LIMIT).decode("utf-8-sig"), newline=""))
    if absent := [name for name in FIELDS if name not in (reader.fieldnames or ())]:
        raise ValueError(f"it has no column {absent[0]!r}")
    return tuple(_number(row, place) for place, row in enumerate(reader, 1))


def _number(row: dict[str, str | None], place: int) -> Number:
    """Return the number of a row; `place` counts rows from 1 below the header."""
    if short := next((name for name in FIELDS if row[name] is None), None):
        raise ValueError(f"row {place} ends before its {short}")
    texts = {name: str(row[name]).strip() for name in FIELDS}
    value, metric = texts.pop("value_percent"), texts.pop("metric")
    try:
        share = float(value) / 100
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"row {place}: value_percent is {value[:40]!r}, which is no accuracy from 0 to 100")
    return Number(protocol=metric.replace("_", "-"), value=share, **texts)
