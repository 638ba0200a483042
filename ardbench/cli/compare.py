"""`ardbench compare`: whether one run is better than another, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, table
from ardbench.cli.planning import planned
from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    from ardbench.evaluation.verdicts import Verdicts
    from ardbench.reports.compare import Difference
    from ardbench.runs import Run

COLUMNS = ("protocol", "n", "A %", "B %", "A - B", "95 % interval", "only A", "only B", "p")


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--protocol", metavar="NAME", help="What the sentence is about; without it the strictest that both have.")
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best", "averaged"]),
    help="Which checkpoint of both; without it the selected one, or the last where nothing selects.",
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
    from ardbench.reports.compare import compare as compared
    from ardbench.reports.results import protocol_order, threat_name

    sides = [_side(text, checkpoint, runs) for text in (a, b)]
    alike = {(name, count) for name, count in sides[0].found.keys() & sides[1].found.keys() if n in (None, count)}
    shared = protocol_order(name for name, _ in alike)
    if not shared:
        raise ArdbenchError(
            f"{a} and {b} have no evaluation of one protocol on as many images: evaluate both alike with ardbench eval."
        )
    if protocol and protocol not in shared:
        raise unknown(f"protocol that both {a} and {b} have:", protocol, shared)
    differences = {}
    for name in shared:
        largest = max(count for other, count in alike if other == name)
        first, second = (side.found[name, largest] for side in sides)
        differences[name] = compared(first, second, threat_name(**first[0].threat))
    chosen = protocol or min(shared, key=lambda name: differences[name].a + differences[name].b)
    output = Output(as_json)
    output.line(differences[chosen].sentence(sides[0].name, sides[1].name))
    output.line("\n".join(f"{letter}: {side.about}" for letter, side in zip("AB", sides, strict=True)))
    output.show(table(COLUMNS, [_row(one) for one in differences.values()], COLUMNS[1:]))
    documents = [one.document() for one in differences.values()]
    output.document({"a": sides[0].about, "b": sides[1].about, "about": chosen, "differences": documents})


@dataclass(frozen=True)
class Side:
    """One of the two: its short name, what it is in whole, and its evaluations by (protocol, n), one a seed."""

    name: str
    about: str
    found: dict[tuple[str, int], list[Verdicts]]


def _side(text: str, checkpoint: str | None, root: Path) -> Side:
    """Return what was measured of a run, or of a suite's run over its seeds."""
    from ardbench.runs import Run

    suite, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return _of_runs(Path(text).name, [Run.open(Path(text))], checkpoint)
    _, cells = planned(suite, root)
    named = [cell.run for cell in cells if cell.name == name]
    if not named:
        raise unknown(f"run of suite {suite}:", name, [cell.name for cell in cells])
    return _of_runs(name, named, checkpoint)


def _of_runs(name: str, runs: Sequence[Run], checkpoint: str | None) -> Side:
    """Return the evaluations that all seeds have, of the weights that they have now."""
    from ardbench.evaluation.trust import FOR_CHECKS
    from ardbench.reports.results import evaluations
    from ardbench.suites import of_present_weights
    from ardbench.teachers import default_checkpoint

    found: dict[tuple[str, int], list[Verdicts]] = {}
    for run in runs:
        if run.done is None:
            raise ArdbenchError(f"{run.path} is not finished: type its command again to finish it first.")
        chosen = checkpoint or default_checkpoint(run.recipe)
        for where, _, verdicts in evaluations(run):
            counts = where == chosen and verdicts.protocol not in FOR_CHECKS
            if counts and of_present_weights(run, where, verdicts):
                found.setdefault((verdicts.protocol, verdicts.n), []).append(verdicts)
    about = f"{name}, {checkpoint or default_checkpoint(runs[0].recipe)}: {', '.join(run.path.name for run in runs)}"
    return Side(name, about, {key: several for key, several in found.items() if len(several) == len(runs)})


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
