"""`ardbench transfer`: which teachers fall for each other's adversarial examples, and which set does so least."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.listeners.drawn import table
from ardbench.listeners.log_file import Log
from ardbench.listeners.screen import shown

if TYPE_CHECKING:
    from ardbench.progress import Progress
    from ardbench.reports.transfer import Matrix

Norm = Literal["linf", "l2"]


@click.command()
@click.argument("sources", metavar="TEACHER|SUITE...", nargs=-1, required=True, shell_complete=options.complete_suite)
@click.option("--size", type=click.IntRange(min=2), default=2, show_default=True, help="Teachers in the set to choose.")
@click.option("--dataset", metavar="NAME", help="Whose test images are attacked; the first teacher's own if not given.")
@click.option("--eps", type=options.Radius(), metavar="EPS", help="The radius of the attack, such as 8/255.")
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="The norm of the attack; as with --eps, the first teacher's own if not given.",
)
@click.option("--n", type=click.IntRange(min=1), help="Attack a class-balanced subset of so many test images.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Images at a time; it decides the noise of the attack.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The seed of the attack.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write transfer.csv, transfer.md and the heat map as PNG, SVG and PDF there.",
)
@options.device
@options.data_root
@options.runs
@options.quiet
@options.log_file
@options.as_json
def transfer(
    sources: tuple[str, ...], size: int, dataset: str | None, eps: float | None, norm: Norm | None, n: int | None,
    batch: int, seed: int, out: Path | None, device: str, data_root: Path | None, runs: Path, quiet: bool,
    log_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure how adversarial examples transfer between teachers, and choose the set with the lowest mean.

    TEACHER is a source as `distill --teacher` takes it; a SUITE stands for all of its teachers. An example is crafted
    from each image that its source classifies correctly (APGD-CE, 40 steps). What was measured is kept under --runs.
    """
    from ardbench.reports.transfer import Matrix
    from ardbench.verbs.transferring import answered, ask, named

    question = ask(named(sources, runs), size, dataset, norm, eps, n, batch, seed)
    if out is not None:
        from ardbench.runs import check_makeable

        check_makeable("--out", out)
    output, log = Output(as_json), Log.to(log_file)
    found = answered(question, runs, device, data_root, lambda name: heard(name, quiet, output, log))
    matrix = Matrix(question, found, size)
    files = show(matrix, output, out and out / "transfer")
    output.document(question.document() | matrix.document() | {"files": files})


@contextlib.contextmanager
def heard(name: str, quiet: bool, output: Output, log: Log) -> Iterator[Progress]:
    """Yield the listener of a matrix, which goes by a name in the log."""
    with output.working(), shown(quiet) as screen, log.of(name, screen) as progress:
        yield progress
    log.write("finished", name)


def show(matrix: Matrix, output: Output, out: Path | None) -> list[str]:
    """Print a matrix, and write it to OUT.csv, OUT.md, OUT.png, OUT.svg and OUT.pdf; return these paths."""
    made = matrix.table()
    output.line(made.title)
    output.show(table(made.header, [[entry.text for entry in row.entries] for row in made.rows], made.header[1:]))
    for note in matrix.notes():
        output.line(note)
    files = [str(path) for path in matrix.write(out)] if out else []
    for file in files:
        output.line(file)
    return files
