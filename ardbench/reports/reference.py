"""Whether results agree with those that are kept as a reference, within what seeds and machines differ. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import pandas as pd

from ardbench.evaluation.derived import is_derived
from ardbench.evaluation.statistics import LIMITS
from ardbench.reports.evaluations import protocol_order
from ardbench.reports.judging import Judgement, Result, judgement
from ardbench.reports.results import read

REFERENCES = Path("results")
"""The folder of references below the working directory: SUITE.csv, as `write` writes it."""
ALIKE = ("checkpoint", "protocol", "protocol_version", "norm", "eps", "n", "total")
"""Columns in which two numbers of the same network or of its seeds are equal."""
NAMED = 5
"""So many numbers that are off are named in a sentence."""


@dataclass(frozen=True)
class Held:
    """A result, the accuracy in the reference as a fraction, and whether the two agree."""

    row: Result
    reference: float
    judged: Judgement

    def __str__(self) -> str:
        """Return it in words, such as "rslad, last, aa: 60.3 against 68.9 ± 6.1"."""
        row, off = self.row, 100 * self.judged.tolerance
        numbers = f"{100 * row['value']:.1f} against {100 * self.reference:.1f} ± {off:.1f}"
        return f"{row['suite_name']} (seed {row['seed']}), {row['checkpoint']}, {row['protocol']}: {numbers}"


@dataclass(frozen=True)
class Comparison:
    """Results beside a reference.

    Args:
        path: of the reference.
        held: the numbers that it has, too.
        alone: how many it has not.
    """

    path: Path
    held: Sequence[Held]
    alone: int

    def table(self) -> list[list[str]]:
        """Return a header and a row per run and checkpoint: differences in points, "off" beside those out of tolerance."""
        protocols = protocol_order(one.row["protocol"] for one in self.held)
        rows: dict[tuple[str, int, str], dict[str, str]] = {}
        for one in self.held:
            place = (one.row["suite_name"], one.row["seed"], one.row["checkpoint"])
            mark = " off" if one.judged.verdict == "off" else ""
            rows.setdefault(place, {})[one.row["protocol"]] = f"{100 * one.judged.difference:+.1f}{mark}"
        header = ["run", "seed", "checkpoint", *protocols]
        return [
            header,
            *([*map(str, place), *(row.get(name, "") for name in protocols)] for place, row in rows.items()),
        ]

    def sentence(self) -> str:
        """Return how many numbers agree, which do not, and how many cannot be compared."""
        if not self.held:
            return f"{self.path} has none of these numbers: its runs are of other recipes, seeds or teachers."
        words = Counter(one.judged.verdict for one in self.held)
        off = [str(one) for one in self.held if one.judged.verdict == "off"]
        said = ", ".join(f"{words[word]} {word}" for word in ("match", "within noise") if words[word])
        text = f"{len(self.held) - len(off)} of {len(self.held)} numbers agree with {self.path}"
        text += f" ({said})" if said else ""
        if off:
            text += f"; off: {'; '.join(off[:NAMED])}" + (f"; and {len(off) - NAMED} more" if off[NAMED:] else "")
        return text + (f"; not in it: {self.alone}." if self.alone else ".")


class Reference:
    """The results of a suite that others are held against.

    The same recipe, seed and teachers are another network on another machine, where sums are rounded otherwise. So each number
    stands against the reference's as one seed against another: with the deviation of the reference's own seeds where it has
    enough of them, and else with that of `statistics.toml`.

    Args:
        path: a table of results.

    Raises:
        ArdbenchError: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[tuple[Any, ...], float] = {}
        self.seeds: dict[tuple[Any, ...], dict[int, float]] = {}
        for row in _counted(read(path)):
            self.values[row["run"], *_asked(row)] = row["value"]
            self.seeds.setdefault((row["setting"], *_asked(row)), {})[row["seed"]] = row["value"]

    @classmethod
    def of(cls, suite: str) -> Reference | None:
        """Return the reference of a suite, if there is one."""
        path = REFERENCES / f"{suite}.csv"
        return cls(path) if path.is_file() else None

    def hold(self, frame: pd.DataFrame) -> Comparison:
        """Return every number that was counted, beside the reference."""
        rows = _counted(frame)
        held = [self._held(row, self.values[key]) for row in rows if (key := (row["run"], *_asked(row))) in self.values]
        return Comparison(self.path, held, len(rows) - len(held))

    def _held(self, row: Result, reference: float) -> Held:
        seeds = self.seeds[row["setting"], *_asked(row)].values()
        assumed = LIMITS.reference.clean if row["protocol"] == "clean" else LIMITS.reference.attacked
        deviation = stdev(seeds) if len(seeds) >= LIMITS.published.seeds else assumed
        return Held(row, reference, judgement(reference, [row["value"]], row["n"], deviation))


def _asked(row: Result) -> tuple[Any, ...]:
    return tuple(row[name] for name in ALIKE)


def _counted(frame: pd.DataFrame) -> list[Result]:
    """Return the rows of accuracies that were counted on present weights; what is derived from them differs as they do."""
    counted = frame["value"].notna() & (frame["status"] == "done") & ~frame["protocol"].map(is_derived)
    return [{str(name): value for name, value in row.items()} for row in frame[counted].to_dict("records")]
