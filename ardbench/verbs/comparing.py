"""`ardbench.compare`: whether one network is better than another on the same images, by what was measured. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.config import Threat
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.derived import ESTIMATED
from ardbench.evaluation.extended import Extended, extended
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.statistics import holm
from ardbench.evaluation.verdicts import Verdicts
from ardbench.listeners import say
from ardbench.reports.compare import Difference, compare_extended
from ardbench.reports.compare import compare as difference_of
from ardbench.reports.evaluations import protocol_order, threat_name
from ardbench.runs import Run
from ardbench.subjects import Subject, Words, is_file, is_object
from ardbench.verbs.evaluating import subjects_of, threat_of
from ardbench.verbs.measuring import Norm

if TYPE_CHECKING:
    from torch import nn

CHECKPOINTS = ("best", "last", "averaged")
"""Where both were measured as strictly and on as many images at several, the first of them is compared."""


def compare(
    a: str | Path | Run | Subject | nn.Module | Sequence[str | Path | Run],
    b: str | Path | Run | Subject | nn.Module | Sequence[str | Path | Run],
    *,
    protocol: str | None = None,
    checkpoint: str | None = None,
    n: int | None = None,
    eps: float | None = None,
    norm: Norm | None = None,
    dataset: str | None = None,
    runs: str | Path = "runs",
) -> Comparison:
    """Return whether A is better than B, by evaluations that are there already.

    Args:
        a, b: as `ardbench.evaluate` takes them; SUITE:NAME or a list of runs stands for its seeds. One seed each is compared
            image by image (McNemar's exact test, bootstrap interval), several by their means, over seeds and images (Welch).
        protocol: what the sentence is about; None is AutoAttack, or else another attack, or else clean, on the most images
            that both have.
        checkpoint: of both; None is the one where the sentence's protocol was measured, best before last.
        n: evaluations of so many images; None is the most that both have.
        eps, norm: the threat; None is that of the first run, or else A's own.
        dataset: of files; None is that of the other side.
        runs: the folder of runs.

    Raises:
        ArdbenchError: nothing was measured of both alike, or they are the same.
    """
    return compare_all(
        [a, b], protocol=protocol, checkpoint=checkpoint, n=n, eps=eps, norm=norm, dataset=dataset, runs=runs
    )[0]


def compare_all(
    several: Sequence[Any],
    *,
    protocol: str | None = None,
    checkpoint: str | None = None,
    n: int | None = None,
    eps: float | None = None,
    norm: Norm | None = None,
    dataset: str | None = None,
    runs: str | Path = "runs",
) -> list[Comparison]:
    """Return the comparison of every pair, in order; p-values of one protocol are corrected for the pairs (Holm).

    Args:
        several: two or more; everything else is as in `compare`.
    """
    if len(several) < 2:
        raise ArdbenchError("There is nothing to compare with: name two or more.")
    sides = _sides(several, dataset, Path(runs), norm, eps)
    found = [_compared(pair, protocol, checkpoint, n) for pair in combinations(sides, 2)]
    if protocol is None and (common := set[str].intersection(*({*one.differences} - {ESTIMATED} for one in found))):
        about = max(
            common, key=lambda name: min(_standing(one.a, one.checkpoint, one.differences[name]) for one in found)
        )
        found = [replace(one, about=about) for one in found]
    for name in {name for one in found for name in one.differences}:
        having = [one for one in found if name in one.differences]
        for one, p in zip(having, holm([one.differences[name].p for one in having]), strict=True):
            one.differences[name] = replace(one.differences[name], p=p, pairs=len(having))
    return found


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


@dataclass(frozen=True)
class Comparison:
    """What is known of A against B; accuracies and differences are fractions.

    Args:
        a, b: the sides.
        checkpoint: that was compared.
        about: the protocol of the sentence.
        differences: by protocol.
        refused: protocols that were not measured alike, and why.
    """

    a: Side
    b: Side
    checkpoint: str
    about: str
    differences: dict[str, Difference]
    refused: dict[str, ArdbenchError]

    @property
    def main(self) -> Difference:
        """The difference that the sentence is about."""
        return self.differences[self.about]

    @property
    def sentence(self) -> str:
        """Which is better, by how much, and how sure that is."""
        return self.main.sentence(self.a.name, self.b.name)

    @property
    def difference(self) -> float:
        """Accuracy of A minus accuracy of B."""
        return self.main.difference

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        return self.main.low, self.main.high

    @property
    def p(self) -> float:
        """The chance of such a difference where there is none."""
        return self.main.p

    @cached_property
    def places(self) -> tuple[str, str]:
        """The checkpoints of both sides."""
        return self.a.place(self.checkpoint), self.b.place(self.checkpoint)

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        names = {"a": self.a.runs, "b": self.b.runs, "checkpoint": self.checkpoint, "about": self.about}
        return names | {"sentence": self.sentence, "differences": [one.document() for one in self.differences.values()]}


def _sides(several: Sequence[Any], dataset: str | None, root: Path, norm: Norm | None, eps: float | None) -> list[Side]:
    """Return what was measured of each; a file is measured on the data set, and all under the threat, of the first run."""
    known: dict[int, list[Subject]] = {}
    for place, one in sorted(enumerate(several), key=lambda pair: _is_file(pair[1])):
        dataset = dataset or next((subject.dataset for found in known.values() for subject in found), None)
        told = Words(dataset=dataset if _is_file(one) else None, runs=root, weights=False)
        seeds = one if isinstance(one, list | tuple) else [one]
        known[place] = [subject for seed in seeds for subject in subjects_of(seed, told)]
    subjects = [subject for place in range(len(several)) for subject in known[place]]
    own = next((subject.threat for subject in subjects if subject.run), subjects[0].threat)
    asked = threat_of(own, norm, eps) if (norm, eps) != (None, None) else None
    names = [_name(one) for one in several]
    names = [str(one) if names.count(name) > 1 else name for one, name in zip(several, names, strict=True)]
    seeds = [[(subject, _found(subject, asked, own)) for subject in known[place]] for place in range(len(several))]
    suites = {place: str(one) for place, one in enumerate(several) if _is_of_suite(one, known[place])}
    for place, typed in suites.items():
        most = max((found for _, found in seeds[place]), key=len)
        measured = {_seed(subject) for subject, found in seeds[place] if found.keys() >= most.keys()}
        seeds[place] = _cut(seeds[place], typed, "measured", measured)
    if {1} < {len(seeds[place]) for place in suites}:
        shared = set.intersection(*({_seed(subject) for subject, _ in seeds[place]} for place in suites))
        for place, typed in suites.items() if shared else ():
            seeds[place] = _cut(seeds[place], typed, "shared", shared)
    return [_side(*about) for about in zip(names, map(str, several), seeds, strict=True)]


Found = dict[tuple[str, str, int], Verdicts]
"""Evaluations of one network by (checkpoint, protocol, n)."""


def _seed(subject: Subject) -> int:
    assert subject.run is not None  # of a suite
    return subject.run.recipe.seed


def _cut(seeds: list[tuple[Subject, Found]], typed: str, how: str, kept: Set[int]) -> list[tuple[Subject, Found]]:
    """Return those of a suite's run that are kept, and say which where that are not all."""
    left = [(subject, found) for subject, found in seeds if _seed(subject) in kept]
    if len(left) < len(seeds):
        say(f"Of the {len(seeds)} seeds of {typed} those that are {how}: {' and '.join(map(str, sorted(kept)))}.")
    return left


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


def _compared(sides: tuple[Side, Side], protocol: str | None, checkpoint: str | None, n: int | None) -> Comparison:
    first, second = sides
    where, shared = _shared(sides, "aa" if protocol == ESTIMATED else protocol, checkpoint, n)
    if _same(first, second):
        raise ArdbenchError(
            f"{first.typed} and {second.typed} are the same: name two runs, or two runs of a suite, that differ."
        )
    differences, refused = _differences(sides, where, shared)
    if protocol in refused or not differences:
        raise refused.get(protocol or "", next(iter(refused.values())))
    if protocol == ESTIMATED and protocol not in differences:
        raise ArdbenchError(
            f"{first.name} and {second.name} were not both measured under aa on the same part of the images, and under another "
            "attack on more of them: compare by --protocol aa."
        )
    about = protocol or max(shared.keys() & differences, key=lambda name: _standing(first, where, differences[name]))
    return Comparison(first, second, where, about, differences, refused)


def _same(first: Side, second: Side) -> bool:
    """Return whether two sides are the same networks by name: one run at two checkpoints is not."""
    return (first.runs, first.fixed) == (second.runs, second.fixed) and [
        one.folder.resolve() for one in first.subjects
    ] == [one.folder.resolve() for one in second.subjects]


def _shared(
    sides: tuple[Side, Side], protocol: str | None, checkpoint: str | None, n: int | None
) -> tuple[str, dict[str, int]]:
    """Return the checkpoint to compare, and its protocols that both sides have with the number of images."""
    first, second = sides
    found: dict[str, dict[str, int]] = {place: {} for place in ([checkpoint] if checkpoint else CHECKPOINTS)}
    for place, name, count in sorted(first.found.keys() & second.found.keys()):
        if place in found and n in (None, count):
            found[place][name] = count  # the most images come last
    places = [place for place, names in found.items() if names and protocol in (None, *names)]
    if places:

        def most(place: str) -> tuple[int, int]:
            named = {protocol: found[place][protocol]} if protocol else found[place]
            return max((_strictness(first.found[place, name, count][0]), count) for name, count in named.items())

        where = max(places, key=most)  # of equals the first
        return where, {name: found[where][name] for name in protocol_order(found[where])}
    names = {name for protocols in found.values() for name in protocols}
    if protocol and names:
        raise unknown(f"protocol that both {first.name} and {second.name} have:", protocol, names)
    raise ArdbenchError(
        f"{first.name} and {second.name} have no evaluation of one protocol"
        f"{f' at checkpoint {checkpoint}' if checkpoint else ''} on {n or 'as many'} images: "
        f"evaluate both alike with ardbench eval{_at(sides)}."
    )


def _strictness(verdicts: Verdicts) -> int:
    """Return 2 for an ensemble of attacks, 1 for an attack, 0 for clean images."""
    attacks = verdicts.attack.get("attacks", getattr(PROTOCOLS.get(verdicts.protocol), "attacks", ()))
    return 2 if isinstance(attacks, list | tuple) and len(attacks) > 1 else int(verdicts.protocol != "clean")


def _standing(side: Side, where: str, one: Difference) -> tuple[int, int, float]:
    """Return what the sentence's protocol is chosen by: strictness, images, and how few stay right."""
    return _strictness(side.found[where, one.protocol, one.n][0]), one.n, -(one.a + one.b)


def _at(sides: tuple[Side, Side]) -> str:
    """Return the words that measure what is no run under the threat of the first run, or else of the first."""
    first, *others = sorted((one for side in sides for one in side.subjects), key=lambda one: one.run is None)
    other = next((one for one in others if not one.run and one.threat != first.threat), None)
    return f", {other.name} with --norm {first.threat.norm} --eps {first.threat.eps:.6g}" if other else ""


def _differences(
    sides: tuple[Side, Side], where: str, shared: dict[str, int]
) -> tuple[dict[str, Difference], dict[str, ArdbenchError]]:
    """Return what was measured alike, and for the other protocols why it was not."""
    differences, refused = {}, {}
    for name, count in shared.items():
        first, second = (side.found[where, name, count] for side in sides)
        try:
            differences[name] = difference_of(first, second, threat_name(**first[0].threat))
        except ArdbenchError as error:
            refused[name] = error
    a, b = (_estimates(side, where, shared) for side in sides)
    if a and b:
        try:
            differences[ESTIMATED] = compare_extended(ESTIMATED, a, b, threat_name(**a[0].part.threat))
        except ArdbenchError as error:
            refused[ESTIMATED] = error
    return differences, refused


def _estimates(side: Side, where: str, shared: dict[str, int]) -> list[Extended]:
    """Return AutoAttack on a part of the images carried to all of them, one a seed; none where it cannot be for all seeds."""
    found = []
    for several in zip(*(side.found[where, name, count] for name, count in shared.items()), strict=True):
        part = next((one for one in several if one.protocol == "aa"), None)
        found.append(extended(part, several) if part else None)
    return [one for one in found if one] if all(found) else []
