"""What a user can get wrong, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArdbenchError(Exception):
    """A refusal that the user can act on: one sentence, exit code 2, nothing lost."""


def printable(text: str) -> str:
    """Return a text with what a file's name or content could tell a terminal to do written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def whole(text: str) -> str:
    """Return a text with its letters whole, where a machine without UTF-8 has given those of a path byte by byte."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def unknown(kind: str, given: str, allowed: Iterable[str]) -> ArdbenchError:
    """Return the refusal of an unknown name, with the nearest allowed one or, failing that, all of them."""
    names, given = sorted(allowed), given if len(given) < 200 else f"{given[:200]}..."
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"choose one of: {', '.join(names) or '(none)'}."
    return ArdbenchError(f"Unknown {kind} {given!r}: {hint}")
