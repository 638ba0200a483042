"""The rows of a run, or of a network that is none, in the tidy results. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ardbench.campaigns.cells import Cell, of_present_weights
from ardbench.config import Threat
from ardbench.evaluation import trust
from ardbench.evaluation.derived import WEIGHTED, WORST, numbers
from ardbench.evaluation.statistics import paired_interval, wilson
from ardbench.evaluation.verdicts import Verdicts, file_name, paired, shared, worst_case
from ardbench.reports import judging
from ardbench.reports.evaluations import evaluations, training_seconds
from ardbench.reports.published import Number, published_beside
from ardbench.reports.published import numbers as bundled_numbers
from ardbench.reports.settings import teachers_in_words

ROBUST = "robust"
"""What a row carries besides its columns until it is judged: the answers behind its value."""
TRUST = "trust: "
"""What begins a note of the trust checks: "LEVEL, CHECK: reason", or "LEVEL: check, check." of those that say no more."""


@dataclass(frozen=True)
class Other:
    """A network that is no run, and what was measured of it.

    Args:
        name: what it is called.
        identity: of its weights.
        model, dataset: architecture and test set.
        threat: that it is measured under unless told otherwise.
        found: verdicts of seed 0, each with the folder in which it lies with its trust checks.
        method, student: under which published numbers stand beside it; "" for none.
    """

    name: str
    identity: str
    model: str
    dataset: str
    threat: Threat
    found: Sequence[tuple[Verdicts, Path]]
    method: str = ""
    student: str = ""


def rows_of(cell: Cell, published: Sequence[Number], derived: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run: evaluations, what is derived from them, what is missing, what was published."""
    about, run = _about(cell), cell.run
    found = [
        (checkpoint, verdicts, of_present_weights(run, checkpoint, verdicts))
        for checkpoint, _, verdicts in evaluations(run)
        if verdicts.protocol not in trust.FOR_CHECKS
    ]
    eval_folder = run.path / "eval"
    by_teachers = [
        f"warning, teacher ({teacher.role}), {reason}"
        for teacher in run.teachers_checked or []
        for reason in teacher.warnings
    ]
    measured = [(checkpoint, verdicts, present, eval_folder / checkpoint) for checkpoint, verdicts, present in found]
    yield from _evaluated(about, measured, derived, by_teachers)
    there = {(checkpoint, verdicts.protocol) for checkpoint, verdicts, _ in found}
    wanted = [(checkpoint, name) for checkpoint, name, _ in cell.missing]
    missing = [pair for pair in wanted if pair not in there and pair[1] not in trust.FOR_CHECKS]
    blank = about | {"status": "missing" if cell.state == "done" else cell.state}
    for checkpoint, name in missing if there or missing else [("", "")]:
        yield blank | ({"checkpoint": checkpoint, "protocol": name} | _threat(cell.recipe.evaluation) if name else {})
    bundled = () if cell.recipe.family == "level" else bundled_numbers()  # nobody publishes the table of a level recipe
    protocols = {name for _, name in there.union(missing)}
    words = (cell.recipe.composition, cell.recipe.student, cell.recipe.data.name, protocols, (*bundled, *published))
    yield from (about | row for row in _quoted(_threat(cell.recipe.evaluation), *words))


def rows_of_other(other: Other, published: Sequence[Number], derived: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a network that is no run, with the published numbers of what it is named as."""
    about = {
        "run": other.name,
        "suite_name": "",
        "recipe": other.name,
        "selection": "",
        "method": other.method,
        "dataset": other.dataset,
        "student": other.student or other.model,
        "status": "done",
    }
    yield from _evaluated(about, [("", one, True, folder) for one, folder in other.found], derived)
    if not other.found:
        yield about | {"status": "missing"}
    protocols = {verdicts.protocol for verdicts, _ in other.found}
    words = (other.method, other.student, other.dataset, protocols, (*bundled_numbers(), *published))
    yield from (about | row for row in _quoted(_threat(other.threat), *words))


def _evaluated(
    about: dict[str, Any],
    found: Sequence[tuple[str, Verdicts, bool, Path]],
    derived: Sequence[str],
    by_teachers: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yield rows of evaluations (checkpoint, verdicts, whether of present weights, their folder) and what follows from them."""
    told = set[tuple[str, int]]()
    for checkpoint, verdicts, present, folder in found:
        row = about | _measured(checkpoint, verdicts, about["status"], present)
        if (place := (checkpoint, verdicts.n)) not in told:
            told.add(place)
            row["notes"] = " | ".join(filter(None, [row["notes"], *_trusted(folder, verdicts, by_teachers)]))
        yield row
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, *_ in found):
        several = [verdicts for name, verdicts, present, _ in found if name == checkpoint and present]
        yield from (about | {"checkpoint": checkpoint} | row for row in (*_worst(several), *_weighted(several)))
    measured = [(checkpoint, verdicts) for checkpoint, verdicts, present, _ in found if present]
    yield from (about | row for column in derived for row in _asked_for(column, measured))


