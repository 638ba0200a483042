"""Figures: what is drawn is what was told, and the same numbers give the same bytes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_call import call
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from ardbench.methods import crdnd
from ardbench.recipes import resolve
from ardbench.reports import curves
from ardbench.reports.figures import PALETTE, heat_map, save
from ardbench.runs import Run

SHARES = [[0.98, 0.4321, 0.05], [0.25, 0.8, 0.7]]


def cells(axes: Axes) -> dict[tuple[float, float], tuple[str, Any]]:
    """Return the printed cells by row and column: text and colour."""
    return {
        (text.get_position()[1], text.get_position()[0]): (text.get_text(), text.get_color()) for text in axes.texts
    }


def drawn_values(axes: Axes) -> list[list[float]]:
    return axes.images[0].get_array().tolist()  # type: ignore[union-attr, no-any-return]


def test_a_small_heat_map_prints_its_numbers_white_on_dark() -> None:
    (axes,) = heat_map(SHARES, ["a", "b"], ["1", "2", "3"], "title", "down", "across").axes
    assert drawn_values(axes) == [[100 * share for share in row] for row in SHARES]
    texts = {(i, j): f"{100 * share:.1f}" for i, row in enumerate(SHARES) for j, share in enumerate(row)}
    assert {place: text for place, (text, _) in cells(axes).items()} == texts
    image = axes.images[0]
    for (i, j), (_, colour) in cells(axes).items():
        red, green, blue, _ = image.cmap(image.norm(100 * SHARES[int(i)][int(j)]))
        assert (colour == "white") == (0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    assert (axes.get_title(), axes.get_ylabel(), axes.get_xlabel()) == ("title", "down", "across")


def test_a_large_heat_map_has_a_bar_in_place_of_numbers() -> None:
    names = [str(i) for i in range(13)]
    axes, bar = heat_map([[i / 13] * 13 for i in range(13)], names, names, "t", "d", "a").axes
    assert not axes.texts and bar.get_ylabel() == "%"


def test_the_same_numbers_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from ardbench.reports.figures import heat_map, save\n"
        f"save(heat_map({SHARES!r}, ['a', 'b'], ['1', '2', '3'], 't', 'd', 'a'), Path(sys.argv[1]) / 'other.x')\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    paths = save(heat_map(SHARES, ["a", "b"], ["1", "2", "3"], "t", "d", "a"), tmp_path / "one.x")
    assert [path.name for path in paths] == ["one.x.png", "one.x.svg", "one.x.pdf"]
    for path in paths:
        assert path.read_bytes() == (tmp_path / f"other.x{path.suffix}").read_bytes()
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"date" not in paths[1].read_bytes() and b"<svg" in paths[1].read_bytes()
    pdf = paths[2].read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf and b"/Type3" not in pdf and b"/FontFile2" in pdf


def teacher(adv: float | None, accuracy: list[float | None]) -> dict[str, Any]:
    if adv is None:
        return dict.fromkeys(("clean", "adv", "both", "clean_only", "neither", "class_clean", "class_adv"))
    halved = [None if a is None else a / 2 for a in accuracy]
    shares = {"clean": 0.75, "adv": adv, "both": adv, "clean_only": 0.75 - adv, "neither": 0.25}
    return {**shares, "class_clean": accuracy, "class_adv": halved}


def made(folder: Path, name: str, rows: list[dict[str, Any]], method: str = "darht") -> Run:
    """Return a run directory with these rows beside the ones that every run has."""
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    run.create(resolve(f"{method}-digits"), (), {})
    costs = {"seconds": 1.0, "images": 50, "images_per_second": 50.0, "peak_memory": 0.0}
    text = "".join(json.dumps({"epoch": i, **row, **costs}) + "\n" for i, row in enumerate(rows))
    (run.path / "metrics.jsonl").write_text(text)
    return run


FIRST: list[float | None] = [0.5] * 10
LAST: list[float | None] = [i / 10 for i in range(9)] + [None]
ROWS: list[dict[str, Any]] = [
    {"loss": 2.0, "kl_adv": 1.5, "diagnostics": {"teachers": [teacher(0.5, FIRST), teacher(0.125, FIRST)]}},
    {"loss": 1.5, "kl_adv": 1.0, "weight_0": 0.25, "weight_1": 0.75, "val_clean": 0.5, "val_robust": 0.25}
    | {"diagnostics": {"teachers": [teacher(0.25, LAST), teacher(0.5, FIRST)]}},
    {"loss": 1.0, "weight_0": 0.5, "weight_1": 0.5, "val_clean": 0.75, "val_robust": 0.5}
    | {"diagnostics": {"teachers": [teacher(None, []), teacher(None, [])]}},
]
PEER: list[dict[str, Any]] = [
    {
        "loss": 3.0,
        "imitation": 1.0,
        "test_clean": 0.5,
        "diagnostics": {"teachers": [], "peer": {"clean": 1, "adv": 0.5}},
    },
    {"loss": 2.0, "imitation": 0.5, "diagnostics": {"teachers": [], "peer": {"clean": 1, "adv": 0.75}}},
]


def lines(figure: Any) -> dict[tuple[str, str, str], tuple[list[float], list[float]]]:
    """Return the data of every line by the panel's title, what the line is called, and its colour."""
    return {
        (axes.get_title(), line.get_label(), line.get_color()): tuple(map(list, line.get_data()))
        for axes in figure.axes
        for line in axes.lines
    }


