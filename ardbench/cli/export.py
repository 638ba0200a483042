"""`ardbench export`: a trained network as a folder that others can load, with its card."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli.output import Output


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Choice(["best", "last", "averaged"]),
    help="Which weights; without it the selected ones, or the last where nothing selects.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where to write: a new or empty folder, or an earlier export of the same checkpoint, which is renewed.",
)
def export(run: Path, checkpoint: str | None, out: Path) -> None:
    """Write a finished run's network into a folder: weights, config.json, and a model card with what was measured.

    `ardbench.load(FOLDER)` in Python gives the network back.
    """
    from ardbench import subjects
    from ardbench.runs import Run, write_atomic

    source = subjects.of_run(run, (checkpoint,) if checkpoint else ())  # refuses a run before torch is loaded
    from ardbench.engine import exported
    from ardbench.exports import CONFIG, WEIGHTS
    from ardbench.reports.card import card

    found, chosen = Run.open(run), source.checkpoints[0]
    config = exported.describe(found, chosen)
    text = card(found, chosen, config)  # first: what it reads may be damaged, and then nothing is written
    exported.export(found, chosen, out)
    write_atomic(out / "README.md", text.encode())
    output = Output(as_json=False)
    for name in (WEIGHTS, CONFIG, "README.md"):
        output.line(str(out / name))
