"""What verdicts tell by class: accuracies, the worst class, what is taken for what; and the gap from best to last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from ardbench.campaigns.cells import of_present_weights, state_of
from ardbench.data import info
from ardbench.evaluation.statistics import paired_interval, wilson
from ardbench.evaluation.trust import FOR_CHECKS
from ardbench.evaluation.verdicts import Verdicts
from ardbench.reports.evaluations import evaluations, protocol_order, threat_name
from ardbench.reports.settings import teachers_in_words
from ardbench.reports.tables import UNFINISHED, Entry, Row, Table
from ardbench.reports.view import WHOLE, View
from ardbench.runs import Run, checkpoint_order

ABOUT = ("run", "dataset", "checkpoint", "protocol", "protocol_version", "norm", "eps", "status")
COUNTED = ("class", "value", "n", "low", "high")
CONFUSED = ("class", "said", "count")
LABELS = ("run", "student", "teachers", "checkpoint")


@dataclass(frozen=True)
class Evaluated:
    """A run and the verdicts on its present weights, the newest version and most images of each checkpoint and protocol."""

    run: Run
    dataset: str
    state: str
    verdicts: dict[tuple[str, str], Verdicts]
    gone: int
    """Evaluations left out: of weights that the run no longer has."""

    def named(self, label: int) -> str:
        """Return the name of a class, or its number where names are read with the images."""
        names = info(self.dataset).classes
        return names[label] if names else str(label)

    def words(self, checkpoint: str, opens: bool = True) -> tuple[Entry, ...]:
        """Return the cells that say which line this is; the run is named in its first line."""
        mark = "" if self.state == "done" else f" {UNFINISHED} ({self.state})"
        teachers = teachers_in_words(self.run.teachers)
        texts = (f"{self.run.path.name}{mark}", self.run.recipe.student, teachers) if opens else ("", "", "")
        return tuple(Entry(text) for text in (*texts, checkpoint))


def read_evaluated(runs: Sequence[Run]) -> list[Evaluated]:
    """Return the runs that have been evaluated at all, with their verdicts: read once for all that is told by class."""
    found = []
    for run in runs:
        kept: dict[tuple[str, str], Verdicts] = {}
        gone = 0
        for checkpoint, _, verdicts in evaluations(run):
            if verdicts.protocol in FOR_CHECKS:
                continue
            if not of_present_weights(run, checkpoint, verdicts):
                gone += 1
                continue
            other = kept.setdefault((checkpoint, verdicts.protocol), verdicts)
            if (verdicts.version, verdicts.n) > (other.version, other.n):
                kept[checkpoint, verdicts.protocol] = verdicts
        if kept:
            found.append(Evaluated(run, run.recipe.data.name, state_of(run), kept, gone))
    return found


def accuracies_by_class(several: Sequence[Evaluated]) -> pd.DataFrame:
    """Return a row for each run, checkpoint, protocol and class; value, low and high (95 % Wilson) are fractions."""

    def counted(one: Evaluated, verdicts: Verdicts) -> Iterator[tuple[Any, ...]]:
        for label, (robust, n) in verdicts.by_class.items():
            yield one.named(label), robust / n, n, *wilson(robust, n)

    return _tidy(several, COUNTED, counted)


def confusions(several: Sequence[Evaluated]) -> pd.DataFrame:
    """Return how often an image of a class was said to be of another, under each protocol, where that happened at all."""

    def confused(one: Evaluated, verdicts: Verdicts) -> Iterator[tuple[Any, ...]]:
        for (label, said), count in sorted(verdicts.confusion.items()):
            if label != said:
                yield one.named(label), one.named(said), count

    return _tidy(several, CONFUSED, confused)


def class_tables(several: Sequence[Evaluated], view: View = WHOLE) -> list[Table]:
    """Return for each data set and threat the table "Classes" and, where best and last were measured alike, "Overfitting"."""
    found: dict[tuple[str, str], list[Evaluated]] = {}
    for one in several:
        own_threat = one.run.recipe.evaluation.model_dump(mode="json")
        own = {
            (checkpoint, protocol): verdicts
            for (checkpoint, protocol), verdicts in one.verdicts.items()
            if verdicts.threat == own_threat and view.shows(protocol, checkpoint)
        }
        if own:
            found.setdefault((one.dataset, threat_name(**own_threat)), []).append(replace(one, verdicts=own))
    made = []
    for (dataset, threat), group in found.items():
        where = f"on {dataset} ({threat})"
        made += [_classes(group, where, view.intervals), *_overfitting(group, where, view.intervals)]
    return made


def _tidy(
    several: Sequence[Evaluated],
    columns: Sequence[str],
    rows_of: Callable[[Evaluated, Verdicts], Iterator[tuple[Any, ...]]],
) -> pd.DataFrame:
    """Return the rows of every evaluation behind what it is an evaluation of."""
    rows = []
    for one in several:
        for (checkpoint, protocol), verdicts in one.verdicts.items():
            threat = verdicts.threat
            about = (
                one.run.path.name,
                one.dataset,
                checkpoint,
                protocol,
                verdicts.version,
                threat["norm"],
                threat["eps"],
            )
            rows += [(*about, one.state, *row) for row in rows_of(one, verdicts)]
    return pd.DataFrame(rows, columns=[*ABOUT, *columns])


def _classes(group: Sequence[Evaluated], where: str, intervals: bool) -> Table:
    """Return the worst class and the spread, clean and under one attack."""
    attack = _telling(group)
    shown = [name for name in ("clean", attack) if any(name == other for one in group for _, other in one.verdicts)]
    lines, used = [], []
    for one in group:
        opens = True
        for checkpoint in checkpoint_order(where for where, _ in one.verdicts):
            found = [one.verdicts.get((checkpoint, name)) for name in shown]
            if any(found):
                used += [verdicts for verdicts in found if verdicts]
                cells = [cell for verdicts in found for cell in _extremes(one, verdicts)]
                confused = [_most_confused(one, one.verdicts.get((checkpoint, attack)))] if attack else []
                lines.append(Row((*one.words(checkpoint, opens), *cells, *confused), opens=opens))
                opens = False
    header = [text for name in shown for text in (f"worst class, {name}", f"spread, {name}")]
    confusion = [f"most confused, {attack}"] if attack else []
    notes = tuple(_notes(group, used, intervals))
    return Table(f"Classes {where}", (*LABELS, *header, *confusion), 4, tuple(lines), notes)


def _telling(group: Sequence[Evaluated]) -> str:
    """Return AutoAttack where any run has it, else the attack with the lowest mean accuracy; nothing where there is none."""
    found: dict[str, list[float]] = {}
    for one in group:
        for (_, name), verdicts in one.verdicts.items():
            if name != "clean":
                found.setdefault(name, []).append(verdicts.accuracy)
    return "aa" if "aa" in found else min(found, key=lambda name: fmean(found[name]), default="")


def _extremes(one: Evaluated, verdicts: Verdicts | None) -> tuple[Entry, Entry]:
    """Return the worst class with its accuracy, and by how many points the best class is above it."""
    if verdicts is None:
        return Entry(), Entry()
    counts = verdicts.by_class
    shares = {label: robust / n for label, (robust, n) in counts.items()}
    lowest, highest = min(shares.values()), max(shares.values())
    worst, *others = [label for label, share in shares.items() if share == lowest]
    name = f"{one.named(worst)} (+{len(others)})" if others else one.named(worst)
    low, high = wilson(*counts[worst])
    return (
        Entry(f"{name} {100 * lowest:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]"),
        Entry(f"{100 * (highest - lowest):.1f}"),
    )


def _most_confused(one: Evaluated, verdicts: Verdicts | None) -> Entry:
    """Return the class that most often is said to be one other, with how often."""
    wrong = {pair: count for pair, count in (verdicts.confusion if verdicts else {}).items() if pair[0] != pair[1]}
    if verdicts is None or not wrong:
        return Entry()
    label, said = min(wrong, key=lambda pair: (-wrong[pair], pair))
    return Entry(f"{one.named(label)} as {one.named(said)}", f"({wrong[label, said]} of {verdicts.by_class[label][1]})")


def _notes(group: Sequence[Evaluated], used: Sequence[Verdicts], intervals: bool) -> list[str]:
    counts = {robust_of for verdicts in used for robust_of in verdicts.by_class.values()}
    sizes = sorted({n for _, n in counts})
    widest = 100 * max(high - low for low, high in (wilson(robust, n) for robust, n in counts))
    a_class = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    told = "[low, high] is the 95 % Wilson interval, here" if intervals else "the 95 % Wilson intervals, not shown, are"
    return [
        f"Accuracy in % of each class alone, n = {a_class} images a class; {told} at "
        f"most {widest:.1f} points wide. Chance makes the worst of several classes look worse than it is.",
        "(+k): k other classes are as low. spread: the best class minus the worst, in points. most confused: the class "
        "that most often is taken for one other, and how often.",
        *_standing(group),
    ]


def _standing(group: Sequence[Evaluated]) -> list[str]:
    unfinished = any(one.state != "done" for one in group)
    gone = sum(one.gone for one in group)
    return [
        *([f"{UNFINISHED} Training is not finished, or a teacher has changed since."] if unfinished else []),
        *([f"Left out, for their run has other weights now: {gone} evaluation{'s' * (gone > 1)}."] if gone else []),
    ]


def _overfitting(group: Sequence[Evaluated], where: str, intervals: bool) -> list[Table]:
    """Return the table of best minus last, or none where no run has both on the same images."""
    gaps = [(one, found) for one in group if (found := _gaps(one))]
    if not gaps:
        return []
    protocols = protocol_order(name for _, found in gaps for name in found)
    counts = sorted({one.verdicts["best", name].n for one, found in gaps for name in found})
    by_test = [one.run.recipe.selection.by == "best-test" for one, _ in gaps]
    lines = [
        Row(
            (*one.words(f"best{' (by test!)' * tested} - last"), *(found.get(name, Entry()) for name in protocols)),
            opens=True,
        )
        for (one, found), tested in zip(gaps, by_test, strict=True)
    ]
    interval = "[low, high] is the 95 % interval of the paired difference (Newcombe, 1998)"
    notes = [
        f"Accuracy of best minus that of last, in points, on the same n = {' or '.join(map(str, counts))} test images; "
        f"{interval if intervals else interval.replace('[low, high]', 'not shown')}. A gap above 0 under "
        "attack is robust overfitting, where its interval leaves out 0.",
        *(["by test!: best was chosen on the test set itself, so its gap is flattered."] if any(by_test) else []),
        *_standing([one for one, _ in gaps]),
    ]
    return [Table(f"Overfitting {where}", (*LABELS, *protocols), 4, tuple(lines), tuple(notes))]


def _gaps(one: Evaluated) -> dict[str, Entry]:
    """Return the gap under each protocol that measured best and last on the same images."""
    found = {}
    for (checkpoint, name), best in one.verdicts.items():
        last = one.verdicts.get(("last", name))
        if checkpoint == "best" and last is not None and best.images == last.images:
            low, high = paired_interval(best.robust, last.robust)
            gap = 100 * (best.accuracy - last.accuracy)
            found[name] = Entry(f"{gap:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]")
    return found
