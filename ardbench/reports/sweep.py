"""The table of runs that differ in a few values: a row for each choice of them, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from ardbench.campaigns.cells import Cell
from ardbench.campaigns.varied import shortened, written
from ardbench.evaluation.derived import WEIGHTED, WORST
from ardbench.reports import footnotes
from ardbench.reports.evaluations import protocol_order
from ardbench.reports.tables import Entry, Row, Table, entry
from ardbench.runs import Run, checkpoint_order

CHOOSE = "Choose by validation: test accuracies of a row that was chosen by them are too high."


def sweep_table(frame: pd.DataFrame, cells: Sequence[Cell], varied: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with the varied values as columns; several seeds are a mean and a deviation.

    Args:
        frame: what `collect_suite` returned.
        cells: the plan.
        varied: by the names of the runs that vary, their values by key.
    """
    keys = list(dict.fromkeys(key for values in varied.values() for key in values))
    rows = frame[frame["suite_name"].isin(varied) & frame["published"].isna()]
    protocols = [
        name for name in protocol_order(rows.loc[rows["protocol"] != "", "protocol"]) if name not in (WORST, WEIGHTED)
    ]
    bases = {name: name.partition("@")[0] for name in varied}
    decimals = 2 if rows["n"].notna().any() and rows["n"].max() >= 5000 else 1
    lines = []
    for name, values in varied.items():
        mine, runs = rows[rows["suite_name"] == name], [cell.run for cell in cells if cell.name == name]
        words = [written(values[key]) if key in values else "" for key in keys]
        seeds = " ".join(str(cell.recipe.seed) for cell in cells if cell.name == name)
        for checkpoint in checkpoint_order(one for one in mine["checkpoint"] if one) or [""]:
            there = mine[mine["checkpoint"] == checkpoint]
            measured = [entry(there[there["protocol"] == protocol], decimals) for protocol in protocols]
            labels = [Entry(word) for word in (bases[name], *words, seeds, checkpoint)]
            lines.append(Row((*labels, _validated(runs, checkpoint), *measured), opens=True))
    short = shortened(keys)
    header = ("run", *(short[key] for key in keys), "seeds", "checkpoint", "val. robust", *protocols)
    notes = (
        *footnotes.of_accuracies(rows),
        *([CHOOSE] if any(line.entries[len(keys) + 3].text for line in lines) else []),
    )
    return Table("Accuracy in % by what varies", header, len(keys) + 3, tuple(lines), notes)


def _validated(runs: Sequence[Run], checkpoint: str) -> Entry:
    """Return the robust accuracy on validation images of the epoch whose weights a checkpoint holds, the mean of its runs."""
    found = []
    for run in runs:
        done, rows = run.done or {}, run.metrics
        epochs = {"best": done.get("best_epoch", -1), "last": len(rows) - 1}
        epoch = epochs.get(checkpoint, int(checkpoint[6:]) - 1 if checkpoint.startswith("epoch-") else -1)
        if done and 0 <= epoch < len(rows) and "val_robust" in rows[epoch]:
            found.append(100 * rows[epoch]["val_robust"])
    return Entry(f"{fmean(found):.1f}" if found else "")
