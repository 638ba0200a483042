"""`ardbench check`: whether a method, a network or a data set of one's own is what ardbench takes it for."""

from __future__ import annotations

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import DISAGREED, options
from ardbench.cli.output import Output


@click.command()
@click.argument("target", metavar="FILE.py[:NAME]|NAME")
@click.option(
    "--recipe",
    metavar="RECIPE",
    help="For a method: the recipe that has its constants; without it, the first that names it.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="For a network: whose images it takes; without it, the file's own, else cifar10's.",
)
@options.facts_root
@options.as_json
def check(target: str, recipe: str | None, dataset: str | None, as_json: bool) -> None:
    """Check a method, module, network, data set or recipe of your own, in seconds and on the CPU.

    TARGET is a plugin's file, one name in it, or a name that an installed package has. Methods are held to the contract
    that ours are held to, on made-up images: gradients, modes, nothing random, nothing that waits for the device, and
    the same after a restart. Networks are built, attacked and folded in float64. Data sets are read and counted.

    Exit code 1: something is wrong.
    """
    from ardbench.verbs.checking import checked

    output, found, subject = Output(as_json), [], ""
    for one in checked(target, recipe, dataset):
        if one.subject != subject:
            output.line(one.subject)
        subject = one.subject
        output.line(f"  WRONG: {one.refusal}" if one.refusal else f"  right: {one.what}")
        found.append({"subject": one.subject, "what": one.what, "refusal": one.refusal})
    output.document({"checks": found})
    if any(one["refusal"] for one in found):
        raise Exit(DISAGREED)
