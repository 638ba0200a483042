"""`ardbench identify`: which architecture and which normalisation a file of weights is of, and the line to measure it."""

from __future__ import annotations

import shlex
from pathlib import Path

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.listeners.drawn import table
from ardbench.verbs import IMAGES

ROWS = 8


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dataset", metavar="NAME", required=True, help="The data set that the network was trained on.")
@click.option(
    "--part", default="", metavar="PART", help="Of a file that holds several networks: which, such as ema or student."
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    help=f"Look at so many test images, class-balanced; without it {IMAGES}, or all where there are fewer.",
)
@options.device
@options.data_root
@options.quiet
@options.as_json
def identify(
    file: Path, dataset: str, part: str, n: int | None, device: str, data_root: Path | None, quiet: bool, as_json: bool
) -> None:
    """Find out which architecture a file of weights is of, and by what its inputs are normalised.

    Every architecture that its names and shapes fit is tried with the usual normalisations: none, the file's, the data
    set's, 0.5, ImageNet's, pixels up to 255. Right are those with which BatchNorms see what they remember of training and
    images are classified correctly. The `ardbench eval` line to type follows.
    """
    from ardbench.listeners.screen import shown
    from ardbench.verbs.identifying import identify as found_of

    output = Output(as_json)
    with output.working(), shown(quiet) as progress:
        found = found_of(file, dataset, part=part, n=n, device=device, data_root=data_root, progress=progress)
    columns = ["architecture", "normalisation", "clean %", "running statistics"]
    rows = [
        (one.model, one.label, f"{100 * one.clean:.2f}", "no BatchNorm" if one.gap is None else f"{one.gap:.2g}")
        for one in found.candidates[:ROWS]
    ]
    output.show(table(columns, rows, columns[2:]))
    if len(found.candidates) > ROWS:
        output.line(f"... and {len(found.candidates) - ROWS} less likely ones (--json has all).")
    for text in found.says:
        output.line(text)
    words = found.line(data_root)
    following = shlex.join(words) if words else None
    if following:
        output.line(f"Next: {following}")
    output.document(found.document() | {"next": following})
