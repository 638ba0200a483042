"""What a reader must know to read a table: one sentence or two each, all derived from the rows themselves."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from ardbench.config import EXTRA
from ardbench.evaluation.derived import BOOTSTRAP, DERIVED, WEIGHTED, WORST, is_asked_for, parsed
from ardbench.evaluation.statistics import LIMITS
from ardbench.reports.evaluations import protocol_order, threat_name
from ardbench.reports.rows import TRUST
from ardbench.reports.worst import Behind, behind

ALIKE = ["suite_name", "setting", "status", "checkpoint", "protocol", "protocol_version", "n"]
"""What rows share that differ in nothing but the seed."""
NAMED, TOLD = 10, 3
"""Runs that a footnote names, and findings of one trust check that it tells; of more it says how many, and the CSV has all."""
SINGLE_SEED = (
    "One seed: how far seeds lie apart was not measured here, so the intervals, which are of the images alone, say "
    "nothing of what another seed would give."
)


def of_accuracies(
    rows: pd.DataFrame,
    worst: Behind | None = None,
    checked: pd.DataFrame | None = None,
    intervals: bool = True,
    waiting: Sequence[str] = (),
) -> list[str]:
    """Return the footnotes of a table of accuracies.

    Args:
        rows: that it shows.
        worst: the attacks behind its worst cases; those of `rows` unless given.
        checked: rows of the same checkpoints, shown or not: what trust checks say holds of all; `rows` unless given.
        intervals: whether it shows them.
        waiting: what would be lines of it, were there any number.
    """
    measured = rows[rows["value"].notna()]
    if measured.empty:
        return ["Nothing has been measured yet: a blank cell is no zero.", *_sources(rows)]
    counted = measured[~measured["protocol"].map(is_asked_for)]
    notes = [
        *([] if counted.empty else _of_counted(counted, intervals)),
        *_worst(measured, behind(rows) if worst is None else worst),
        *_weighted(measured),
        *_derived(measured),
        *_selection(measured),
        *_extra(measured),
        *_subsets(measured),
        *_standing(rows),
        *_sources(rows),
        *_trees(measured),
        *_evaluations(measured),
        *_trust(measured if checked is None else checked),
    ]
    if waiting:
        notes.append(f"Planned, and without a number here so far: {', '.join(waiting)}.")
    return [*notes, "A blank cell was not measured."]


def _of_counted(rows: pd.DataFrame, intervals: bool) -> list[str]:
    """Return what there is to know of accuracies; numbers that are made of them on demand are none."""
    return [
        _numbers(rows, intervals),
        _threats(rows),
        *_versions(rows),
        *_resolution(rows),
        *_seeds(rows),
        *_winners(rows),
    ]


def of_costs(runs: pd.DataFrame) -> list[str]:
    """Return the footnotes of the table of costs."""
    notes = ["Training only, evaluation not included; mean over runs. Device-hours are wall-clock hours on one device."]
    unfinished = runs.loc[runs["status"] == "partial", "run"]
    return notes + ([f"‡ Not finished, hours so far: {_named(unfinished)}."] if len(unfinished) else [])


def separable(accuracy: float, n: int) -> float:
    """Return the difference of two accuracies near `accuracy`, on n images each, that 95 % confidence needs.

    1.96 sqrt(2 p (1 - p) / n), the two taken as independent.
    """
    return 1.96 * math.sqrt(2 * accuracy * (1 - accuracy) / n)


def _numbers(rows: pd.DataFrame, intervals: bool) -> str:
    counts = sorted({int(n) for n in rows["n"]})
    widest = 100 * float((rows["high"] - rows["low"]).max())
    told = (
        "[low, high] is the 95 % Wilson interval of the n images"
        if intervals
        else f"the 95 % intervals of the n images, not shown, are at most {widest:.1f} points wide"
    )
    text = f"Accuracy in %, n = {' or '.join(map(str, counts))} test images; {told}"
    return f"{text}; a ± b (k) is the mean and the standard deviation over k seeds." if _several(rows) else f"{text}."


def _threats(rows: pd.DataFrame) -> str:
    attacked = rows[rows["protocol"] != "clean"]
    threats = sorted({threat_name(norm, eps) for norm, eps in zip(attacked["norm"], attacked["eps"], strict=True)})
    text = f"Threat: {'; '.join(threats)}. " if threats else ""
    versions = [
        f"{name} {' and '.join(_versions_of(rows, name))}"
        for name in protocol_order(rows["protocol"])
        if name not in (WEIGHTED, WORST)
    ]
    return f"{text}Protocol versions: {', '.join(versions)}."


def _versions_of(rows: pd.DataFrame, protocol: str) -> list[str]:
    return [
        str(version) for version in sorted({int(v) for v in rows.loc[rows["protocol"] == protocol, "protocol_version"]})
    ]


def _versions(rows: pd.DataFrame) -> list[str]:
    mixed = sorted(name for name in set(rows["protocol"]) if len(_versions_of(rows, name)) > 1)
    return [f"Measured by several versions of {name}: its column compares unlike with unlike." for name in mixed]


def _resolution(rows: pd.DataFrame) -> list[str]:
    """Say for each n what it cannot tell apart, at the median accuracy of the cells that have it."""
    notes = []
    for n in sorted({int(n) for n in rows["n"]}):
        median = float(rows.loc[rows["n"] == n, "value"].median())
        gap = 100 * separable(median, n)
        if gap > 0:
            notes.append(
                f"n = {n}: two accuracies closer than {gap:.1f} points cannot be told apart "
                f"(1.96 sqrt(2 p (1 - p) / n) at the median p = {100 * median:.1f} %, taken as independent; a paired "
                "test on the same images may tell more)."
            )
    return notes


def _several(rows: pd.DataFrame) -> bool:
    return bool((_seeds_of_cells(rows) > 1).any())


def _seeds(rows: pd.DataFrame) -> list[str]:
    """Say what single seeds cannot tell, by the deviations between seeds that the table itself has, where it has any."""
    if not (_seeds_of_cells(rows) == 1).any():
        return []
    attacks = [name for name in protocol_order(rows["protocol"]) if name not in (WEIGHTED, WORST)]
    for name in ["aa"] * ("aa" in attacks) + attacks[::-1]:
        deviations = 100 * rows[rows["protocol"] == name].groupby(ALIKE)["value"].std().dropna()
        if not deviations.empty:
            gap = 1.96 * math.sqrt(2) * float(deviations.median())
            return [
                f"One seed where no ± stands. Between the seeds of the others the standard deviation of {name} is "
                f"{_range(deviations)} points: two single runs closer than {gap:.1f} points (1.96 sqrt(2) s at the median s) "
                "cannot be told apart over seeds."
            ]
    return [SINGLE_SEED]


def _seeds_of_cells(rows: pd.DataFrame) -> pd.Series[int]:
    """Return how many seeds were measured alike, for everything that may become a cell."""
    return rows.groupby(ALIKE)["seed"].nunique()


def _winners(rows: pd.DataFrame) -> list[str]:
    if rows.groupby(["suite_name", "setting"]).ngroups < 2:
        return []
    found = rows["winner"].fillna(False).astype(bool).any()
    return [
        f"{'Bold:' if found else 'Nothing is bold: no number is'} better than every other run of the same architecture and "
        "checkpoint in its column, by McNemar's exact test on the same images (over several seeds Welch's), Holm-corrected "
        f"to a family-wise error of {100 * LIMITS.significant:g} %."
    ]


def _range(values: pd.Series[float]) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low} to {high}"


def _worst(rows: pd.DataFrame, worst: Behind) -> list[str]:
    if not (rows["protocol"] == WORST).any():
        return []
    shown = set(rows["protocol"])
    whole = not worst.others and shown >= worst.common
    attacks = "the table's attacks" if whole else ", ".join(protocol_order(worst.common))
    text = f"{WORST}: an image counts only if none of {attacks} fooled the network; blank where one is missing."
    if worst.others:
        text += f" Left out, for most runs lack it: {', '.join(sorted(worst.others))}."
    over = {run: attacks for (run, _), attacks in worst.over_more.items() if run in set(rows["run"])}
    if more := [f"{run} ({', '.join(sorted(attacks))})" for run, attacks in over.items()]:
        text += f" ¶ Over further attacks, so it can only be lower: {_named(more)}."
    return [text]


def _weighted(rows: pd.DataFrame) -> list[str]:
    if not (rows["protocol"] == WEIGHTED).any():
        return []
    return [
        f"{WEIGHTED}: (clean + aa) / 2 on the same images; its interval is Newcombe's for paired shares. It is never bold."
    ]


def _derived(rows: pd.DataFrame) -> list[str]:
    """Say what each number is that was asked for besides, and what the intervals are."""
    asked = [(name, *parsed(name)) for name in protocol_order(rows["protocol"]) if is_asked_for(name)]
    notes = [f"{column}: {DERIVED[name].note.format(of=of)}" for column, name, of in asked]
    drawn = [column for column, name, _ in asked if name in BOOTSTRAP]
    if drawn:
        how = f"95 % percentile bootstraps, {LIMITS.bootstrap.draws:,} draws from seed {LIMITS.bootstrap.seed}"
        notes.append(f"Intervals of {', '.join(drawn)}: {how}. What is derived so is never bold.")
    return notes


def _selection(rows: pd.DataFrame) -> list[str]:
    notes = []
    best = rows[rows["checkpoint"] == "best"]
    by = best["selection"]
    if by.str.startswith("best-val").any():
        notes.append(
            "best: the epoch with the highest robust accuracy on validation images held out of the training set."
        )
    if weighted := set(best.loc[by.str.endswith("(weighted)"), "run"]):
        notes.append(f"best, by the mean of robust and clean accuracy: {_named(weighted)}.")
    if by.str.startswith("best-test").any():
        notes.append(
            "best (by test!): the epoch was chosen on the test set itself, so its accuracy is flattered; it is there "
            "only to reproduce published numbers."
        )
    return notes


def _subsets(rows: pd.DataFrame) -> list[str]:
    part = rows[rows["subset"].astype(bool)]
    sizes = sorted({(int(n), int(total)) for n, total in zip(part["n"], part["total"], strict=True)})
    return [f"† Measured on {n} of the {total} test images." for n, total in sizes]


def _standing(rows: pd.DataFrame) -> list[str]:
    notes = []
    partial, stale = (rows.loc[rows["status"] == status, "run"] for status in ("partial", "stale"))
    if len(partial):
        notes.append(f"‡ Training is not finished: {_named(partial)}.")
    if len(stale):
        notes.append(f"‡ Stale, a teacher or the weights have changed since: {_named(stale)}; train or evaluate again.")
    return notes


def _named(runs: Iterable[str]) -> str:
    """Return the names of runs, of many the first."""
    names = sorted(set(runs))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _sources(rows: pd.DataFrame) -> list[str]:
    quoted = rows[rows["published"].notna()]
    if quoted.empty:
        return []
    notes = [
        "Published numbers are quoted, never measured here, and hold under their own authors' teacher, threat and "
        "attacks: (paper) read in the paper named, (re-run) run again by the work named, (second-hand) as others quote "
        "it. Teacher and checkpoint are given where they are known."
    ]
    judged = quoted[quoted["verdict"] != ""]
    if not judged.empty:
        notes.append(
            "Beside a published number: match, what was measured here lies within "
            f"{100 * LIMITS.published.match:g} points of it; within noise, within the tolerance ± "
            f"2 sqrt(p (1 - p) / n + s^2 (1 + 1/k)), here {_range(100 * judged['tolerance'])} points; off, farther away. "
            "p was measured over k seeds on n images; s is the standard deviation between the seeds."
        )
        if judged["assumed"].any():
            notes.append(
                f"§ s is assumed, {100 * LIMITS.published.deviation:g} points: fewer than {LIMITS.published.seeds} seeds "
                "were measured."
            )
    unnamed = sorted(set(quoted.loc[quoted["published_method"] != quoted["method"], "published_method"]))
    return notes + [f"published as {name}: which of its variants was run is not stated." for name in unnamed]


def _extra(rows: pd.DataFrame) -> list[str]:
    """Say what a row is that trained with more than the data set."""
    if not rows["method"].str.split("+").str[-1].eq(EXTRA).any():
        return []
    return [
        "+ extra data: a share of each training batch were images besides the data set's, another setting than the others'; "
        "the provenance names them."
    ]


def _trees(rows: pd.DataFrame) -> list[str]:
    dirty = rows.loc[rows["git_dirty"].fillna(False).astype(bool), "run"]
    return [f"Trained from a source tree with uncommitted changes: {_named(dirty)}."] if len(dirty) else []


def _evaluations(rows: pd.DataFrame) -> list[str]:
    """Return what the evaluations remarked, with the protocols that did; of notes that differ in numbers the first."""
    said: dict[str, tuple[set[str], dict[str, None]]] = {}
    for protocol, text in zip(rows["protocol"], rows["notes"], strict=True):
        for note in filter(None, text.split(" | ")):
            if not note.startswith(TRUST):
                protocols, notes = said.setdefault(re.sub(r"\d+", "", note), (set(), {}))
                protocols.add(protocol)
                notes[note] = None
    return [
        f"{', '.join(sorted(protocols))}: {next(iter(notes))}" + _more(len(notes) - 1, "alike, with other numbers")
        for protocols, notes in said.values()
    ]


def _more(number: int, what: str) -> str:
    """Return the sentence that ends a footnote which does not tell all."""
    return f" And {number} {what}: see the notes in the CSV." if number > 0 else ""


def _trust(rows: pd.DataFrame) -> list[str]:
    """Return how often each trust check was made and passed, and the signs of a failed attack that were found."""
    made, passed = 0, {"ok": Counter[str](), "unchecked": Counter[str]()}
    signs: dict[str, list[str]] = {}
    for run, checkpoint, text in zip(rows["run"], rows["checkpoint"], rows["notes"], strict=True):
        notes = [note.removeprefix(TRUST) for note in text.split(" | ") if note.startswith(TRUST)]
        made += bool(notes)
        for note in notes:
            level, _, said = note.partition(": ")
            if level in passed:
                passed[level].update(said.removesuffix(".").split(", "))
            else:
                signs.setdefault(level, []).append(f"{run} ({checkpoint}): {said}")
    counts = [
        f" {level}: {', '.join(f'{check} ({times})' for check, times in checks.items())}."
        for level, checks in passed.items()
        if checks
    ]
    told = [f"Trust checks, made {made} time{'s' * (made > 1)}.{''.join(counts)}"] if made else []
    for level, found in sorted(signs.items(), reverse=True):  # warnings before notes
        told.append(f"Trust checks, {level}: {' '.join(found[:TOLD])}" + _more(len(found) - TOLD, "more"))
    return told
