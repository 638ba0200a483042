"""Damage to files, drawn from a `random.Random`: bits, cuts and splices of bytes, other values and names in documents."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    math.nan, math.inf, -math.inf, "", "0", "8/255", "1/0", "1e999999999", "nan", "true", "\0", "\x1b[2J", "a\nb", "\u202e",
    "../../etc/passwd", "/dev/zero", "/etc/passwd", "~", ".", "x" * 5000, "<script>", "[bold]", "$\\frac$", "| a |",
    [], [[]], [0], [None], ["a", 1], {}, {"": None}, {"a": {"b": []}}, [[0] * 50] * 50, DEEP,
)  # fmt: skip
"""Values that a reader may meet anywhere: of every type, at the ends of ranges, and words that mean something elsewhere."""

BYTES = (
    b"\0",
    b"\xff",
    b"\0" * 8,
    b"\xff" * 8,
    b"\x80",
    b"[",
    b"{",
    b'"',
    b"\n",
    b"=",
    b".",
    b"1e9",
    b"-",
    b"PK\3\4",
    b"9" * 30,
)


def damaged(content: bytes, source: Random) -> bytes:
    """Return bytes with one to four of these: a bit flipped, cut, piece taken out, doubled, moved, or written over."""
    for _ in range(source.choice((1, 1, 1, 1, 2, 4))):
        at, to = source.randrange(len(content) + 1), source.randrange(len(content) + 1)
        short = slice(min(at, to), min(at, to) + source.choice((1, 2, 4, 8, 64, 1024)))
        match source.randrange(7):
            case 0 if content:
                place = source.randrange(len(content))
                flipped = content[place] ^ 1 << source.randrange(8)
                content = content[:place] + bytes([flipped]) + content[place + 1 :]
            case 1:
                content = content[:at]
            case 2:
                content = content[: short.start] + content[short.stop :]
            case 3:
                content = content[: short.stop] + content[short]
                content += content[short.stop :]
            case 4:
                content = content[:at] + content[short] + content[at:]
            case 5:
                content = content[:at] + source.choice(BYTES) + content[at:]
            case _:
                piece = source.choice(BYTES)
                content = content[:at] + piece + content[at + len(piece) :]
    return content


def changed(tree: Any, source: Random) -> Any:
    """Return a document with one to three of its values replaced, moved, renamed or taken out."""
    tree = copy.deepcopy(tree)
    for _ in range(source.choice((1, 1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return source.choice(HOSTILE)
        above, key = source.choice(places)
        match source.randrange(8):
            case 0:
                del above[key]
            case 1:
                other, name = source.choice(places)
                above[key] = copy.deepcopy(other[name])
            case 2 if isinstance(above, dict):
                above[source.choice((key + "x", "", "name", "../x", "x" * 300))] = above.pop(key)
            case 3:
                above[key] = [above[key]] if source.random() < 0.5 else {"value": above[key]}
            case 4 | 5 if isinstance(above[key], (int, float)):
                number = above[key]
                above[key] = source.choice((number + 1, number * 2, number // 2, -number, number * 10**6))
            case _:
                above[key] = copy.deepcopy(source.choice(HOSTILE))
    return tree


def _places(tree: Any) -> Any:
    """Yield (container, key) of every value in the upper levels of a document."""
    pending = [(tree, 0)]
    while pending:
        above, depth = pending.pop()
        keys = list(above) if isinstance(above, dict) else range(min(len(above), 20)) if isinstance(above, list) else ()
        for key in keys:
            yield above, key
            if depth < 8:
                pending.append((above[key], depth + 1))


def toml(tree: Any) -> str:
    """Return a document as TOML: tables in one line, nothing in the place of a value that TOML has not."""
    if not isinstance(tree, dict):
        return _value(tree)
    return "".join(f"{json.dumps(str(key))} = {_value(value)}\n" for key, value in tree.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{json.dumps(str(key))} = {_value(one)}' for key, one in value.items())}}}"
        case str():
            return json.dumps(value)
    return str(value)
