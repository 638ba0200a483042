"""Published numbers: one row of published.csv per number, each with its paper and its kind."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from ardbench.campaigns.suites import benchmarks_folder
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError

UNNAMED = {"iad-i": "iad", "iad-ii": "iad"}
"""From a method to the name under which papers print its numbers without saying which variant they ran."""


@dataclass(frozen=True)
class Number:
    """A published accuracy.

    Args:
        method: as published; "iad" is either variant of it.
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


def published_beside(recipe: Recipe, protocols: Collection[str]) -> list[Number]:
    """Return what others published of a recipe's method, student and data set, by any checkpoint and teacher.

    Nothing stands beside a level recipe: nobody publishes that table.
    """
    if recipe.family == "level":
        return []
    name = recipe.method["name"]
    wanted = {name, UNNAMED.get(name, name)}
    return [
        number
        for number in numbers()
        if number.method in wanted
        and (number.student, number.dataset) == (recipe.student, recipe.data.name)
        and number.protocol in protocols
    ]


@cache
def numbers() -> tuple[Number, ...]:
    """Return every published number, in the order of the file."""
    path = benchmarks_folder() / "published.csv"
    texts = ("method", "student", "teacher", "dataset", "checkpoint", "kind", "paper")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(
                Number(
                    protocol=row["metric"].replace("_", "-"),
                    value=float(row["value_percent"]) / 100,
                    **{name: row[name] for name in texts},
                )
                for row in csv.DictReader(file)
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArdbenchError(f"{path} holds no published numbers ({error}): restore it or reinstall ardbench.") from None
