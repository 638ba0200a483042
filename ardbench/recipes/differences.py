"""What differs between recipes, in few words: for tables and figures that name several settings of one thing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ardbench.config import Data, Precision, Recipe
from ardbench.data.extra import PREFIX, file_name
from ardbench.recipes import flat

SAME = {f"{section}.{name}" for section, kind in (("data", Data), ("precision", Precision)) for name in kind.SAME}
UNTOLD = {*Recipe.WORDS, "seed", *SAME, "data.extra_sha256", "start.kind", "start.identity"} - {"data.extra"}
"""Keys that decide no result, and the seed."""
OF_SECTION = ("name", "kind", "by", "source")
"""Keys that say little without their section: "schedule.kind" is called "schedule"."""
TOLD = 3
"""Keys that are named; of more it is said how many there are."""


def differing(recipes: Sequence[Recipe]) -> list[str]:
    """Return for each recipe its values of the keys in which they differ, such as "alpha 0.9, epochs 30".

    A key that one of them has not written, since it is at its default, is "usual" there. All empty where none differ.
    """
    told = [dict(flat(recipe.model_dump(mode="json"))) for recipe in recipes]
    known = dict.fromkeys(key for one in told for key in one if key not in UNTOLD)
    keys = [key for key in known if len({json.dumps(one[key]) if key in one else None for one in told}) > 1]
    short = {key: _short(key) for key in keys}
    often = Counter(short.values())
    names = {key: name if often[name] == 1 else key for key, name in short.items()}
    return [_in_words(one, names) for one in told]


def _short(key: str) -> str:
    section, _, last = key.rpartition(".")
    return section.rpartition(".")[2] if section and last in OF_SECTION else last


def _in_words(told: Mapping[str, Any], names: Mapping[str, str]) -> str:
    words = [_said(name, told[key]) if key in told else f"usual {name}" for key, name in names.items()
             if not _in_a_section_left_out(key, told)]  # fmt: skip
    more = len(words) - TOLD
    return ", ".join(words[:TOLD]) + (f" and {more} more" if more > 0 else "")


def _in_a_section_left_out(key: str, told: Mapping[str, Any]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:depth]) in told for depth in range(1, len(parts)))


def _said(name: str, value: object) -> str:
    if value is None:
        return f"no {name}"
    if isinstance(value, bool):
        return f"{name} {'on' if value else 'off'}"
    if isinstance(value, float):
        return f"{name} {_number(value)}"
    if isinstance(value, str):
        return f"{name} {file_name(value) if value.startswith(PREFIX) else value}"
    return f"{name} {json.dumps(value)}"


def _number(value: float) -> str:
    """Return a short decimal, or else a fraction such as 8/255 where it is one."""
    fraction = Fraction(value).limit_denominator(1000)
    short = float(f"{value:.4g}") == value
    return f"{value:g}" if short or abs(fraction - Fraction(value)) > 1e-9 else str(fraction)
