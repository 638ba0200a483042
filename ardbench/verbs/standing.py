"""How far runs are, and what was measured of networks that are none. Torch-free."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ardbench.campaigns.cells import of_present_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import Verdicts
from ardbench.models import zoo
from ardbench.reports.evaluations import evaluations, threat_name
from ardbench.runs import Run
from ardbench.subjects import FILE, Subject

FACTS = ("epoch", "epochs", "images_per_second", "peak_memory", "accuracy", "split")
HELD = ("clean", "robust")
"""What `val_` and `test_` stand before in a row of metrics."""


def standing(run: Run) -> dict[str, Any]:
    """Return how a run stands; of a damaged one no more than its name, age and reason."""
    facts = _blank(run.path.name, "damaged", run.path)
    try:
        return facts | facts_of(run)
    except (ArdbenchError, OSError) as error:
        return facts | {"reason": str(error)}


def standing_of_other(subject: Subject) -> dict[str, Any]:
    """Return what was measured of a network that is no run; its age is that of the last measurement."""
    kind = "zoo" if str(subject.path).startswith(zoo.PREFIX) else "export" if subject.path.is_dir() else "file"
    told = [
        _told(FILE, one, stale=False) | ({} if one.protocol == "clean" else {"threat": threat_name(**one.threat)})
        for one, _ in subject.under_any_threat(FILE)
    ]
    return _blank(str(subject.path), kind, subject.folder) | {"evaluations": told}


def _blank(name: str, state: str, folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    age = _age(folder) if folder.exists() else None
    return {"run": name, "state": state, **facts, "evaluations": [], "age": age, "reason": ""}


def facts_of(run: Run) -> dict[str, Any]:
    """Return what the files of a run say.

    Raises:
        ArdbenchError: one of them is damaged.
    """
    rows, done = run.metrics, run.done
    last = rows[-1] if rows else {}
    measured: dict[str, Any] = next((row for row in reversed(rows) if _splits(row)), {})
    split = next(iter(_splits(measured)), None)
    return {
        "state": "done"
        if done
        else "training"
        if run.held
        else "stopped"
        if (run.path / "last.state").is_file()
        else "begun",
        "epoch": len(rows),
        "epochs": run.recipe.schedule.epochs,
        "images_per_second": last.get("images_per_second"),
        "peak_memory": max((row.get("peak_memory", 0) for row in rows), default=None),
        "accuracy": {name: measured[f"{split}_{name}"] for name in HELD} if split else None,
        "split": split,
        "evaluations": [
            _told(checkpoint, one, stale=not of_present_weights(run, checkpoint, one))
            for checkpoint, _, one in evaluations(run)
        ],
    }


def _told(checkpoint: str, one: Verdicts, stale: bool) -> dict[str, Any]:
    facts = {"checkpoint": checkpoint, "protocol": one.protocol, "accuracy": one.accuracy, "n": one.n}
    return facts | {"total": one.total, "stale": stale}


def _splits(row: dict[str, Any]) -> list[str]:
    """Return which of validation and test images a row tells accuracies of."""
    return [split for split in ("val", "test") if all(f"{split}_{name}" in row for name in HELD)]


def _age(path: Path) -> float:
    """Return the seconds since a run was last written; its lock is opened by whoever looks."""
    last = path.stat().st_mtime
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # of a run that is being written, some are gone by now
            last = last if file.name == "lock" else max(last, file.stat().st_mtime)
    return max(0.0, time.time() - last)
