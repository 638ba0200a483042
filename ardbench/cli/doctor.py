"""`ardbench doctor`: what this installation and machine are, for a bug report."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, console
from ardbench.listeners.drawn import table


@click.command()
@options.data_root
@options.runs
@options.as_json
def doctor(data_root: Path | None, runs: Path, as_json: bool) -> None:
    """Tell versions, hardware, precisions, room, data sets and where their images lie, to be pasted into a bug report.

    Piped or redirected it is Markdown. The home folder is written as ~, and names of the user and of the machine as
    USER and HOST.
    """
    from ardbench.verbs.machine import described

    sections = described(data_root, runs)
    output = Output(as_json)
    for title, facts in sections.items():
        if console(err=as_json).is_terminal:
            output.show(table([title, ""], list(facts.items())))
        else:
            output.line(f"### {title}\n")
            output.line("\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n")
    output.document(sections)
