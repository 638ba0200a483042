"""The tidy results: a row per run, checkpoint and protocol, and a row per published number beside. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from ardbench import data
from ardbench.campaigns.suites import Cell, of_present_weights
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.derived import WEIGHTED, WORST, numbers
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.statistics import paired_interval, wilson
from ardbench.evaluation.verdicts import Verdicts, file_name, load_verdicts, worst_case
from ardbench.reports import judging
from ardbench.reports.published import Number, published_beside
from ardbench.reports.settings import cells_of, settings_of, teachers_in_words
from ardbench.runs import Run, is_checkpoint, remembered
from ardbench.untrusted import TEXT_LIMIT, read_bytes

ROBUST = "robust"
"""What a row carries besides its columns until it is judged: the answers behind its value."""
TRUST = "trust: "
"""What begins a note of the trust checks: "LEVEL, CHECK: reason", or "LEVEL: check, check." of those that say no more."""
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


def collect_suite(cells: Sequence[Cell], published: Sequence[Number] = (), derived: Sequence[str] = ()) -> pd.DataFrame:
    """Return the tidy results of a plan in its order, with a row for everything that is still to be measured.

    Raises:
        ArdbenchError: a file of a run is damaged.
    """
    rows = [
        row | {"setting": setting, "differs": words}
        for cell, (setting, words) in zip(cells, settings_of(cells), strict=True)
        for row in _rows(cell, published, derived)
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


def training_seconds(run: Run) -> float:
    """Return the seconds that a run has trained, finished or not."""
    done = run.done
    return float(done.get("seconds", 0.0)) if done else float(sum(row.get("seconds", 0.0) for row in run.metrics))


def evaluations(run: Run) -> Iterator[tuple[str, Path, Verdicts]]:
    """Yield (checkpoint, file, verdicts) of every finished evaluation, in the order of names."""
    for path in _verdict_files(run, "eval/*/*.json"):
        yield path.parent.name, path, verdicts_of(run, path)


def verdicts_of(run: Run, path: Path) -> Verdicts:
    """Return the verdicts in one of a run's files.

    Raises:
        ArdbenchError: the file is damaged, or names classes that the run's data set has not.
    """
    verdicts, classes = _known_verdicts(path), data.info(run.recipe.data.name).num_classes
    if verdicts.classes > classes:
        raise ArdbenchError(f"{path} holds verdicts on more than {classes} classes; delete it to measure again.")
    return verdicts


def _verdict_files(run: Run, pattern: str) -> Iterator[Path]:
    """Yield the files of finished evaluations of checkpoints that a run can have, in the order of names."""
    for path in sorted(run.path.glob(pattern)):
        known = is_checkpoint(path.parent.name)
        if known and not path.name.endswith(".state.json") and not trust.is_trust(path):
            yield path


_known_verdicts = remembered(load_verdicts)


MEASURED, JUDGED = ("protocol_version", "n", "total", "low", "high", "subset"), ("assumed", "tolerance")
"""Columns that are filled beside a value, and beside a verdict."""
LATER = ("differs",)
"""Columns that results written before they came have not."""
LARGEST = 1e9
"""No number in a table of results comes near it."""
Points = list[tuple[float, float, float, float]]
"""(eps, accuracy, low, high)."""


def sweeps(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, Points]]:
    """Return accuracy against eps by (protocol, norm) and then by checkpoint, where two or more eps were measured.

    All points of a line are of the same images: those measured at the most eps, of equals the most images. Evaluations in
    eval-other count as well; the clean accuracy of these images stands at eps = 0.
    """
    found: dict[tuple[str, str], dict[str, Points]] = {}
    for run in runs:
        lines: dict[tuple[str, str, str], dict[tuple[int, ...], dict[float, Verdicts]]] = {}
        for checkpoint, verdicts in _at_any_eps(run):
            protocol, norm, eps = verdicts.protocol, verdicts.threat["norm"], verdicts.threat["eps"]
            place = ("clean", "", checkpoint) if protocol == "clean" else (protocol, norm, checkpoint)
            at = lines.setdefault(place, {}).setdefault(tuple(verdicts.index), {})
            at[0.0 if protocol == "clean" else eps] = verdicts
        for (protocol, norm, checkpoint), several in lines.items():
            index, at = max(several.items(), key=lambda one: (len(one[1]), len(one[0])))
            if len(at) > 1:
                clean = lines.get(("clean", "", checkpoint), {}).get(index, {})
                points = [(eps, one.accuracy, *one.interval) for eps, one in sorted((clean | at).items())]
                found.setdefault((protocol, norm), {})[f"{run.path.name}, {checkpoint}, n = {len(index)}"] = points
    return found


def _at_any_eps(run: Run) -> Iterator[tuple[str, Verdicts]]:
    """Yield (checkpoint, verdicts) of the present weights at the run's own threat and at others, with the attacks' seed 0."""
    for path in (*_verdict_files(run, "eval/*/*.json"), *_verdict_files(run, "eval-other/*/*/*.json")):
        verdicts = verdicts_of(run, path)
        present = of_present_weights(run, path.parent.name, verdicts)
        if present and verdicts.seed == 0 and verdicts.protocol not in trust.FOR_CHECKS:
            yield path.parent.name, verdicts


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


def _rows(cell: Cell, published: Sequence[Number], derived: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run: evaluations, what is derived from them, what is missing, what was published."""
    about, run = _about(cell), cell.run
    found = [
        (checkpoint, verdicts, of_present_weights(run, checkpoint, verdicts))
        for checkpoint, _, verdicts in evaluations(run)
        if verdicts.protocol not in trust.FOR_CHECKS
    ]
    told = set[tuple[str, int]]()
    for checkpoint, verdicts, present in found:
        row = about | _measured(checkpoint, verdicts, cell.state, present)
        if (place := (checkpoint, verdicts.n)) not in told:
            told.add(place)
            row["notes"] = " | ".join(filter(None, [row["notes"], *_trusted(run, checkpoint, verdicts)]))
        yield row
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, *_ in found):
        several = [verdicts for name, verdicts, present in found if name == checkpoint and present]
        yield from (about | {"checkpoint": checkpoint} | row for row in (*_worst(several), *_weighted(several)))
    measured = [(checkpoint, verdicts) for checkpoint, verdicts, present in found if present]
    yield from (about | row for column in derived for row in _asked_for(column, measured))
    there = {(checkpoint, verdicts.protocol) for checkpoint, verdicts, _ in found}
    wanted = [(checkpoint, name) for checkpoint, name, _ in cell.missing]
    missing = [pair for pair in wanted if pair not in there and pair[1] not in trust.FOR_CHECKS]
    blank = about | {"status": "missing" if cell.state == "done" else cell.state}
    for checkpoint, name in missing if there or missing else [("", "")]:
        yield blank | ({"checkpoint": checkpoint, "protocol": name} | _threat(cell.recipe) if name else {})
    yield from (about | row for row in _quoted(cell.recipe, {name for _, name in there.union(missing)}, published))


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
        "selection": recipe.selection.by,
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


