"""The tidy results: one row per run, checkpoint and protocol, from run directories alone. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.statistics import wilson
from ardbench.evaluation.verdicts import Verdicts, load_verdicts, worst_case
from ardbench.reports.published import published_number
from ardbench.runs import Run, Teacher, read_json
from ardbench.suites import of_present_weights

WORST = "worst"
"""The protocol column of a worst case: robust against every attack that was measured on the same images."""
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
    "published": REAL,
    "published_checkpoint": TEXT,
    "published_kind": TEXT,
    "published_paper": TEXT,
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
"""Every column and its type. value, low and high are fractions; eps is in pixel units; hours are of training;
`setting` is the hash of everything that decides a run but its seed; status is done, partial, stale or missing."""


def collect(runs: Sequence[Run], labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the tidy results of the runs, in a suite's order or, without one, teachers of other runs first.

    A run without any evaluation has one row without a value.

    Args:
        labels: from a run directory's name to what a suite calls it; given, the order of the runs stands.

    Raises:
        ArdbenchError: a file of a run is damaged.
    """
    named = labels or {}
    ordered = runs if named else _teachers_first(runs)
    rows = [row for run in ordered for row in _rows(run, named)]
    return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def read(path: Path) -> pd.DataFrame:
    """Return tidy results that `write` wrote.

    Raises:
        ArdbenchError: the file is none of them.
    """
    try:
        frame = pd.read_csv(path, dtype=dict(COLUMNS))
    except (OSError, ValueError) as error:
        raise ArdbenchError(f"{path} cannot be read as a table of results: {error}.") from None
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise ArdbenchError(f"{path} is no table of results: it has no column {absent[0]!r}.")
    return _typed(frame[list(COLUMNS)])


def training_seconds(run: Run) -> float:
    """Return the seconds that a run has trained, finished or not."""
    done = run.done
    return float(done["seconds"]) if done else float(sum(row.get("seconds", 0.0) for row in run.metrics))


def evaluations(run: Run) -> Iterator[tuple[str, Path, Verdicts]]:
    """Yield (checkpoint, file, verdicts) of every finished evaluation, in the order of names."""
    for path in sorted((run.path / "eval").glob("*/*.json")):
        if not path.name.endswith(".state.json"):
            yield path.parent.name, path, load_verdicts(path)


def environment(run: Run) -> dict[str, Any]:
    """Return what env.json says, or nothing."""
    path = run.path / "env.json"
    return read_json(path) if path.exists() else {}


def threat_name(norm: str, eps: float) -> str:
    """Return a threat for people, such as "linf, eps 8/255"."""
    return f"{norm}, eps {written_eps(eps)}"


def written_eps(eps: float) -> str:
    """Return a radius or a step size as a fraction of 255 where it is one and no short decimal: 8/255, 0.2, 0.031."""
    steps = round(eps * 255)
    short = float(f"{eps:.3f}") == eps
    return f"{eps:g}" if short or abs(eps - steps / 255) > 1e-9 else f"{steps}/255"


def protocol_order(names: Iterable[str]) -> list[str]:
    """Return protocols in the order of the registry, unknown ones after them by name."""
    registry = list(PROTOCOLS)
    return sorted(set(names), key=lambda name: (registry.index(name) if name in registry else len(registry), name))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [name for name, kind in COLUMNS.items() if kind == TEXT]
    frame[texts] = frame[texts].astype(object).fillna("")
    return frame.astype(COLUMNS)


def _teachers_first(runs: Sequence[Run]) -> list[Run]:
    teaching = {teacher.identity.partition("@")[0] for run in runs if _exists(run) for teacher in run.teachers}
    return sorted(runs, key=lambda run: not (_exists(run) and run.identity in teaching))


def _exists(run: Run) -> bool:
    return (run.path / "config.json").is_file()


