"""The tidy results: a row per run, checkpoint and protocol, and a row per published number beside. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd

from ardbench.campaigns.cells import Cell
from ardbench.errors import ArdbenchError
from ardbench.reports import judging
from ardbench.reports.published import Number
from ardbench.reports.rows import ROBUST, Other, rows_of, rows_of_other
from ardbench.reports.settings import cells_of, settings_of
from ardbench.runs import Run
from ardbench.untrusted import TEXT_LIMIT, read_bytes

TEXT, WHOLE, REAL, TRUTH = "str", "Int64", "float64", "boolean"
COLUMNS = {
    "run": TEXT,
    "suite_name": TEXT,
    "recipe": TEXT,
    "family": TEXT,
    "method": TEXT,
    "dataset": TEXT,
    "student": TEXT,
    "teachers": TEXT,
    "seed": WHOLE,
    "setting": TEXT,
    "differs": TEXT,
    "checkpoint": TEXT,
    "selection": TEXT,
    "protocol": TEXT,
    "protocol_version": WHOLE,
    "norm": TEXT,
    "eps": REAL,
    "value": REAL,
    "n": WHOLE,
    "total": WHOLE,
    "low": REAL,
    "high": REAL,
    "subset": TRUTH,
    "winner": TRUTH,
    "published": REAL,
    "published_method": TEXT,
    "published_teacher": TEXT,
    "published_kind": TEXT,
    "published_paper": TEXT,
    "verdict": TEXT,
    "difference": REAL,
    "tolerance": REAL,
    "assumed": TRUTH,
    "images_per_second": REAL,
    "hours": REAL,
    "device_kind": TEXT,
    "ardbench": TEXT,
    "torch": TEXT,
    "git_sha": TEXT,
    "git_dirty": TRUTH,
    "status": TEXT,
    "notes": TEXT,
}
"""Every column and its type. value, low, high and published are fractions; eps is in pixel units; hours are of training;
`setting` is the hash of everything that decides a run but its seed, and `differs` tells it from others of its name and
teachers ("alpha 0.9"); status is done, partial, stale or missing; `winner` is
true where a value is significantly the best of its column (`judging.winners`); verdict, difference, tolerance and assumed tell
whether a published number was reached (`judging.Judgement`). A row has a value, or a published number beside its run (at the
published checkpoint), or neither: it is still to be measured."""
MEASURED, JUDGED = ("protocol_version", "n", "total", "low", "high", "subset"), ("assumed", "tolerance")
"""Columns that are filled beside a value, and beside a verdict."""
LATER = ("differs",)
"""Columns that results written before they came have not."""
LARGEST = 1e9
"""No number in a table of results comes near it."""


def collect(runs: Sequence[Run], published: Sequence[Number] = (), derived: Sequence[str] = ()) -> pd.DataFrame:
    """Return the tidy results of runs, teachers of other runs first.

    A run without any evaluation has one row without a value.

    Args:
        runs: in any order.
        published: numbers that stand beside runs besides those of published.csv.
        derived: columns of `evaluation.derived.DERIVED`, which are made where they are asked for.

    Raises:
        ArdbenchError: a file of a run is damaged.
    """
    return collect_suite(cells_of(runs), published, derived)


def collect_suite(
    cells: Sequence[Cell], published: Sequence[Number] = (), derived: Sequence[str] = (), others: Sequence[Other] = ()
) -> pd.DataFrame:
    """Return the tidy results of a plan in its order, with a row for everything that is still to be measured.

    Networks that are no runs come last.

    Raises:
        ArdbenchError: a file of a run is damaged.
    """
    rows = [
        row | {"setting": setting, "differs": words}
        for cell, (setting, words) in zip(cells, settings_of(cells), strict=True)
        for row in rows_of(cell, published, derived)
    ]
    rows += [
        row | {"setting": other.identity[:8]} for other in others for row in rows_of_other(other, published, derived)
    ]
    flags = [(row, row.pop(ROBUST)) for row in rows if ROBUST in row]
    for row in judging.winners((row, robust) for row, robust in flags if row["status"] == "done"):
        row["winner"] = True
    judging.judge_published(rows)
    return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def read(path: Path) -> pd.DataFrame:
    """Return tidy results that `write` wrote.

    Raises:
        ArdbenchError: the file is none of them.
    """
    try:
        frame = pd.read_csv(BytesIO(read_bytes(path, TEXT_LIMIT)), dtype=dict(COLUMNS))
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise ArdbenchError(f"{path} cannot be read as a table of results: {error}.") from None
    frame = frame.assign(**{name: "" for name in LATER if name not in frame})
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise ArdbenchError(f"{path} is no table of results: it has no column {absent[0]!r}.")
    frame = _typed(frame[list(COLUMNS)])
    reals = frame[[name for name, kind in COLUMNS.items() if kind == REAL]]
    if (reals.abs() > LARGEST).any(axis=None):
        raise ArdbenchError(f"{path} is no table of results: it has a number above {LARGEST:g}.")
    attacked = ~frame["protocol"].isin(["", "clean"])
    for beside, needed in (
        (frame["value"].notna(), MEASURED), (frame["verdict"] != "", JUDGED), (attacked, ("eps",)),
    ):  # fmt: skip
        if frame.loc[beside, list(needed)].isna().any(axis=None):
            raise ArdbenchError(f"{path} is no table of results: a number in it lacks one of {', '.join(needed)}.")
    return frame


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [name for name, kind in COLUMNS.items() if kind == TEXT]
    frame[texts] = frame[texts].astype(object).fillna("")
    return frame.astype(COLUMNS)
