"""A suite by name, and its cells under a folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ardbench.suites import Cell, Suite


def planned(name: str, root: Path) -> tuple[Suite, list[Cell]]:
    """Return a suite and its plan; teachers that are no run of the suite may still be absent from the zoo."""
    from ardbench.recipes import resolve
    from ardbench.suites import load_suite, plan
    from ardbench.teachers import planned_outside

    suite = load_suite(name)
    return suite, plan(suite, root, resolve, outside=planned_outside)