def _rows(run: Run, labels: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run: each evaluation, and the worst case of those made on the same images."""
    label = {"run": run.path.name, "suite_name": labels.get(run.path.name, "")}
    if not _exists(run):
        yield label | {"status": "missing"}
        return
    about = label | _about(run) | {"teachers": " + ".join(_called(teacher, labels) for teacher in run.teachers)}
    found = [(checkpoint, verdicts) for checkpoint, _, verdicts in evaluations(run)]
    for checkpoint, verdicts in found:
        yield about | _measured(run, checkpoint, verdicts, str(about["status"]))
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in found):
        yield from (about | row for row in _worst(run, checkpoint, [v for name, v in found if name == checkpoint]))
    if not found:
        yield about | {"status": about["status"] if about["status"] != "done" else "missing"}


def _called(teacher: Teacher, labels: Mapping[str, str]) -> str:
    """Return a teacher's name in the suite, or what the user typed without the folders."""
    weights = Path(teacher.weights)
    return labels.get(weights.parent.name) or Path(teacher.source).name


def _about(run: Run) -> dict[str, Any]:
    """Return the columns that all rows of a run share."""
    recipe, done, known = run.recipe, run.done or {}, environment(run)
    seconds = training_seconds(run)
    images = done.get("images") or sum(row.get("images", 0) for row in run.metrics)
    identities = [teacher.identity for teacher in run.teachers]
    return {
        "recipe": recipe.name,
        "family": recipe.family,
        "method": recipe.method["name"],
        "dataset": recipe.data.name,
        "student": recipe.student,
        "seed": recipe.seed,
        "setting": recipe.model_copy(update={"seed": 0}).identity(identities)[:8],
        "selection": recipe.selection.by,
        "images_per_second": images / seconds if images and seconds else None,
        "hours": seconds / 3600 if seconds else None,
        "device_kind": done.get("device") or known.get("device", ""),
        "ardbench": known.get("ardbench", ""),
        "torch": known.get("torch", ""),
        "git_sha": known.get("git_sha", ""),
        "git_dirty": known.get("git_dirty"),
        "status": "stale" if run.stale else "done" if done else "partial",
    }


def _measured(run: Run, checkpoint: str, verdicts: Verdicts, status: str) -> dict[str, Any]:
    """Return the columns of one evaluation."""
    present = of_present_weights(run, checkpoint, verdicts)
    notes = verdicts.notes if present else [*verdicts.notes, "measured on weights that the run no longer has."]
    about = {
        "checkpoint": checkpoint,
        "protocol": verdicts.protocol,
        "protocol_version": verdicts.version,
        "norm": verdicts.threat["norm"],
        "eps": verdicts.threat["eps"],
        "total": verdicts.total,
        "subset": verdicts.n < verdicts.total,
        "notes": " | ".join(notes),
        "status": status if present else "stale",
    }
    return about | _counted(verdicts.robust) | _quoted(run, checkpoint, verdicts)


def _counted(robust: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(robust), len(robust))
    return {"value": sum(robust) / len(robust), "n": len(robust), "low": low, "high": high}


def _worst(run: Run, checkpoint: str, several: Sequence[Verdicts]) -> Iterator[dict[str, Any]]:
    """Yield the columns of worst cases, each over all attacks on the same images under the same threat."""
    alike: dict[tuple[Any, ...], list[Verdicts]] = {}
    for verdicts in several:
        if verdicts.protocol != "clean" and of_present_weights(run, checkpoint, verdicts):
            key = (verdicts.threat["norm"], verdicts.threat["eps"], tuple(verdicts.index), tuple(verdicts.labels))
            alike.setdefault(key, []).append(verdicts)
    for (norm, eps, *_), group in alike.items():
        if len(group) > 1:
            n, total = group[0].n, group[0].total
            about = {"checkpoint": checkpoint, "protocol": WORST, "protocol_version": 1, "norm": norm, "eps": eps}
            yield about | {"total": total, "subset": n < total} | _counted(worst_case(group))


def _quoted(run: Run, checkpoint: str, verdicts: Verdicts) -> dict[str, Any]:
    """Return the columns of the published number beside one evaluation, if it was made under the recipe's threat."""
    recipe = run.recipe
    if verdicts.protocol != "clean" and verdicts.threat != recipe.evaluation.model_dump(mode="json"):
        return {}
    number = published_number(recipe.published, recipe.student, recipe.data.name, checkpoint, verdicts.protocol)
    if number is None:
        return {}
    return {
        "published": number.value,
        "published_checkpoint": number.checkpoint,
        "published_kind": number.kind,
        "published_paper": number.paper,
    }
