"""Where the values of a recipe come from, and every value that it has, defaults included. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.recipes import KIND, describe, flat

DECIDED = ("attack.steps", "attack.step_size", "attack.start", "attack.restarts")
"""What a kind of attack decides where it does not stand beside it."""


def origins(named: str, dataset: str, typed: Iterable[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Return where each dotted key is given, later layers over earlier ones, and the names of the variants.

    Args:
        named: as `resolve` takes it; a bare method means its recipe for the data set.
        typed: keys that a command line has given.
    """
    base, _, variant = named.partition("@")
    written = dict(describe(base, dataset))
    variants = written.pop("variants", {})
    found = {key: "recipe" for key, _ in flat(written)}
    layers = [
        {key: f"variant {variant}" for key, _ in flat(variants.get(variant, {}))},
        dict.fromkeys(typed, "command line"),
    ]
    for layer in layers:
        found |= (dict.fromkeys(DECIDED, KIND) if KIND in layer else {}) | layer
    summed = {"data.extra_sha256": "data.extra"} if "data.extra" in found else {}
    return summed | found, sorted(variants)


def every_value(recipe: Recipe) -> dict[str, Any]:
    """Return all values of a recipe by dotted key, those that are not written at their default included."""
    found = dict(_values(recipe))
    method = found.pop("method")
    try:
        section = method_class(method["name"]).Config.model_validate(method)
    except (ArdbenchError, ValueError):  # of a package that is not here, or has changed
        return found | {f"method.{key}": value for key, value in method.items()}
    return found | dict(_values(section, "method."))


def _values(section: BaseModel, above: str = "") -> Iterator[tuple[str, Any]]:
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _values(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
