"""The files of a report: tidy CSV, Markdown, LaTeX, and where the numbers come from. No clock enters them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ardbench.config import Data
from ardbench.data.extra import file_name
from ardbench.reports.classes import Evaluated, accuracies_by_class, class_tables, confusions, read_evaluated
from ardbench.reports.evaluations import evaluations, training_seconds
from ardbench.reports.rendering import latex, markdown, marked
from ardbench.reports.tables import Table, cut, tables
from ardbench.reports.view import WHOLE, View
from ardbench.runs import Run, write_atomic
from ardbench.written import without_folder


def write(
    frame: pd.DataFrame, out: Path, name: str, runs: Sequence[Run] = (), title: str = "", view: View = WHOLE
) -> list[Path]:
    """Write NAME.csv, NAME.md and NAME.tex; return their paths.

    Where runs are given, so are NAME.provenance.json and the tables by class, and where any of them was evaluated,
    NAME.classes.csv and NAME.confusion.csv. The same runs give the same bytes.

    Args:
        frame: what `collect` or `read` returned.
        out: the folder.
        runs: those that the frame was collected from.
        title: the heading of NAME.md; the name unless given.
        view: what the tables show; the CSV has everything.

    Raises:
        ArdbenchError: the folder cannot be written.
    """
    evaluated = read_evaluated(runs)
    made = made_tables(frame, evaluated, view)
    contents = {
        "csv": _csv(frame),
        "md": f"# {marked(title or name)}\n\n{markdown(made)}",
        "tex": latex(made, view.fit_width),
    }
    if runs:
        contents["md"] += f"\nVersions, commits, devices, commands and hashes of every run: `{name}.provenance.json`.\n"
        contents["provenance.json"] = json.dumps(provenance(runs), indent=2) + "\n"
    by_class = accuracies_by_class(evaluated)
    if not by_class.empty:
        contents |= {"classes.csv": _csv(by_class), "confusion.csv": _csv(confusions(evaluated))}
    paths = []
    for ending, text in contents.items():
        path = out / f"{name}.{ending}"
        write_atomic(path, text.encode(errors="backslashreplace"))
        paths.append(path)
    return paths


def made_tables(frame: pd.DataFrame, evaluated: Sequence[Evaluated], view: View = WHOLE) -> list[Table]:
    """Return the tables of the results and those by class, as a view shows them."""
    return cut([*tables(frame, view), *class_tables(evaluated, view)], view)


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def provenance(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what made the numbers: versions, commits, devices, commands, hashes and times of every run."""
    found = [_run(run) for run in runs if (run.path / "config.json").is_file()]
    hours: dict[str, float] = {}
    for run in found:
        hours[run["device"]] = hours.get(run["device"], 0.0) + run["training_seconds"] / 3600
    return {
        "training_device_hours": {device: round(total, 4) for device, total in sorted(hours.items())},
        "evaluation_hours": round(sum(e["seconds"] for run in found for e in run["evaluations"]) / 3600, 4),
        "runs": found,
    }


def _run(run: Run) -> dict[str, Any]:
    done, known = run.done or {}, run.environment
    return {
        "run": run.path.name,
        "identity": run.identity,
        "finished": bool(done),
        "epochs": done.get("epochs", len(run.metrics)),
        "best_epoch": done.get("best_epoch"),
        "device": done.get("device") or known.get("device", ""),
        "training_seconds": training_seconds(run),
        "weights": done.get("weights", {}),
        "teachers": [{"source": without_folder(t.source), "role": t.role, "sha256": t.sha256} for t in run.teachers],
        **_extra(run.recipe.data),
        "environment": known | {"argv": [without_folder(word) for word in known.get("argv", ())]},
        "evaluations": [
            {
                "file": str(path.relative_to(run.path)),
                "protocol": verdicts.protocol,
                "version": verdicts.version,
                "n": verdicts.n,
                "seed": verdicts.seed,
                "seconds": verdicts.seconds,
                "attack": verdicts.attack,
                "environment": verdicts.environment,
            }
            for _, path, verdicts in evaluations(run)
        ],
    }


def _extra(section: Data) -> dict[str, Any]:
    """Return which images besides the data set's were trained on, where there were some."""
    if section.extra is None:
        return {}
    return {
        "extra": {
            "source": file_name(section.extra),
            "share": section.extra_share,
            "sha256": section.extra_sha256,
        }
    }
