"""How numbers, lengths of time and tables are written on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ardbench.errors import printable

if TYPE_CHECKING:
    from rich.table import Table


def clock(seconds: float) -> str:
    """Return a length of time to the second, or from an hour on to the minute."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def ago(seconds: float) -> str:
    """Return a length of time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def digits(number: float) -> str:
    """Return three digits, and all of them before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = (), whole: str = ""
) -> Table:
    """Return a plain table; the columns `numbers` stand to the right, `whole` is not broken, None is a blank cell."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        right = name in numbers
        grid.add_column(name, justify="right" if right else "left", no_wrap=right or name == whole, overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else escape(printable(str(cell))) for cell in row))
    return grid
