"""What there is, by name, each with what decides a choice: the rows of `ardbench list`. Torch-free but for models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    from ardbench.evaluation.protocols import Protocol

Rows = list[dict[str, Any]]
Thing = TypeVar("Thing")


def _loadable(names: Iterable[str], load: Callable[[str], Thing]) -> Iterator[tuple[str, Thing]]:
    """Yield names with what they stand for; one from outside that is broken is told and left out."""
    for name in names:
        try:
            yield name, load(name)
        except ArdbenchError as error:
            say(str(error))


def _first_line(kind: type) -> str:
    return ((kind.__doc__ or "").strip().splitlines() or [""])[0]


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
        for name, recipe in _loadable(recipe_names(), resolve)
    ]


def _methods() -> Rows:
    from ardbench.methods import available, method_class

    rows = []
    for name, kind in _loadable(available(), method_class):
        roles = ["or more" if role is ... else str(role) for role in kind.roles]
        rows.append(
            {
                "name": name,
                "teachers": ", ".join(roles) or ("a peer" if kind.peer else "none"),
                "about": _first_line(kind),
            }
        )
    return rows


def _modules() -> Rows:
    from ardbench.methods import available_modules, module_class

    return [
        {
            "name": name,
            "needs": ", ".join(kind.needs) or "nothing",
            "about": _first_line(kind),
        }
        for name, kind in _loadable(available_modules(), module_class)
    ]


def models(dataset: str, pattern: str = "*") -> Rows:
    from ardbench import data
    from ardbench.models import describe_models

    rows = describe_models(data.info(dataset), pattern, say)
    return [{"name": row.name, "parameters": row.parameters, "MACs": row.macs} for row in rows]


def _teachers() -> Rows:
    from ardbench.verbs.zoo import rows

    return rows()


def _datasets() -> Rows:
    from ardbench import data

    return [
        {
            "name": name,
            "classes": info.num_classes,
            "images": f"{info.channels}x{info.size}x{info.size}",
            "train": info.train_images,
            "test": info.test_images,
        }
        for name, info in _loadable(data.available(), data.info)
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
