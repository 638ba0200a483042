"""What of the results tables show, and how: chosen for a paper, while the CSV keeps all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ardbench.errors import unknown
from ardbench.evaluation.derived import check_measured, is_asked_for
from ardbench.runs import is_checkpoint


@dataclass(frozen=True)
class View:
    """What tables show; a value that is left out shows everything.

    Args:
        protocols: the columns of numbers to keep.
        checkpoints: the lines to keep; a published number of no stated checkpoint goes with the last.
        columns: of words and of numbers, in this order; words always stand first.
        intervals: whether each number has its interval beside it.
        fit_width: whether LaTeX stacks what stands side by side, and scales a table that is still wider than the line.
    """

    protocols: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    intervals: bool = True
    fit_width: bool = False

    def check(self, frame: pd.DataFrame) -> None:
        """Refuse protocols and checkpoints of which the results know nothing.

        Raises:
            ArdbenchError: with those that there are.
        """
        for kind, given, column in (
            ("protocol", self.protocols, "protocol"),
            ("checkpoint", self.checkpoints, "checkpoint"),
        ):
            there = [name for name in dict.fromkeys(frame[column]) if name]
            for name in given:
                if name not in there:
                    raise unknown(f"{kind} in these results:", name, there)

    def shows(self, protocol: str, checkpoint: str) -> bool:
        """Return whether a number of these stands in the tables."""
        return _among(protocol, self.protocols) and _among(checkpoint, self.checkpoints)

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that are shown: what is still to be measured at all stays, and so do its published numbers."""
        if named := set(self.columns) & set(rows["protocol"]) - {""}:
            rows = rows[rows["protocol"].isin([*named, ""])]
        if not (self.protocols or self.checkpoints):
            return rows
        stated = [name if not name or is_checkpoint(name) else "last" for name in rows["checkpoint"]]
        return rows[[self.shows(*pair) for pair in zip(rows["protocol"], stated, strict=True)]]

    def places(self, header: Sequence[str], labels: int) -> list[int]:
        """Return which columns of a table are kept, words first; none where no column of numbers is among them."""
        if not self.columns:
            return list(range(len(header)))
        found = [header.index(name) for name in self.columns if name in header]
        if not any(place >= labels for place in found):
            return []
        return sorted(found, key=lambda place: place >= labels)

    def check_columns(self, headers: Iterable[Sequence[str]]) -> None:
        """Refuse a column that no table has.

        Raises:
            ArdbenchError: with those that there are.
        """
        there = list(dict.fromkeys(name for header in headers for name in header))
        for name in self.columns:
            if name not in there and is_asked_for(name):
                check_measured([name], ())
            if name not in there:
                raise unknown("column of these tables:", name, there)


def _among(name: str, chosen: Collection[str]) -> bool:
    return not chosen or not name or name in chosen


WHOLE = View()
"""Everything."""