def _about(cell: Cell) -> dict[str, Any]:
    """Return the columns that all rows of a run share."""
    run, recipe = cell.run, cell.recipe
    done, known = run.done or {}, run.environment
    seconds = training_seconds(run)
    images = done.get("images") or sum(row.get("images", 0) for row in run.metrics)
    return {
        "run": run.path.name,
        "suite_name": cell.name,
        "recipe": recipe.name,
        "family": recipe.family,
        "method": recipe.composition,
        "dataset": recipe.data.name,
        "student": recipe.student,
        "teachers": teachers_in_words(cell.teachers),
        "seed": recipe.seed,
        "selection": recipe.selection.by + " (weighted)" * (recipe.selection.score == "weighted"),
        "images_per_second": images / seconds if images and seconds else None,
        "hours": seconds / 3600 if seconds else None,
        "device_kind": done.get("device") or known.get("device", ""),
        "ardbench": known.get("ardbench", ""),
        "torch": known.get("torch", ""),
        "git_sha": known.get("git_sha", ""),
        "git_dirty": known.get("git_dirty"),
        "status": cell.state,
    }


def _measured(checkpoint: str, verdicts: Verdicts, status: str, present: bool) -> dict[str, Any]:
    """Return the columns of one evaluation, of the weights that are there or of others."""
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
    return about | _counted(verdicts.robust, verdicts)


def _counted(robust: Sequence[bool], of: Verdicts, attacks: Sequence[str] = ()) -> dict[str, Any]:
    """Return the columns of a count over the images of some verdicts; over several attacks with their names."""
    low, high = wilson(sum(robust), len(robust))
    counts = {"value": sum(robust) / len(robust), "n": len(robust), "low": low, "high": high, "winner": False}
    question = hash((tuple(of.index), tuple(of.labels), tuple(attacks)))
    return counts | {ROBUST: judging.Answers(question, bytes(robust))}


def _trusted(folder: Path, verdicts: Verdicts, by_teachers: Sequence[str]) -> list[str]:
    """Return the findings beside some verdicts as notes: what warns with its reason; nothing of other weights."""
    path = folder / file_name(trust.STEM, verdicts.n if verdicts.n < verdicts.total else None)
    findings, weights = trust.load(path) if path.exists() else ([], "")
    if not findings or weights != verdicts.key.get("weights"):
        return []
    said = [f"{one.level}, {one.check}: {one.reason}" for one in findings if one.level in ("warning", "note")]
    said += by_teachers
    for level in ("ok", "unchecked"):
        names = [one.check for one in findings if one.level == level]
        said += [f"{level}: {', '.join(names)}."] if names else []
    return [TRUST + one for one in said]


def _worst(several: Sequence[Verdicts]) -> Iterator[dict[str, Any]]:
    """Yield the columns of worst cases under the same threat: on n images over every attack on as many or more of them."""
    threats: dict[tuple[Any, ...], list[Verdicts]] = {}
    for verdicts in several:
        if verdicts.protocol != "clean":
            threats.setdefault((verdicts.threat["norm"], verdicts.threat["eps"]), []).append(verdicts)
    for attacked in threats.values():
        for n in sorted({verdicts.n for verdicts in attacked}, reverse=True):
            over: dict[str, Verdicts] = {}  # by attack, the one on the fewest of them
            for verdicts in sorted(attacked, key=lambda one: one.n):
                if verdicts.n >= n:
                    over.setdefault(verdicts.protocol, verdicts)
            first = next(iter(over.values()))
            pairs = [shared(first, other) for other in over.values()]
            group = [pair[1] for pair in pairs if pair]
            if len(over) == len(group) > 1:
                yield _derived(WORST, group[0]) | _counted(worst_case(group), group[0], list(over))


def _weighted(several: Sequence[Verdicts]) -> Iterator[dict[str, Any]]:
    """Yield the columns of (clean + aa) / 2 = (1 + clean - (1 - aa)) / 2, whose interval is that of a paired difference."""
    cleans, robust = ([one for one in several if one.protocol == protocol] for protocol in ("clean", "aa"))
    for clean, aa in paired(cleans, robust):
        low, high = paired_interval(clean.robust, [not robust for robust in aa.robust])
        about = {"value": (clean.accuracy + aa.accuracy) / 2, "n": aa.n}
        yield _derived(WEIGHTED, aa) | about | {"low": (1 + low) / 2, "high": (1 + high) / 2}


def _asked_for(column: str, measured: Sequence[tuple[str, Verdicts]]) -> Iterator[dict[str, Any]]:
    """Yield the columns of a derived number that was asked for, of each checkpoint that has it."""
    for checkpoint, of, (value, low, high) in numbers(column, measured):
        about = {"checkpoint": checkpoint, "value": value, "n": of.n, "low": low, "high": high}
        yield _derived(column, of) | about


def _derived(protocol: str, of: Verdicts) -> dict[str, Any]:
    """Return the columns that a derived number shares with one that it is derived from."""
    about = {"protocol": protocol, "protocol_version": 1, "norm": of.threat["norm"], "eps": of.threat["eps"]}
    return about | {"total": of.total, "subset": of.n < of.total}


def _threat(threat: Threat) -> dict[str, Any]:
    return {"norm": threat.norm, "eps": threat.eps}


def _quoted(threat: dict[str, Any], *of: Any) -> Iterator[dict[str, Any]]:
    """Yield the columns of published numbers under the threat that stands there; `of` as in `published_beside`."""
    for number in published_beside(*of):
        yield threat | {
            "checkpoint": number.checkpoint,
            "protocol": number.protocol,
            "published": number.value,
            "published_method": number.method,
            "published_teacher": number.teacher,
            "published_kind": number.kind,
            "published_paper": number.paper,
        }
