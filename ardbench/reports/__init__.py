"""Reports: run directories in, tidy results and tables out. Nothing here imports torch."""

from __future__ import annotations

import pandas as pd
from rich.console import RenderableType

from ardbench.reports.files import write
from ardbench.reports.rendering import renderable
from ardbench.reports.results import collect, collect_suite, read
from ardbench.reports.tables import Table, tables

__all__ = ["Table", "collect", "collect_suite", "console", "read", "tables", "write"]


def console(frame: pd.DataFrame) -> RenderableType:
    """Return the tables of the results for a rich console."""
    return renderable(tables(frame))
