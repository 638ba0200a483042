"""`ardbench.compare`: whether one network is better than another on the same images, by what was measured. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.derived import ESTIMATED
from ardbench.evaluation.extended import Extended, extended
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.statistics import holm
from ardbench.evaluation.verdicts import Verdicts
from ardbench.reports.compare import Difference, compare_extended
from ardbench.reports.compare import compare as difference_of
from ardbench.reports.evaluations import protocol_order, threat_name
from ardbench.runs import Run
from ardbench.subjects import Subject
from ardbench.verbs import texts
from ardbench.verbs.measuring import Norm
from ardbench.verbs.sides import CHECKPOINTS, Side, sides_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


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
    first, *others = compare_all(
        [a, b], protocol=protocol, checkpoint=checkpoint, n=n, eps=eps, norm=norm, dataset=dataset, runs=runs
    )
    if others:
        raise ArdbenchError(
            f"{a} and {b} stand for more than two: name a run of a suite as SUITE:NAME, or take compare_all."
        )
    return first


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
    students: str | Sequence[str] = (),
) -> list[Comparison]:
    """Return the comparison of every pair, in order; p-values of one protocol are corrected for the pairs (Holm).

    Args:
        several: two or more; a suite stands for all of its runs that are measured. Everything else is as in `compare`.
        students: architectures; () takes the networks of all.
    """
    sides = sides_of(several, Path(runs), dataset, norm, eps, texts(students))
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


def ranking(found: Sequence[Comparison]) -> pd.DataFrame:
    """Return every difference between several networks in one table, empty where the pairs are about several protocols.

    Args:
        found: of `compare_all`.

    Returns:
        From the best to the worst by name, in texts: accuracy in %, and points above each of the worse, * where told apart.
    """
    import pandas as pd

    if len({(one.about, one.checkpoint, one.main.n) for one in found}) > 1:
        return pd.DataFrame()
    values: dict[str, tuple[float, str]] = {}
    gaps: dict[frozenset[str], str] = {}
    for one in found:
        names = one.a.name, one.b.name
        values |= zip(names, zip((one.main.a, one.main.b), one.main.accuracies, strict=True), strict=True)
        gaps[frozenset(names)] = f"+{100 * abs(one.difference):.1f}{'*' if one.main.told_apart else ''}"
    best, *others = sorted(values, key=lambda name: -values[name][0])
    rows = {
        name: [values[name][1], *[""] * place, *(gaps[frozenset((name, other))] for other in others[place:])]
        for place, name in enumerate([best, *others])
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["%", *others])


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
