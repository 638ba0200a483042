"""Reports: run directories in, tidy results and tables out. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import RenderableType

from ardbench.reports.classes import read_evaluated
from ardbench.reports.files import made_tables, write
from ardbench.reports.rendering import renderable
from ardbench.reports.results import collect, collect_suite, read
from ardbench.reports.tables import Table, tables
from ardbench.reports.view import WHOLE, View
from ardbench.runs import Run

__all__ = ["Table", "View", "collect", "collect_suite", "console", "read", "renderable", "tables", "write"]


def console(frame: pd.DataFrame, runs: Sequence[Run] = (), view: View = WHOLE) -> RenderableType:
    """Return the tables of the results for a rich console, those by class as well where the runs are given."""
    return renderable(made_tables(frame, read_evaluated(runs), view))
