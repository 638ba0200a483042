"""`ardbench list`: what there is, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, table
from ardbench.errors import ArdbenchError, unknown
from ardbench.listeners import say

if TYPE_CHECKING:
    from pathlib import Path

    from ardbench.evaluation.protocols import Protocol

Rows = list[dict[str, Any]]


@click.command("list")
@click.argument(
    "kind",
    type=click.Choice(["recipes", "methods", "modules", "models", "teachers", "datasets", "protocols", "suites"]),
)
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
    dataset: str | None,
    method: str | None,
    verify: bool,
    device: str,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """List the recipes, methods, modules, models, teachers of the zoo, data sets, protocols or suites.

    Each with what decides a choice between them.
    """
    if verify and kind != "teachers":
        raise ArdbenchError(f"--verify measures teachers, not {kind}: type `ardbench list teachers --verify`.")
    if dataset is not None and kind not in ("models", "recipes"):
        raise ArdbenchError(f"--dataset is for `list recipes` and `list models`: leave it out of `list {kind}`.")
    if method is not None and kind != "recipes":
        raise ArdbenchError(f"--method is for `list recipes`: leave it out of `list {kind}`.")
    output = Output(as_json)
    rows = _models(dataset or "cifar10") if kind == "models" else ROWS[kind]()
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
        from ardbench.cli import teachers

        verified = teachers.verify(device, data_root)
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


def _recipes() -> Rows:
    from ardbench.recipes import recipe_names, resolve

    return [
        {
            "name": name,
            "student": recipe.student,
            "method": recipe.method["name"],
            "dataset": recipe.data.name,
            "family": recipe.family,
            "title": recipe.title,
        }
        for name in recipe_names()
        for recipe in [resolve(name)]
    ]


def _methods() -> Rows:
    from ardbench.methods import available, method_class

    rows = []
    for name in available():
        try:
            kind = method_class(name)
        except ArdbenchError as error:  # of another package
            say(str(error))
            continue
        roles = ["or more" if role is ... else str(role) for role in kind.roles]
        about = (kind.__doc__ or "").strip().splitlines() or [""]
        rows.append(
            {"name": name, "teachers": ", ".join(roles) or ("a peer" if kind.peer else "none"), "about": about[0]}
        )
    return rows


def _modules() -> Rows:
    from ardbench.methods import available_modules, module_class

    found = {name: module_class(name) for name in available_modules()}
    return [
        {
            "name": name,
            "needs": ", ".join(kind.needs) or "nothing",
            "about": (kind.__doc__ or "").strip().splitlines()[0],
        }
        for name, kind in found.items()
    ]


def _models(dataset: str) -> Rows:
    from ardbench import data
    from ardbench.models import describe_models

    rows = describe_models(data.info(dataset))
    return [{"name": row.name, "parameters": row.parameters, "MACs": row.macs} for row in rows]


def _teachers() -> Rows:
    from ardbench.cli.teachers import rows

    return rows()


def _datasets() -> Rows:
    from ardbench.data import DATASETS

    return [
        {
            "name": name,
            "classes": info.num_classes,
            "images": f"{info.channels}x{info.size}x{info.size}",
            "train": info.train_images,
            "test": info.test_images,
        }
        for name, info in DATASETS.items()
    ]


def _protocols() -> Rows:
    from ardbench.evaluation.protocols import PROTOCOLS

    return [{"name": name, "version": one.version, "what": _searched(one)} for name, one in PROTOCOLS.items()]


def _searched(one: Protocol) -> str:
    """Return how a protocol searches, in words."""
    if one.kind == "clean":
        return "the images as they are"
    if one.kind == "autoattack":
        return f"AutoAttack ({one.configured}): {', '.join(one.attacks)}"
    from ardbench.config import in_pixels

    steps = f"{one.steps} steps" if one.steps > 1 else "1 step"
    sizes = f"of {in_pixels(one.step_size)} at eps {in_pixels(one.reference_eps)}"
    more = [
        f", {one.restarts} restarts" if one.restarts > 1 else "",
        f", momentum {one.momentum:g}" if one.momentum else "",
        f", logits times {one.scale:g}" if one.scale != 1 else "",
        ", on a surrogate" if one.surrogate else "",
        f", always {one.threat.norm}, eps {one.threat.eps:g}" if one.threat else "",
    ]
    return f"PGD on {one.objective}, {steps} {sizes}, start {one.start}{''.join(more)}"


def _suites() -> Rows:
    from ardbench.campaigns.suites import load_suite, suite_names

    return [
        {
            "name": name,
            "dataset": suite.dataset or "several",
            "runs": sum(len(suite.seeds_of(run)) for run in suite.runs),
            "protocols": ", ".join(suite.protocols),
            "title": suite.title,
        }
        for name in suite_names()
        for suite in [load_suite(name)]
    ]


ROWS: dict[str, Callable[[], Rows]] = {
    "recipes": _recipes,
    "methods": _methods,
    "modules": _modules,
    "teachers": _teachers,
    "datasets": _datasets,
    "protocols": _protocols,
    "suites": _suites,
}
