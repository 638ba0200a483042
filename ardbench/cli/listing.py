"""`ardbench list`: what there is, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import STOPPED, options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError, unknown
from ardbench.listeners import say
from ardbench.listeners.drawn import table

if TYPE_CHECKING:
    from pathlib import Path


@click.command("list")
@click.argument(
    "kind",
    type=click.Choice(["recipes", "methods", "modules", "models", "teachers", "datasets", "protocols", "suites"]),
)
@click.argument("pattern", required=False)
@click.option(
    "--dataset",
    metavar="NAME",
    help="The recipes of this data set alone; for `list models`, whose images count, else cifar10.",
)
@click.option("--method", metavar="NAME", help="The recipes of this method alone.")
@click.option(
    "--verify",
    is_flag=True,
    help="Measure again what is recorded of the teachers whose files are here; refuse a mismatch.",
)
@options.device
@options.data_root
@options.as_json
def listing(
    kind: str,
    pattern: str | None,
    dataset: str | None,
    method: str | None,
    verify: bool,
    device: str,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """List the recipes, methods, modules, models, teachers of the zoo, data sets, protocols or suites.

    Each with what decides a choice between them. PATTERN is for models, those of libraries included, such as
    'timm:mobilenetv3*' or 'torchvision:resnet*?stem=small': what cannot be one of ours, or takes no such images, is left out.
    """
    from ardbench.verbs.listing import ROWS, models

    if pattern is not None and kind != "models":
        raise ArdbenchError(f"{pattern!r} is a pattern for `list models`: leave it out of `list {kind}`.")
    if verify and kind != "teachers":
        raise ArdbenchError(f"--verify measures teachers, not {kind}: type `ardbench list teachers --verify`.")
    if dataset is not None and kind not in ("models", "recipes"):
        raise ArdbenchError(f"--dataset is for `list recipes` and `list models`: leave it out of `list {kind}`.")
    if method is not None and kind != "recipes":
        raise ArdbenchError(f"--method is for `list recipes`: leave it out of `list {kind}`.")
    output = Output(as_json)
    rows = models(dataset or "cifar10", pattern or "*") if kind == "models" else ROWS[kind]()
    for column, given in (("dataset", dataset), ("method", method)):
        if kind == "recipes" and given is not None:
            there = sorted({row[column] for row in rows})
            rows = [row for row in rows if row[column] == given]
            if not rows:
                raise unknown(
                    f"{column} of a recipe{' of ' + str(dataset) if column == 'method' and dataset else ''}:",
                    given,
                    there,
                )
    if verify:
        from ardbench.evaluation.verdicts import Paused
        from ardbench.verbs.zoo import verify as measured_again

        try:
            verified = measured_again(device, data_root)
        except Paused as paused:
            say(str(paused))
            raise Exit(STOPPED) from None
        rows = [{"name": row["name"], "verified": verified[row["name"]], **row} for row in rows]
    if as_json:
        output.document({kind: rows})
        return
    columns = list(rows[0]) if rows else ["name"]
    numbers = [name for name in columns if rows and isinstance(rows[0][name], int | float)]
    cells = [[_short(row[name]) for name in columns] for row in rows]
    if kind in ("recipes", "teachers"):
        output.show_rows(columns, cells, numbers, "--json")
    else:
        output.show(table(columns, cells, numbers, whole="name"))


def _short(cell: object) -> object:
    """Return a large number with thousands marked, anything else as it is."""
    return f"{cell:,}" if isinstance(cell, int) else cell