def _trusted(run: Run, checkpoint: str, verdicts: Verdicts) -> list[str]:
    """Return the findings beside some verdicts as notes: what warns with its reason; nothing of other weights."""
    path = run.path / "eval" / checkpoint / file_name(trust.STEM, verdicts.n if verdicts.n < verdicts.total else None)
    findings, weights = trust.load(path) if path.exists() else ([], "")
    if not findings or weights != verdicts.key.get("weights"):
        return []
    said = [f"{one.level}, {one.check}: {one.reason}" for one in findings if one.level in ("warning", "note")]
    for teacher in run.teachers_checked or []:
        said += [f"warning, teacher ({teacher.role}), {reason}" for reason in teacher.warnings]
    for level in ("ok", "unchecked"):
        names = [one.check for one in findings if one.level == level]
        said += [f"{level}: {', '.join(names)}."] if names else []
    return [TRUST + one for one in said]


def _worst(several: Sequence[Verdicts]) -> Iterator[dict[str, Any]]:
    """Yield the columns of worst cases, each over all attacks on the same images under the same threat."""
    alike: dict[tuple[Any, ...], list[Verdicts]] = {}
    for verdicts in several:
        if verdicts.protocol != "clean":
            key = (verdicts.threat["norm"], verdicts.threat["eps"], tuple(verdicts.index), tuple(verdicts.labels))
            alike.setdefault(key, []).append(verdicts)
    for group in alike.values():
        if len(group) > 1:
            attacks = [verdicts.protocol for verdicts in group]
            yield _derived(WORST, group[0]) | _counted(worst_case(group), group[0], attacks)


def _weighted(several: Sequence[Verdicts]) -> Iterator[dict[str, Any]]:
    """Yield the columns of (clean + aa) / 2 = (1 + clean - (1 - aa)) / 2, whose interval is that of a paired difference."""
    cleans = [verdicts for verdicts in several if verdicts.protocol == "clean"]
    for aa in (verdicts for verdicts in several if verdicts.protocol == "aa"):
        for clean in cleans:
            if (clean.index, clean.labels) == (aa.index, aa.labels):
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


def _threat(recipe: Recipe) -> dict[str, Any]:
    return {"norm": recipe.evaluation.norm, "eps": recipe.evaluation.eps}


def _quoted(recipe: Recipe, protocols: Collection[str], own: Sequence[Number]) -> Iterator[dict[str, Any]]:
    """Yield the columns of the published numbers beside a run, under the threat that its recipe measures."""
    for number in published_beside(recipe, protocols, own):
        yield _threat(recipe) | {
            "checkpoint": number.checkpoint,
            "protocol": number.protocol,
            "published": number.value,
            "published_method": number.method,
            "published_teacher": number.teacher,
            "published_kind": number.kind,
            "published_paper": number.paper,
        }
