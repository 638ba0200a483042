"""A report's numbers, counted again from the verdicts of the runs that it names. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.derived import is_asked_for
from ardbench.evaluation.verdicts import Verdicts, load_verdicts
from ardbench.exports import export_in
from ardbench.reports.published import numbers
from ardbench.reports.results import collect_suite, read
from ardbench.reports.rows import Other
from ardbench.reports.settings import cells_of
from ardbench.runs import Run

SAME = 1e-9
"""Two ways to write one share of images differ by less."""
COUNTED = ("value", "low", "high")


@dataclass(frozen=True)
class Recount:
    """What of a report was found to agree.

    Args:
        numbers: accuracies that their verdicts give, of so many networks.
        published: numbers that stand in benchmarks/published.csv.
        absent: numbers whose verdicts, or whose source, are not here.
    """

    numbers: int
    networks: int
    published: int
    absent: int


def recount(path: Path, root: Path) -> Recount:
    """Hold the CSV of a report against the runs of its names below `root`, against the verdicts of what is no run, and against
    what was published.

    Raises:
        ArdbenchError: a number that is not what its verdicts give, bold that is not earned, or a published number changed.
    """
    frame = read(path)
    runs = list(_runs(frame, root))
    others = list(_others(frame, root, {run.path.name for run in runs}))
    names = {run.path.name for run in runs} | {other.name for other in others}
    asked = [name for name in frame["protocol"].unique() if is_asked_for(name)]
    counted = {_place(row): row for row in _rows(collect_suite(cells_of(runs), derived=asked, others=others))}
    whole = names >= set(frame[frame["value"].notna()]["run"])
    found = [row for row in _rows(frame) if row["run"] in names]
    for row in found:
        _compare(path, row, counted.get(_place(row)), whole)
    known, foreign = _quoted(path, frame)
    absent = int(frame["value"].notna().sum()) - len(found) + foreign
    return Recount(len(found), len({row["run"] for row in found}), known, absent)


def _runs(frame: pd.DataFrame, root: Path) -> Iterator[Run]:
    for name in frame["run"].unique():
        path = root / str(name)
        if path.parent == root and (path / "config.json").is_file() and not export_in(path):
            yield Run.open(path)


def _others(frame: pd.DataFrame, root: Path, runs: set[str]) -> Iterator[Other]:
    """Yield the networks of a report that are no runs and of whose weights there are verdicts below `root`."""
    rows = frame[~frame["run"].isin(runs) & frame["value"].notna()]
    measured = list(_measured(root)) if len(rows) else []
    named = {(row["run"], row["setting"], row["dataset"], row["student"]): None for row in _rows(rows)}
    for name, weights, dataset, student in named:
        found = {
            (one.protocol, one.n, *(() if one.protocol == "clean" else one.threat.values())): (one, path.parent)
            for one, path in reversed(measured)  # clean images count as measured first
            if one.key.get("weights", "").startswith(weights) and one.key.get("dataset", dataset) == dataset
        }
        if weights and found:
            threat = Threat.model_validate(next(iter(found.values()))[0].threat)
            yield Other(name, weights, student, dataset, threat, list(found.values()))


def _measured(root: Path) -> Iterator[tuple[Verdicts, Path]]:
    """Yield the verdicts, with seed 0, of everything that is no run."""
    for path in sorted(root.glob("files/*/eval-other/*/*/*.json")):
        if not (path.name.endswith(".state.json") or trust.is_trust(path)):
            verdicts = load_verdicts(path)
            if verdicts.seed == 0 and verdicts.protocol not in trust.FOR_CHECKS:
                yield verdicts, path


def _rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in frame[frame["value"].notna()].to_dict("records"):
        yield {str(name): value for name, value in row.items()}


def _place(row: dict[str, Any]) -> Hashable:
    eps = None if pd.isna(row["eps"]) else round(row["eps"], 9)
    return (*(row[name] for name in ("run", "checkpoint", "protocol", "n", "norm")), eps)


def _compare(path: Path, told: dict[str, Any], counted: dict[str, Any] | None, whole: bool) -> None:
    where = f"{told['run']}, {told['checkpoint']}, {told['protocol']} on {told['n']} images"
    if counted is None:
        raise ArdbenchError(f"{path} has a number for {where}, and no verdicts there give one: make the report again.")
    if changed := next((name for name in COUNTED if not math.isclose(told[name], counted[name], abs_tol=SAME)), None):
        raise ArdbenchError(
            f"{path} says {changed} = {told[changed]:.6g} for {where}, and its verdicts give {counted[changed]:.6g}: make the "
            "report again."
        )
    if whole and (told["winner"] is True) != (counted["winner"] is True):
        earned = "is bold and has not earned it" if told["winner"] is True else "has earned bold and has it not"
        raise ArdbenchError(f"{path}: {where} {earned}: make the report again.")


def _quoted(path: Path, frame: pd.DataFrame) -> tuple[int, int]:
    """Return how many published numbers are as they come with ardbench, and how many papers are not among those."""
    bundled: dict[tuple[str, ...], set[float]] = {}
    for one in numbers():
        place = (one.method, one.student, one.dataset, one.teacher, one.checkpoint, one.protocol, one.paper)
        bundled.setdefault(place, set()).add(round(one.value, 9))
    papers = {one.paper for one in numbers()}
    known = foreign = 0
    for row in frame[frame["published"].notna()].to_dict("records"):
        value, paper = float(row["published"]), str(row["published_paper"])
        about = (
            "published_method",
            "student",
            "dataset",
            "published_teacher",
            "checkpoint",
            "protocol",
            "published_paper",
        )
        if round(value, 9) in bundled.get(tuple(str(row[name]) for name in about), ()):
            known += 1
        elif paper in papers:
            raise ArdbenchError(
                f"{path} quotes {100 * value:g} from {paper} for {row['published_method']}, {row['student']}, "
                f"{row['protocol']}, and benchmarks/published.csv has no such number: make the report again."
            )
        else:
            foreign += 1
    return known, foreign
