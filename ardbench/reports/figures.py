"""Figures as PNG, SVG and PDF, the same bytes from the same numbers; matplotlib is loaded when one is drawn."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.runs import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers tell apart. Source: M. Okabe and K. Ito, "Color Universal Design", 2008."""
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
"""What tells lines of one colour apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""What tells points of one colour apart."""
PRINTED = 12
"""Up to so many rows and columns the cells of a heat map hold their numbers, and every one is named."""
CELL = 0.62
"""The side of such a cell, in inches."""
LETTER = 0.085
"""The width of a letter, in inches."""

METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""What each format would write of clock and version, and must not."""

Shares = Sequence[Sequence[float]]


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Figure, path: Path) -> list[Path]:
    """Write PATH.png, PATH.svg and PATH.pdf and return their paths; no clock, version or random name enters them."""
    paths = [path.with_name(f"{path.name}.{ending}") for ending in METADATA]
    for place, ending in zip(paths, METADATA, strict=True):
        write_atomic(place, _rendered(drawn, ending))
    return paths


def _rendered(drawn: Figure, ending: str, fonttype: str = "path", transparent: bool = False) -> bytes:
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in drawn.findobj(Text):
        text.set_parse_math(False)  # a name with $ in it is no formula
    content = BytesIO()
    # whole TrueType fonts in a PDF: printers of papers refuse Type 3
    with rc_context({"svg.hashsalt": "ardbench", "svg.fonttype": fonttype, "pdf.fonttype": 42}):
        drawn.savefig(
            content, format=ending, dpi=150, bbox_inches="tight", metadata=METADATA[ending], transparent=transparent
        )
    return content.getvalue()


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


def image_of(drawn: Figure) -> str:
    """Return a figure as a data URI: SVG on whatever lies behind it, in the reader's own fonts, and so a third smaller."""
    return f"data:image/svg+xml;base64,{b64encode(_rendered(drawn, 'svg', 'none', transparent=True)).decode()}"


def png(image: np.ndarray) -> str:
    """Return an image (H, W, C) in [0, 1], C being 1 or 3, as a data URI, a pixel for a pixel."""
    import numpy as np
    from matplotlib.image import imsave

    content = BytesIO()
    levels = np.rint(255 * image).astype(np.uint8)
    imsave(content, np.broadcast_to(levels, (*image.shape[:2], 3)), format="png", metadata={"Software": "ardbench"})
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def bars(parts: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return bars side by side: for each part (a protocol) a share for each name (a class), in per cent."""
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    drawn = figure(max(5.0, 0.55 * min(len(names), 40)), 3.0)
    axes = drawn.subplots()
    width = 0.8 / len(parts)
    for place, (part, values) in enumerate(parts.items()):
        heights = [100 * values.get(name, 0.0) for name in names]
        offset = width * (place - (len(parts) - 1) / 2)
        axes.bar([i + offset for i in range(len(names))], heights, width, label=part, color=PALETTE[place])
    if len(names) <= 2 * PRINTED:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylim=(0, 100), ylabel="accuracy in %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, ncols=len(parts), loc="lower left", bbox_to_anchor=(0, 1))
    return drawn


def bands(lines: Mapping[str, Sequence[tuple[float, float, float, float]]], across: str, up: str) -> Figure:
    """Return lines with a band around each: points (x, share, low, high) by name; shares are drawn in per cent."""
    drawn = figure(6.4, 3.8)
    axes = drawn.subplots()
    for place, (name, points) in enumerate(lines.items()):
        x, *shares = zip(*points, strict=True)
        middle, low, high = ([100 * share for share in values] for values in shares)
        colour = PALETTE[place % len(PALETTE)]
        axes.plot(
            x, middle, marker=".", color=colour, linestyle=DASHES[place // len(PALETTE) % len(DASHES)], label=name
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=across, ylabel=up, ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, handlelength=3, loc="upper left", bbox_to_anchor=(0, -0.18))
    return drawn
