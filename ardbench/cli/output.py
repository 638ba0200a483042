"""Where words go: results to stdout, the rest to stderr; with --json, one document to stdout and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ardbench.errors import printable
from ardbench.listeners.drawn import table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

UNBOUNDED = 100_000
"""Columns of a table that is piped: it is never folded for a screen that is not there."""


def console(err: bool = False) -> Console:
    """Return a console on stdout or stderr, without colours and folding unless that is a terminal."""
    from rich.console import Console

    terminal = (sys.stderr if err else sys.stdout).isatty()
    return Console(stderr=err, width=None if terminal else UNBOUNDED, highlight=False)


@contextlib.contextmanager
def speaking_once() -> Iterator[None]:
    """Let only the first of the processes that torchrun started print; what is refused, all of them say."""
    with contextlib.ExitStack() as silence:
        if int(os.environ.get("RANK", "0")):
            nowhere = silence.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def typed_again() -> str:
    """Return the command line as it was typed; of torchrun's own words, the number of processes."""
    context: click.Context = click.get_current_context()  # type: ignore[assignment]
    several = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return f"{'' if several == '1' else f'torchrun --nproc-per-node {several} -m -- '}{context.find_root().obj}"


class Output:
    """The results of one command: lines and tables for people, or one document."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, text: str) -> None:
        """Print a line of the result; a file's name that is no text is told with escapes."""
        click.echo("\n".join(map(printable, text.split("\n"))), err=self.as_json)

    def show(self, thing: RenderableType) -> None:
        """Print a table of the result."""
        screen = console(err=self.as_json)
        if screen.is_terminal:
            screen.print(thing)
            return
        with screen.capture() as captured:
            screen.print(thing)
        lines = captured.get().strip("\n").splitlines()
        self.line("\n".join(line.rstrip() for line in lines).strip("\n"))

    def show_rows(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str], otherwise: str
    ) -> None:
        """Print a table of one line a row: on a terminal without the last columns, if those do not fit, which are named.

        Args:
            otherwise: where they are shown, such as "--details".
        """
        screen, fits = console(err=self.as_json), len(columns)
        wide = screen.options.update(width=UNBOUNDED)
        while True:
            grid = table(columns[:fits], [row[:fits] for row in rows], numbers)
            if fits == 1 or screen.measure(grid, options=wide).maximum <= screen.width:
                break
            fits -= 1
        self.show(grid)
        if fits < len(columns):
            self.line(f"No room for {', '.join(columns[fits:])}: {otherwise} has them, as has a wider terminal.")

    def document(self, content: Mapping[str, Any]) -> None:
        """Print the document, if that was asked for."""
        if self.as_json:
            click.echo(json.dumps(content, indent=2, allow_nan=False))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Send to stderr what libraries print on stdout while they work."""
        with contextlib.redirect_stdout(sys.stderr):
            yield
