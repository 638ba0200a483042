"""Recipes as TOML documents with a comment behind each value. Torch-free."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from ardbench.errors import ArdbenchError

Tree = Mapping[str, Any]


def lines(tree: Tree, said: Mapping[str, str], section: str = "") -> Iterator[str]:
    """Yield the lines of a document; what has no value is left out, as it was.

    Args:
        said: what stands behind a value or the head of a section, by dotted key.
        section: whose keys `tree` holds.
    """
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield _line(f"{_key(key)} = {written(value)}", said.get(f"{section}.{key}" if section else key))
    for key, below in tree.items():
        if isinstance(below, Mapping):
            name = f"{section}.{key}" if section else key
            yield from ("", _line(f"[{name}]", said.get(name)))
            yield from lines(below, said, name)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _line(text: str, said: str | None) -> str:
    return f"{text:<36} # {said}" if said else text


def written(value: Any) -> str:
    """Return a value in TOML; a fraction that is no short decimal is written as a fraction, as in recipes.

    Raises:
        ArdbenchError: a number that is not finite.
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {written(one)}' for key, one in value.items() if one is not None)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ArdbenchError(f"{value} is no value of a recipe: give a finite number.")
    if isinstance(value, float) and len(repr(value)) > 8:
        fraction = Fraction(value).limit_denominator(1000)
        value = f"{fraction}" if float(fraction) == value else value
    return json.dumps(value, ensure_ascii=False)
