"""`ardbench export`: a trained network as a folder that others can load, with its card."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output


@click.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=options.Checkpoint(),
    metavar="CHECKPOINT",
    help="Which weights, last, best, averaged or epoch-N; without it the selected ones, or the last where nothing selects.",
)
@options.in_file
@options.facts_root
@options.runs
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where to write: a new or empty folder, or an earlier export of the same checkpoint, which is renewed.",
)
def export(
    source: Path, checkpoint: str | None, model: str | None, dataset: str | None, part: str, mean: str | None,
    std: str | None, runs: Path, out: Path,
) -> None:  # fmt: skip
    """Write a network into a folder: weights, config.json, and a model card with what was measured.

    SOURCE is a finished run, RUN@CHECKPOINT, SUITE:NAME, zoo:NAME, or a file of weights as `ardbench eval` takes it, whose
    normalisation goes along. `ardbench.load(FOLDER)` in Python gives the network back.
    """
    from ardbench.subjects import Words
    from ardbench.verbs.exporting import export as write

    told = Words((checkpoint,) if checkpoint else (), model, dataset, part, mean, std, None, runs)
    output = Output(as_json=False)
    for path in write(source, out, told):
        output.line(str(path))
