"""What a transferability matrix is measured from, its counts, their file, and the set chosen by it. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from ardbench.config import AtLeastOne, Count, Threat
from ardbench.runs import Teacher, checked, read_json, told_environment, write_json

Rates = Sequence[Sequence[float]]
"""t(i -> j) by row i and column j; the diagonal is the attack's own success and enters no mean."""


@dataclass(frozen=True)
class Question:
    """What a matrix is measured from.

    Args:
        teachers: in the order of rows and columns.
        dataset: whose test images are attacked.
        threat: of the attack.
        n: test images, class-balanced where these are not all.
        batch, seed: they decide the noise of the attack.
        steps: of APGD-CE; 40, as the teachers of DARHT are chosen.
    """

    teachers: tuple[Teacher, ...]
    dataset: str
    threat: Threat
    n: int
    batch: int = 500
    seed: int = 0
    steps: int = 40

    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return vars(self) | {"teachers": [vars(one) for one in self.teachers], "threat": vars(self.threat)}

    def place(self, root: Path) -> Path:
        """Return the file of its answer in the folder of run directories: another one where anything decisive differs."""
        teachers = [(one.identity, one.model, one.sha256) for one in self.teachers]
        decisive = json.dumps(self.document() | {"teachers": teachers}, sort_keys=True)
        return root / f"transfer-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}.json"


@dataclass(frozen=True)
class Transfer:
    """The counts behind t(i -> j), the share of the adversarial examples crafted on i that j misclassifies.

    Args:
        right: for each source i, the images that it classifies correctly; an example is crafted from each.
        fooled: for each source i and each target j, how many of these examples j misclassifies.
        environment: versions, device, command and commit of the measurement, as in a run's env.json.
    """

    right: tuple[AtLeastOne, ...]
    fooled: tuple[tuple[Count, ...], ...]
    environment: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if {len(self.fooled), *map(len, self.fooled)} != {len(self.right)}:
            raise ValueError("a row and a column are needed for each network")
        if any(count > right for right, row in zip(self.right, self.fooled, strict=True) for count in row):
            raise ValueError("more examples fool than there are")

    @property
    def rates(self) -> Rates:
        """The matrix of t(i -> j), as fractions."""
        return [[count / right for count in row] for right, row in zip(self.right, self.fooled, strict=True)]


def save_transfer(place: Path, question: Question, found: Transfer) -> None:
    """Write the counts, and what they were measured from."""
    write_json(place, question.document() | vars(found))


def load_transfer(place: Path) -> Transfer:
    """Return the counts that `save_transfer` wrote.

    Raises:
        ArdbenchError: the file is damaged or something else.
    """
    document = read_json(place)
    found: Transfer = checked(_FILE, document, place, "transferability matrix", "delete it to measure again")
    return replace(found, environment=told_environment(found.environment, place))


_FILE = TypeAdapter(Transfer)


def best_set(rates: Rates, size: int) -> tuple[int, ...]:
    """Return the `size` networks (2 or more) with the lowest mean of t; of equals those that were named first."""
    return min(combinations(range(len(rates)), size), key=partial(mean_rate, rates))


def mean_rate(rates: Rates, chosen: Sequence[int]) -> float:
    """Return the mean of t(i -> j) over the ordered pairs i != j of the chosen networks."""
    return fmean(rates[i][j] for i, j in permutations(chosen, 2))
