"""`ardbench diff`: what differs between two recipes or runs."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.listeners.drawn import table


@click.command()
@click.argument("a", metavar="A", shell_complete=options.complete_recipe)
@click.argument("b", metavar="B", shell_complete=options.complete_recipe)
@options.facts_root
@options.as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """Show the values in which two recipes or runs differ, and where each comes from.

    A and B are run directories, names from `ardbench list recipes`, NAME@VARIANT or TOML files. A value comes from the
    recipe, a variant, the command line or a default; of a run, teachers, versions and devices are compared as well.
    """
    from ardbench.verbs.differences import differences

    found, output = differences(a, b), Output(as_json)
    rows = [(one.key, _written(one.a), _written(one.b), one.from_a, one.from_b) for one in found]
    if rows:
        output.show(table(("", "A", "B", "A's from", "B's from"), rows))
    else:
        output.line(f"{a} and {b} differ in nothing.")
    output.document({"a": a, "b": b, "differences": [vars(one) for one in found]})


def _written(value: Any) -> str | None:
    """Return a value as it stands in a recipe; fractions that are no short decimals as fractions."""
    from ardbench.recipes.toml import written

    return None if value is None else written(list(value) if isinstance(value, tuple) else value)
