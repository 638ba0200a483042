"""A transferability matrix as table, tidy CSV and heat map, and the set of teachers that was chosen by it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ardbench.errors import ArdbenchError
from ardbench.evaluation.matrix import Question, Transfer, best_set, mean_rate
from ardbench.evaluation.statistics import wilson
from ardbench.reports.evaluations import threat_name
from ardbench.reports.figures import heat_map, save
from ardbench.reports.rendering import markdown
from ardbench.reports.tables import Entry, Row, Table
from ardbench.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Matrix:
    """What was measured, and how it is told.

    Args:
        question: what was asked.
        measured: the counts.
        size: teachers in the set to choose.
    """

    question: Question
    measured: Transfer
    size: int

    def __post_init__(self) -> None:
        if len(self.measured.right) != len(self.question.teachers):
            raise ArdbenchError(
                f"The matrix of {self.about} that was kept is of {len(self.measured.right)} teachers, not of "
                f"{len(self.question.teachers)}: delete its transfer-*.json to measure again."
            )

    @property
    def names(self) -> list[str]:
        """The last parts of what was typed, or all of it where these are not different."""
        teachers = self.question.teachers
        short = [Path(teacher.source).name for teacher in teachers]
        return short if len(set(short)) == len(short) else [teacher.source for teacher in teachers]

    @property
    def about(self) -> str:
        """Data set, threat and attack in one line."""
        q = self.question
        return f"{q.dataset}, {q.n} images, {threat_name(q.threat.norm, q.threat.eps)}, APGD-CE with {q.steps} steps"

    @property
    def chosen(self) -> tuple[int, ...]:
        """The set with the lowest mean."""
        return best_set(self.measured.rates, self.size)

    @property
    def mean(self) -> float:
        """The mean of t over the ordered pairs of the chosen set."""
        return mean_rate(self.measured.rates, self.chosen)

    def document(self) -> dict[str, Any]:
        """Return the counts and the choice as JSON holds them."""
        chosen = [self.question.teachers[i].source for i in self.chosen]
        return {"pairs": self.rows(), "chosen": chosen, "mean": self.mean}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each ordered pair, the diagonal included, with the 95 % Wilson interval."""
        found = []
        for source, n, row in zip(self.names, self.measured.right, self.measured.fooled, strict=True):
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
        for i, (name, n) in enumerate(zip(self.names, self.measured.right, strict=True)):
            entries = [Entry(f"{i + 1} {name}"), Entry(str(n))]
            for j in range(len(self.names)):
                cell = next(cells)
                text = f"{100 * cell['rate']:.1f}"
                interval = f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
                entries.append(Entry(f"({text})" if i == j else text, interval))
            lines.append(Row(tuple(entries)))
        header = ("crafted on", "n", *(str(number) for number in range(1, len(self.names) + 1)))
        weights = [f"{i}: {one.source}, sha256 {one.sha256}." for i, one in enumerate(self.question.teachers, 1)]
        notes = (*self.notes(), *weights, *self._measured_with())
        return Table(f"Transfer between teachers, {self.about}", header, 1, tuple(lines), notes)

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

    def _measured_with(self) -> list[str]:
        known = defaultdict(str, self.measured.environment)
        if not known:
            return []
        commit = (
            f"commit {known['git_sha'] or known['ardbench']}{' with uncommitted changes' * bool(known['git_dirty'])}"
        )
        return [f"Measured at {known['started']}, {commit}, torch {known['torch']}, {known['device_name']}."]

    def write(self, out: Path) -> list[Path]:
        """Write OUT.csv, OUT.md, OUT.png, OUT.svg and OUT.pdf; return their paths."""
        texts = {
            "csv": pd.DataFrame(self.rows()).to_csv(index=False, lineterminator="\n"),
            "md": markdown([self.table()]),
        }
        paths = [out.with_name(f"{out.name}.{ending}") for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomic(path, text.encode())
        return paths + save(self.drawn(), out)

    def drawn(self) -> Figure:
        """Return the heat map."""
        names = [row.entries[0].text for row in self.table().rows]
        numbers = self.table().header[2:]
        title = f"Adversarial examples that transfer, in %\n{self.about}"
        return heat_map(self.measured.rates, names, numbers, title, "crafted on", "misclassified by")
