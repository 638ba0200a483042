"""A transferability matrix as table, tidy CSV and heat map, and the set of teachers that was chosen by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ardbench.evaluation.statistics import wilson
from ardbench.reports.figures import heat_map, save
from ardbench.reports.rendering import markdown
from ardbench.reports.tables import Entry, Row, Table
from ardbench.runs import Teacher, write_atomic

if TYPE_CHECKING:
    from ardbench.evaluation.transfer import Transfer


@dataclass(frozen=True)
class Matrix:
    """What was measured, and how it is told.

    Args:
        teachers: in the order of rows and columns.
        measured: the counts.
        chosen: the set with the lowest mean.
        mean: of t over its ordered pairs.
        about: data set, threat and attack in one line.
    """

    teachers: tuple[Teacher, ...]
    measured: Transfer
    chosen: tuple[int, ...]
    mean: float
    about: str

    @property
    def names(self) -> list[str]:
        """The last parts of what was typed, or all of it where these are not different."""
        short = [Path(teacher.source).name for teacher in self.teachers]
        return short if len(set(short)) == len(short) else [teacher.source for teacher in self.teachers]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each ordered pair, the diagonal included, with the 95 % Wilson interval."""
        found = []
        for source, n, row in zip(self.names, self.measured.n, self.measured.fooled, strict=True):
            for target, fooled in zip(self.names, row, strict=True):
                low, high = wilson(fooled, n)
                rate = fooled / n
                found.append(
                    {
                        "source": source,
                        "target": target,
                        "n": n,
                        "fooled": fooled,
                        "rate": rate,
                        "low": low,
                        "high": high,
                    }
                )
        return found

    def table(self) -> Table:
        """Return the matrix in per cent; a teacher's own column stands in brackets."""
        cells = iter(self.rows())
        lines = []
        for i, (name, n) in enumerate(zip(self.names, self.measured.n, strict=True)):
            entries = [Entry(f"{i + 1} {name}"), Entry(str(n))]
            for j in range(len(self.names)):
                cell = next(cells)
                text = f"{100 * cell['rate']:.1f}"
                interval = f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
                entries.append(Entry(f"({text})" if i == j else text, interval))
            lines.append(Row(tuple(entries)))
        header = ("crafted on", "n", *(str(number) for number in range(1, len(self.names) + 1)))
        weights = [f"{i}: {one.source}, sha256 {one.sha256}." for i, one in enumerate(self.teachers, 1)]
        return Table(f"Transfer between teachers, {self.about}", header, 1, tuple(lines), (*self.notes(), *weights))

    def notes(self) -> list[str]:
        """Return what a reader must know, and the choice."""
        width = 100 * max(cell["high"] - cell["low"] for cell in self.rows())
        *first, last = [f"{i + 1} {self.names[i]}" for i in self.chosen]
        return [
            "Share in % of the adversarial examples crafted on a row's teacher, from the n test images that it classifies "
            "correctly, that a column's teacher misclassifies; in brackets the attack's own success.",
            f"95 % Wilson intervals are at most {width:.1f} points wide.",
            f"Of all sets of {len(self.chosen)} the one with the lowest mean transfer, {100 * self.mean:.1f} % over its "
            f"ordered pairs: {', '.join(first)} and {last}.",
        ]

    def write(self, out: Path) -> list[Path]:
        """Write transfer.csv, transfer.md, transfer.png and transfer.svg; return their paths."""
        texts = {
            "csv": pd.DataFrame(self.rows()).to_csv(index=False, lineterminator="\n"),
            "md": markdown([self.table()]),
        }
        paths = [out / f"transfer.{ending}" for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomic(path, text.encode())
        names = [row.entries[0].text for row in self.table().rows]
        numbers = self.table().header[2:]
        title = f"Adversarial examples that transfer, in %\n{self.about}"
        drawn = heat_map(self.measured.rates, names, numbers, title, "crafted on", "misclassified by")
        return paths + save(drawn, out / "transfer")
