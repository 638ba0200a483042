"""What ardbench does, as functions: the command line calls these and prints, a notebook calls them and goes on."""

from __future__ import annotations

from collections.abc import Sequence

FULL_TABLE = ("clean", "fgsm", "pgd20", "pgd20-trades", "cw20", "aa", "pgd20-scaled", "unbounded")
"""The protocols of the full table, and what the trust checks need beside them."""

SWEPT = ("clean", "pgd20")
"""What a sweep measures unless it is told otherwise: enough to see which values matter."""

IMAGES = 500
"""Test images that a file is identified by, unless told otherwise."""


def texts(what: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text or several as several: a single one is not its letters."""
    return (what,) if isinstance(what, str) else tuple(what)
