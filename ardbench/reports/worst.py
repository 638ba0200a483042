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
        lines: of each run and checkpoint whose worst case is over the common attacks at least, on how many images it is, and
            over which: of several the one on the most images.
        common: those of most lines, each at its most; of equally many the fewer: one further attack on one run takes
            nobody's number away.
        others: attacks of the table that are not among them.
    """

    lines: dict[Line, tuple[int, frozenset[str]]]
    common: frozenset[str]
    others: frozenset[str]

    @property
    def over_more(self) -> dict[Line, frozenset[str]]:
        """The further attacks of the lines whose worst case is over more than the common ones."""
        return {line: attacks - self.common for line, (_, attacks) in self.lines.items() if attacks > self.common}

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows without the worst cases that are not to be shown beside each other."""
        places = zip(rows["run"], rows["checkpoint"], rows["n"], rows["protocol"], strict=True)
        kept = [name != WORST or self.lines.get((run, at), (0,))[0] == n for run, at, n, name in places]
        return rows[pd.Series(kept, rows.index, dtype=bool)]


def behind(rows: pd.DataFrame) -> Behind:
    """Return the attacks behind the worst cases among the rows of one table.

    A worst case on n images is over every attack on as many or more, for `rows.py` makes no other.
    """
    others = rows["protocol"].isin(["clean", WEIGHTED]) | rows["protocol"].map(is_asked_for)
    measured: dict[tuple[Line, str], dict[str, set[int]]] = {}
    for run, checkpoint, n, status, name in rows.loc[
        rows["value"].notna() & ~others, ["run", "checkpoint", "n", "status", "protocol"]
    ].itertuples(False):
        measured.setdefault(((run, checkpoint), status), {}).setdefault(name, set()).add(n)
    found: dict[Line, list[tuple[int, frozenset[str]]]] = {}
    for (line, _), counts in measured.items():
        for n in counts.pop(WORST, ()):
            found.setdefault(line, []).append((n, frozenset(name for name, some in counts.items() if max(some) >= n)))
    most = Counter(max((attacks for _, attacks in some), key=len) for some in found.values())
    common = min(most, key=lambda one: (-most[one], len(one), sorted(one)), default=frozenset[str]())
    over = {line: max((one for one in some if one[1] >= common), default=None) for line, some in found.items()}
    attacks = {name for counts in measured.values() for name in counts}
    return Behind({line: one for line, one in over.items() if one}, common, frozenset(attacks) - common)
