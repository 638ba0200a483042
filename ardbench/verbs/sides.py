"""What is compared: networks by name, of a suite those that are there, and what was measured of them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ardbench.config import Threat
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.verdicts import Verdicts
from ardbench.listeners import say
from ardbench.subjects import Subject, Words, is_file, is_object, spread
from ardbench.verbs.evaluating import subjects_of, threat_of
from ardbench.verbs.measuring import Norm

CHECKPOINTS = ("best", "last", "averaged")
"""Where both were measured as strictly and on as many images at several, the first of them is compared."""

Found = dict[tuple[str, str, int], Verdicts]
"""Evaluations of one network by (checkpoint, protocol, n)."""


@dataclass(frozen=True)
class Side:
    """One of the compared.

    Args:
        name: short.
        typed: as it was named.
        subjects: one a seed.
        found: evaluations that all seeds have, by (checkpoint, protocol, n), one a seed; what has a single checkpoint stands
            under every one.
    """

    name: str
    typed: str
    subjects: tuple[Subject, ...]
    found: Mapping[tuple[str, str, int], list[Verdicts]]

    @property
    def runs(self) -> tuple[str, ...]:
        """What it is called, seed by seed."""
        return tuple(one.name for one in self.subjects)

    @property
    def fixed(self) -> str:
        """The only checkpoint that it has, or ""."""
        first = self.subjects[0]
        return first.checkpoints[0] if first.chosen and len(first.checkpoints) == 1 else ""

    def place(self, checkpoint: str) -> str:
        """Return at which of its checkpoints it is compared."""
        return self.fixed or checkpoint


def sides_of(
    several: Sequence[Any],
    root: Path,
    dataset: str | None,
    norm: Norm | None,
    eps: float | None,
    students: Sequence[str],
) -> list[Side]:
    """Return what was measured of each; a file is measured on the data set, and all under the threat, of the first run.

    Args:
        several: as in `ardbench.compare`, and suites, which stand for all of their runs.
        students: architectures; () takes all.

    Raises:
        ArdbenchError: something is not there, no network has such an architecture, or there are not two.
    """
    told = Words(runs=root, weights=False, measured=True)
    typed = [
        one for what in several for one in (spread(str(what), told, say) if isinstance(what, str | Path) else [what])
    ]
    known: dict[int, list[Subject]] = {}
    for place, one in sorted(enumerate(typed), key=lambda pair: _is_file(pair[1])):
        dataset = dataset or next((subject.dataset for found in known.values() for subject in found), None)
        words = replace(told, dataset=dataset if _is_file(one) else None)
        seeds = one if isinstance(one, list | tuple) else [one]
        known[place] = [subject for seed in seeds for subject in subjects_of(seed, words)]
    there = {found[0].model for found in known.values()}
    for name in students:
        if name not in there:
            raise unknown("student among these networks:", name, there)
    named = [
        (one, known[place]) for place, one in enumerate(typed) if not students or known[place][0].model in students
    ]
    if len(named) < 2:
        raise ArdbenchError("There is nothing to compare with: name two or more, or a suite with several runs.")
    subjects = [subject for _, found in named for subject in found]
    own = next((subject.threat for subject in subjects if subject.run), subjects[0].threat)
    asked = threat_of(own, norm, eps) if (norm, eps) != (None, None) else None
    names = [_name(one) for one, _ in named]
    return [
        _side(
            str(one) if names.count(name) > 1 else name, str(one), [(seed, _found(seed, asked, own)) for seed in found]
        )
        for name, (one, found) in zip(names, _with_shared_seeds(named), strict=True)
    ]


def _with_shared_seeds(named: Sequence[tuple[Any, list[Subject]]]) -> list[tuple[Any, list[Subject]]]:
    """Return of runs of suites the seeds that all have, where one has a single seed and another several."""
    seeds = {
        place: {_seed(one) for one in found} for place, (typed, found) in enumerate(named) if _is_of_suite(typed, found)
    }
    shared = set[int].intersection(*seeds.values()) if {1} < set(map(len, seeds.values())) else set[int]()
    cut = list(named)
    for place, there in seeds.items() if shared else ():
        typed, found = named[place]
        if there > shared:
            say(
                f"Of the {len(there)} seeds of {typed} those that are shared: {' and '.join(map(str, sorted(shared)))}."
            )
        cut[place] = typed, [one for one in found if _seed(one) in shared]
    return cut


def _seed(subject: Subject) -> int:
    assert subject.run is not None  # of a suite
    return subject.run.recipe.seed


def _is_of_suite(what: Any, subjects: Sequence[Subject]) -> bool:
    """Return whether something is SUITE:NAME, whose seeds may be under way."""
    return isinstance(what, str) and ":" in what and not Path(what).exists() and all(one.run for one in subjects)


def _is_file(what: Any) -> bool:
    """Return whether something knows no data set of its own."""
    return is_object(what) or (isinstance(what, str | Path) and is_file(what))


def _name(what: Any) -> str:
    text = str(getattr(what, "path", what))
    if isinstance(what, list | tuple):
        return ", ".join(map(_name, what))
    if is_object(what):
        return type(what).__name__
    return Path(text).name if Path(text).exists() or ":" not in text or is_file(text) else text.rpartition(":")[2]


def _found(subject: Subject, asked: Threat | None, own: Threat) -> Found:
    """Return the evaluations of the weights that a subject has now.

    Args:
        asked: the threat that was named; without it a run's is its own, and that of everything else `own`.
    """
    fixed = subject.checkpoints if subject.chosen else CHECKPOINTS
    threat = asked or (subject.threat if subject.run else own)
    return {
        (place, one.protocol, one.n): one
        for checkpoint in fixed
        for one in subject.measured(checkpoint, threat)
        for place in (CHECKPOINTS if subject.chosen else (checkpoint,))
    }


def _side(name: str, typed: str, seeds: Sequence[tuple[Subject, Found]]) -> Side:
    """Return what was named so, with the evaluations that all seeds have."""
    subjects, found = zip(*seeds, strict=True)
    shared = [key for key in found[0] if all(key in one for one in found)]
    return Side(name, typed, subjects, {key: [one[key] for one in found] for key in shared})
