"""`ardbench compare`: whether one network is better than another, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.listeners.drawn import table

if TYPE_CHECKING:
    from ardbench.reports.compare import Difference
    from ardbench.verbs.comparing import Comparison

COLUMNS = ("protocol", "n", "A %", "B %", "A - B", "95 % interval", "only A", "only B", "p")


@click.command()
@click.argument("named", metavar="A B [C...]", nargs=-1, required=True)
@click.option(
    "--protocol",
    metavar="NAME",
    help="What the sentence is about; without it AutoAttack, or else another attack, or else clean, on the most images that "
    "both have.",
)
@click.option(
    "--checkpoint",
    type=options.Checkpoint(),
    metavar="CHECKPOINT",
    help="Which checkpoint of both, last, best, averaged or epoch-N; without it the one where the sentence's protocol was "
    "measured, best before last.",
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    help="Compare evaluations of so many test images; without it the most that both have.",
)
@options.students
@options.eps
@options.norm
@options.measured_on
@options.facts_root
@options.runs
@options.as_json
def compare(
    named: tuple[str, ...], protocol: str | None, checkpoint: str | None, n: int | None, students: tuple[str, ...],
    eps: float | None, norm: Literal["linf", "l2"] | None, dataset: str | None, runs: Path, as_json: bool,
) -> None:  # fmt: skip
    """Say whether A is better than B on the same test images, and by how much; of more than two, every pair.

    A and B are run directories, RUN@CHECKPOINT, exported folders, FILE:ARCH, zoo:NAME, or SUITE:NAME for a run of a suite
    with the seeds that are measured; SUITE stands for every run of it. One seed each is compared image by image (McNemar's
    exact test, bootstrap interval), several by their means, over other seeds and other images (Welch). The p-values of
    several pairs are corrected for their number (Holm).
    """
    from ardbench.verbs.comparing import compare_all

    found = compare_all(
        named,
        protocol=protocol,
        checkpoint=checkpoint,
        n=n,
        eps=eps,
        norm=norm,
        dataset=dataset,
        runs=runs,
        students=students,
    )
    output = Output(as_json)
    if len(found) == 1:
        _show(found[0], output)
    else:
        _show_all(found, output)
    output.document(found[0].document() if len(found) == 1 else {"pairs": [one.document() for one in found]})


def _show(found: Comparison, output: Output) -> None:
    output.line(found.sentence)
    for letter, side, place in zip("AB", (found.a, found.b), found.places, strict=True):
        output.line(f"{letter}: {', '.join(side.runs)} ({place})")
    output.show(table(COLUMNS, [_row(one) for one in found.differences.values()], COLUMNS[1:]))
    for error in found.refused.values():
        output.line(str(error))


def _show_all(found: Sequence[Comparison], output: Output) -> None:
    """Print a sentence on each pair, and for all of them, if they are about one protocol, a table with the best above."""
    from ardbench.verbs.comparing import ranking

    for text in (one.sentence for one in found):
        output.line(text)
    for text in dict.fromkeys(str(error) for one in found for error in one.refused.values()):
        output.line(text)
    ranked = ranking(found)
    if len(ranked):
        main = found[0].main
        output.line(
            f"{main.protocol} at {found[0].checkpoint}, n = {main.n}: row minus column in points, * told apart."
        )
        rows = [[name, *texts] for name, texts in zip(ranked.index, ranked.values, strict=True)]
        output.show(table(["", *ranked.columns], rows, list(ranked.columns)))


def _row(one: Difference) -> tuple[str, ...]:
    only = map(str, one.alone) if one.alone else ("", "")
    return (
        one.protocol, str(one.n), *one.accuracies, f"{100 * one.difference:+.1f}",
        f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]", *only, f"{one.p:.2g}",
    )  # fmt: skip
