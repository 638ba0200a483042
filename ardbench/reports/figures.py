"""Figures as PNG and SVG, the same bytes from the same numbers; matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers tell apart. Source: M. Okabe and K. Ito, "Color Universal Design", 2008."""
PRINTED = 12
"""Up to so many rows and columns the cells of a heat map hold their numbers, and every one is named."""
CELL = 0.62
"""The side of such a cell, in inches."""
LETTER = 0.085
"""The width of a letter, in inches."""

Shares = Sequence[Sequence[float]]


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Figure, path: Path) -> list[Path]:
    """Write PATH.png and PATH.svg and return their paths; no clock, version or random name enters them."""
    from matplotlib import rc_context

    paths = []
    with rc_context({"svg.hashsalt": "ardbench"}):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = BytesIO()
            drawn.savefig(content, format=ending, dpi=150, bbox_inches="tight", metadata=metadata)
            paths.append(path.with_name(f"{path.name}.{ending}"))
            write_atomic(paths[-1], content.getvalue())
    return paths


def heat_map(values: Shares, rows: Sequence[str], columns: Sequence[str], title: str, down: str, across: str) -> Figure:
    """Return a heat map of shares with the names of its rows, its columns and its two axes."""
    drawn = figure(1 + LETTER * max(map(len, rows)) + CELL * len(columns), 1 + CELL * len(rows))
    axes = drawn.subplots()
    heat(axes, values, rows, columns, title)
    axes.set(xlabel=across, ylabel=down)
    return drawn


def heat(axes: Axes, values: Shares, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Draw shares in [0, 1] as a heat map in per cent, dark where they are high; NaN stays grey.

    Args:
        axes: where.
        values: one share for each row and column.
        rows, columns: their names, left out where there are more than `PRINTED`.
    """
    axes.set_title(title, fontsize=11)
    axes.set_facecolor("0.9")
    image = axes.imshow(
        [[100 * share for share in row] for row in values], cmap="Blues", vmin=0, vmax=100, aspect="auto"
    )
    if len(rows) <= PRINTED:
        axes.set_yticks(range(len(rows)), rows)
    if len(columns) <= PRINTED:
        slanted = max(map(len, columns)) > 4
        axes.set_xticks(
            range(len(columns)), columns, rotation=30 if slanted else 0, ha="right" if slanted else "center"
        )
    if max(len(rows), len(columns)) > PRINTED:
        axes.figure.colorbar(image, ax=axes, label="%")
        return
    for i, row in enumerate(values):
        for j, share in enumerate(row):
            if share == share:
                colour = "white" if share > 0.65 else "black"
                axes.text(j, i, f"{100 * share:.1f}", ha="center", va="center", color=colour, fontsize=9)
