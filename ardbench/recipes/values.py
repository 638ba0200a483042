"""Values as they are typed on a command line: one, or several of one key. Torch-free."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from ardbench.errors import ArdbenchError

MOST = 1000
"""Values of one key, and runs of one sweep."""
RANGE = re.compile(r"([0-9]{1,15})\.\.([0-9]{1,15})")
OUTSIDE = re.compile(r",(?![^\[]*\])")
"""A comma that stands in no list."""


def one(text: str) -> Any:
    """Return a value in TOML, or else a bare word or fraction: resnet18, 8/255."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def several(text: str) -> list[Any]:
    """Return the values of "0.05,0.1" (each as `one` reads it) and of "0..2", which is 0,1,2.

    Raises:
        ArdbenchError: an empty one, a range that runs backwards, one value twice, or more than `MOST`.
    """
    found: list[Any] = []
    for part in OUTSIDE.split(text):
        if not part.strip():
            raise ArdbenchError(f"{text!r} holds an empty value: write values with commas between them, such as 0,1,2.")
        if (span := RANGE.fullmatch(part.strip())) is None:
            found.append(one(part))
            continue
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise ArdbenchError(f"{part.strip()!r} runs backwards: write the smaller number first, {last}..{first}.")
        found += range(first, min(last, first + MOST) + 1)
    if len(found) > MOST:
        raise ArdbenchError(f"{text!r} are more than {MOST} values: give fewer.")
    twice = next((value for index, value in enumerate(found) if value in found[:index]), None)
    if twice is not None:
        raise ArdbenchError(f"{text!r} names {twice} twice: leave one out.")
    return found