def test_every_curve_is_what_the_epochs_told(tmp_path: Path) -> None:
    found = lines(curves.curves({"darht": [made(tmp_path, "darht", ROWS)]}))
    reliable = "Teacher {} is right, % of the examples"
    expected: dict[str, dict[str, tuple[list[float], list[float]]]] = {
        "Loss and its terms": {"loss": ([1, 2, 3], [2.0, 1.5, 1.0]), "kl adv": ([1, 2], [1.5, 1.0])},
        "Accuracy of the student in %": {
            "validation, clean": ([2, 3], [50, 75]),
            "validation, robust": ([2, 3], [25, 50]),
        },
        reliable.format(1): {
            "on x and on x'": ([1, 2], [50, 25]),
            "on x alone": ([1, 2], [25, 50]),
            "not on x": ([1, 2], [25, 25]),
        },
        reliable.format(2): {
            "on x and on x'": ([1, 2], [12.5, 50]),
            "on x alone": ([1, 2], [62.5, 25]),
            "not on x": ([1, 2], [25, 25]),
        },
        "Accuracy on the student's x' in %": {"teacher 1": ([1, 2], [50, 25]), "teacher 2": ([1, 2], [12.5, 50])},
        "Weights of the teachers": {"teacher 1": ([2, 3], [0.25, 0.5]), "teacher 2": ([2, 3], [0.75, 0.5])},
    }
    told = {
        (panel, name, PALETTE[i]): data
        for panel, some in expected.items()
        for i, (name, data) in enumerate(some.items())
    }
    assert found == told and list(dict.fromkeys(panel for panel, _, _ in found)) == list(expected)


def test_several_runs_share_the_panels_in_a_colour_each(tmp_path: Path) -> None:
    one, other = made(tmp_path, "darht", ROWS), made(tmp_path, "peeraid", PEER, "peeraid")
    figure = curves.curves({"darht": [one], "peeraid": [other]})
    found, attacked = lines(figure), "Accuracy on the student's x' in %"
    assert found["Loss and its terms", "loss", PALETTE[0]] == ([1, 2, 3], [2.0, 1.5, 1.0])
    assert found["Loss and its terms", "loss", PALETTE[1]] == ([1, 2], [3.0, 2.0])
    assert {name for panel, name, _ in found if panel.startswith("Loss")} == {"loss"}
    assert found[attacked, "teacher 1", PALETTE[0]] == ([1, 2], [50, 25])
    assert found[attacked, "peer", PALETTE[1]] == ([1, 2], [50, 75])
    assert found["Accuracy of the student in %", "test, clean", PALETTE[1]] == ([1], [50])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["darht", "peeraid"]
    styles = {line.get_label(): line.get_linestyle() for axes in figure.axes for line in axes.lines
              if axes.get_title() == attacked}  # fmt: skip
    assert len(set(styles.values())) == len(styles) == 3


def test_classes_are_those_of_the_last_epoch_that_counted_any(tmp_path: Path) -> None:
    figure = curves.class_maps(made(tmp_path, "darht", ROWS))
    assert figure is not None
    accuracy, first, second = figure.axes
    rows = drawn_values(accuracy)
    assert [row[3] for row in rows] == pytest.approx([30, 15, 50, 25])
    assert [text.get_text() for text in accuracy.get_yticklabels()][1] == "teacher 1 on x'"
    assert (0, 9) not in cells(accuracy) and (2, 9) in cells(accuracy)
    for axes, scale in ((first, 1), (second, 0.5)):
        matrix = drawn_values(axes)
        for j in range(9):
            assert matrix[j][j] == pytest.approx(100 * scale * j / 10)
            assert sum(row[j] for row in matrix) == pytest.approx(100)
        assert {place for place in cells(axes) if place[1] == 9} == set()
    assert curves.class_maps(made(tmp_path, "peeraid", PEER, "peeraid")) is None


def test_the_compensation_that_is_drawn_is_the_one_that_is_trained_with() -> None:
    import torch

    accuracy = [0.25, 1.0, 0.5, 0.0, 0.9]
    expected = crdnd.compensation(torch.tensor(accuracy, dtype=torch.float64)).tolist()
    for row, wanted in zip(curves.compensation(accuracy), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-15)
    assert all(math.isnan(row[1]) for row in curves.compensation([0.5, math.nan, 0.5]))


def test_colours_are_told_apart() -> None:
    for i, one in enumerate(PALETTE):
        assert all(math.dist(to_rgb(one), to_rgb(other)) > 0.25 for other in PALETTE[:i])


def test_report_curves_writes_beside_the_run_or_to_out(tmp_path: Path) -> None:
    one, other = made(tmp_path, "darht", ROWS), made(tmp_path, "peeraid", PEER, "peeraid")
    names = [f"{what}.{ending}" for what in ("curves", "classes") for ending in ("png", "svg", "pdf")]
    assert call("report", one.path, "--curves").stdout.splitlines() == [str(one.path / name) for name in names]
    out = tmp_path / "out"
    both = call("report", one.path, other.path, "--curves", "--out", out).stdout.splitlines()
    assert both == [str(out / name.replace("classes", "classes-darht")) for name in names]
    assert {str(path) for path in out.iterdir()} == set(both)
    for ending in ("png", "svg", "pdf"):
        assert (one.path / f"classes.{ending}").read_bytes() == (out / f"classes-darht.{ending}").read_bytes()


def test_curves_that_cannot_be_drawn_are_refused_with_a_sentence(tmp_path: Path) -> None:
    runs = [made(tmp_path, f"run{i}", PEER, "peeraid").path for i in range(2)]
    empty = made(tmp_path, "empty", []).path
    (tmp_path / "nothing").mkdir()
    for words, sentence in (
        (runs, "say where with --out FOLDER"),
        ([empty], "has no finished epoch yet"),
        ([tmp_path / "nothing"], "is not a run directory"),
    ):
        result = call("report", *words, "--curves")
        assert result.exit_code == 2 and sentence in result.stderr and not result.stdout
