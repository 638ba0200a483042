"""`ardbench compare`: whether one run is better than another, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, table
from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    from ardbench.evaluation.verdicts import Verdicts
    from ardbench.reports.compare import Difference
    from ardbench.runs import Run

CHECKPOINTS = ("best", "last", "averaged")
"""Where both were measured as strictly and on as many images at several, the first of them is compared."""
COLUMNS = ("protocol", "n", "A %", "B %", "A - B", "95 % interval", "only A", "only B", "p")


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--protocol",
    metavar="NAME",
    help="What the sentence is about; without it AutoAttack, or else another attack, or else clean, on the most images that "
    "both have.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best", "averaged"]),
    help="Which checkpoint of both; without it the one where the sentence's protocol was measured, best before last.",
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    help="Compare evaluations of so many test images; without it the most that both have.",
)
@options.runs
@options.as_json
def compare(
    a: str, b: str, protocol: str | None, checkpoint: str | None, n: int | None, runs: Path, as_json: bool
) -> None:
    """Say whether A is better than B on the same test images, and by how much.

    A and B are run directories, or SUITE:NAME for a run of a suite with all of its seeds. One seed each is compared image
    by image (McNemar's exact test, bootstrap interval), several by their means (Welch).
    """
    sides = (_side(a, runs), _side(b, runs))
    where, shared = _shared(sides, protocol, checkpoint, n)
    if sides[0].runs == sides[1].runs:
        raise ArdbenchError(f"{a} and {b} are the same: name two runs, or two runs of a suite, that differ.")
    differences, refused = _differences(sides, where, shared)
    if protocol in refused or not differences:
        raise refused.get(protocol or "", next(iter(refused.values())))
    about = protocol or max(differences, key=lambda name: _standing(sides[0], where, differences[name]))
    sentence = differences[about].sentence(sides[0].name, sides[1].name)
    output = Output(as_json)
    output.line(sentence)
    for letter, side in zip("AB", sides, strict=True):
        output.line(f"{letter}: {', '.join(side.runs)} ({where})")
    output.show(table(COLUMNS, [_row(one) for one in differences.values()], COLUMNS[1:]))
    for error in refused.values():
        output.line(str(error))
    documents = [one.document() for one in differences.values()]
    names = {"a": sides[0].runs, "b": sides[1].runs, "checkpoint": where, "about": about}
    output.document(names | {"sentence": sentence, "differences": documents})


@dataclass(frozen=True)
class Side:
    """One of the two: its short name, its runs, and its evaluations by (checkpoint, protocol, n), one a seed."""

    name: str
    runs: tuple[str, ...]
    found: dict[tuple[str, str, int], list[Verdicts]]


def _side(text: str, root: Path) -> Side:
    """Return what was measured of a run, or of a suite's run over its seeds."""
    from ardbench.campaigns.suites import planned
    from ardbench.runs import Run

    suite, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return _of_runs(Path(text).name, [Run.open(Path(text))])
    _, cells = planned(suite, root)
    named = [cell.run for cell in cells if cell.name == name]
    if not named:
        raise unknown(f"run of suite {suite}:", name, [cell.name for cell in cells])
    return _of_runs(name, named)


def _of_runs(name: str, runs: Sequence[Run]) -> Side:
    """Return the evaluations that all seeds have, of the weights that they have now."""
    from ardbench.campaigns.suites import of_present_weights
    from ardbench.evaluation.trust import FOR_CHECKS
    from ardbench.reports.results import evaluations

    found: dict[tuple[str, str, int], list[Verdicts]] = {}
    for run in runs:
        if run.done is None:
            raise ArdbenchError(f"{run.path} is not finished: type its command again to finish it first.")
        for where, _, verdicts in evaluations(run):
            if verdicts.protocol not in FOR_CHECKS and of_present_weights(run, where, verdicts):
                found.setdefault((where, verdicts.protocol, verdicts.n), []).append(verdicts)
    whole = {key: several for key, several in found.items() if len(several) == len(runs)}
    return Side(name, tuple(run.path.name for run in runs), whole)


def _shared(
    sides: tuple[Side, Side], protocol: str | None, checkpoint: str | None, n: int | None
) -> tuple[str, dict[str, int]]:
    """Return the checkpoint to compare, and its protocols that both sides have with the number of images."""
    from ardbench.reports.results import protocol_order

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
        "evaluate both alike with ardbench eval."
    )


def _strictness(verdicts: Verdicts) -> int:
    """Return 2 for an ensemble of attacks, 1 for an attack, 0 for clean images."""
    from ardbench.evaluation.protocols import PROTOCOLS

    attacks = verdicts.attack.get("attacks", getattr(PROTOCOLS.get(verdicts.protocol), "attacks", ()))
    return 2 if isinstance(attacks, list | tuple) and len(attacks) > 1 else int(verdicts.protocol != "clean")


def _standing(side: Side, where: str, one: Difference) -> tuple[int, int, float]:
    """Return what the sentence's protocol is chosen by: strictness, images, and how few stay right."""
    return _strictness(side.found[where, one.protocol, one.n][0]), one.n, -(one.a + one.b)


def _differences(
    sides: tuple[Side, Side], where: str, shared: dict[str, int]
) -> tuple[dict[str, Difference], dict[str, ArdbenchError]]:
    """Return what was measured alike, and for the other protocols why it was not."""
    from ardbench.reports.compare import compare
    from ardbench.reports.results import threat_name

    differences, refused = {}, {}
    for name, count in shared.items():
        first, second = (side.found[where, name, count] for side in sides)
        try:
            differences[name] = compare(first, second, threat_name(**first[0].threat))
        except ArdbenchError as error:
            refused[name] = error
    return differences, refused


def _row(one: Difference) -> tuple[str, ...]:
    only = map(str, one.alone) if one.alone else ("", "")
    spread = (
        [f" ± {100 * s:.1f} ({k})" for s, k in zip(one.deviations, one.seeds, strict=True)]
        if one.deviations
        else ["", ""]
    )
    return (
        one.protocol, str(one.n), f"{100 * one.a:.1f}{spread[0]}", f"{100 * one.b:.1f}{spread[1]}",
        f"{100 * one.difference:+.1f}", f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]", *only, f"{one.p:.2g}",
    )  # fmt: skip
