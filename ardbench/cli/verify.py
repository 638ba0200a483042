"""`ardbench verify`: whether runs, exports and reports are what they say, one sentence each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import DISAGREED, options
from ardbench.cli.output import Output


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--again",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure clean and pgd20 on N test images once more, where verdicts of them are kept and the data set is here.",
)
@options.device
@options.data_root
@options.runs
@options.as_json
def verify(
    paths: tuple[Path, ...], again: int | None, device: str, data_root: Path | None, runs: Path, as_json: bool
) -> None:
    """Check that runs, exported networks and reports are what they say.

    PATH is a run directory, a folder of them, an exported folder, or a report's CSV. Of a run: its name is the hash
    of its recipe and teachers, its weights and those of teachers beside it have their checksums, there is a row for
    every epoch, and every verdict, counted again, belongs to these weights. Where the data set is here, labels and
    images are held against it and kept adversarial images are classified again in fp32. Of a report: every number,
    counted again from the verdicts of the runs and other networks that it names, below --runs. A checksum does not
    tell an honest file from a forged one; --again does for what it measures.

    Exit code 1: something does not agree.
    """
    from ardbench.verbs.verifying import verified

    output, found = Output(as_json), []
    for one in verified(paths, again, device, data_root, runs):
        output.line(one.sentence)
        found.append(one)
    output.document({"subjects": [one.document() for one in found]})
    states = Counter(one.state for one in found)
    if len(found) > 1:
        unfinished = f", {states['unfinished']} not finished" if states["unfinished"] else ""
        output.line(f"{states['verified']} of {len(found)} verified{unfinished}.")
    if states["failed"]:
        raise Exit(DISAGREED)
