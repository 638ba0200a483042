"""Over which attacks the worst cases of a table are, and which of them can stand beside each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from ardbench.reports.results import WEIGHTED, WORST

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
    measured = rows[rows["value"].notna() & ~rows["protocol"].isin(["clean", WEIGHTED])]
    attacks, lines = measured[measured["protocol"] != WORST], {}
    for line, group in attacks.groupby(["run", "checkpoint"], sort=False):
        worst = measured[
            (measured["protocol"] == WORST) & (measured["run"] == line[0]) & (measured["checkpoint"] == line[1])
        ]
        if not worst.empty:
            largest = worst.sort_values("n").iloc[-1]
            same = group[(group["n"] == largest["n"]) & (group["status"] == largest["status"])]
            lines[str(line[0]), str(line[1])] = frozenset(map(str, same["protocol"]))
    counted = Counter(lines.values())
    common = min(counted, key=lambda one: (-counted[one], len(one), sorted(one)), default=frozenset[str]())
    return Behind(lines, common, frozenset(map(str, attacks["protocol"])) - common)
