"""What there is, by name, each with what decides a choice: the rows of `ardbench list`. Torch-free but for models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    from ardbench.evaluation.protocols import Protocol

Rows = list[dict[str, Any]]


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


def models(dataset: str, pattern: str = "*") -> Rows:
    from ardbench import data
    from ardbench.models import describe_models

    rows = describe_models(data.info(dataset), pattern)
    return [{"name": row.name, "parameters": row.parameters, "MACs": row.macs} for row in rows]


def _teachers() -> Rows:
    from ardbench.verbs.zoo import rows

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
