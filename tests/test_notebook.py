"""The notebook in examples/ runs from its first cell to its last, and shows what its words say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'ardbench[dev]'")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'ardbench[dev]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'ardbench[dev]'")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebooks" / "robustness.ipynb"


def shown(cell: Any) -> str:
    """Return what a cell gave: its value and what it printed."""
    found = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "\n".join(found)


def test_the_notebook_runs_and_trains_measures_and_compares(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(map(shown, cells))
    assert "McNemar's exact p" in text and all(not cell.outputs or shown(cell) for cell in cells)
    runs = [path.parent for path in (tmp_path / "runs").glob("*/done")]
    assert len(runs) == 2 and all(path.name in shown(cells[-1]) for path in runs)
    assert all((path / "eval/last/pgd20.json").is_file() for path in runs)
    assert list((tmp_path / "runs/files").glob("Sequential-*/eval-other/*/file/clean.json"))


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
