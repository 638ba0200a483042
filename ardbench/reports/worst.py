"""Over which attacks the worst cases of a table are, and which of them can stand beside each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from ardbench.evaluation.derived import WEIGHTED, WORST, is_asked_for

Line = tuple[str, str]
"""Run and checkpoint."""


@dataclass(frozen=True)
class Behind:
    """The attacks behind the worst cases of a table.

    Args:
        lines: those of each run and checkpoint that has a worst case, on its most images.
        common: those of most lines, of equally many the fewer: one further attack on one run takes nobody's number away.
        others: attacks of the table that are not among them.
    """

    lines: dict[Line, frozenset[str]]
    common: frozenset[str]
    others: frozenset[str]

    @property
    def over_more(self) -> dict[str, list[str]]:
        """Runs whose worst case is over further attacks than the common ones, with these."""
        more = {run: attacks - self.common for (run, _), attacks in self.lines.items() if attacks > self.common}
        return {run: sorted(attacks) for run, attacks in more.items()}

    def of(self, run: str, checkpoint: str) -> frozenset[str]:
        """Return the attacks behind one worst case; none where there is none."""
        return self.lines.get((run, checkpoint), frozenset())


def behind(rows: pd.DataFrame) -> Behind:
    """Return the attacks behind the worst cases among the rows of one table."""
    others = rows["protocol"].isin(["clean", WEIGHTED]) | rows["protocol"].map(is_asked_for)
    measured = rows[rows["value"].notna() & ~others]
    alike: dict[Line, dict[tuple[int, str], set[str]]] = {}
    for run, checkpoint, n, status, name in measured[["run", "checkpoint", "n", "status", "protocol"]].itertuples(
        False
    ):
        alike.setdefault((run, checkpoint), {}).setdefault((n, status), set()).add(name)
    lines = {
        line: frozenset(max((place, some) for place, some in found.items() if WORST in some)[1] - {WORST})
        for line, found in alike.items()
        if any(WORST in some for some in found.values())
    }
    counted = Counter(lines.values())
    common = min(counted, key=lambda one: (-counted[one], len(one), sorted(one)), default=frozenset[str]())
    attacks = {name for found in alike.values() for some in found.values() for name in some} - {WORST}
    return Behind(lines, common, frozenset(attacks) - common)
