"""A report as one HTML page that needs nothing else: tables, figures, costs, trust checks, provenance. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd

from ardbench.evaluation import trust
from ardbench.reports.classes import Evaluated, accuracies_by_class, class_tables, read_evaluated
from ardbench.reports.curves import class_maps, curves
from ardbench.reports.evaluations import sweeps
from ardbench.reports.figures import bands, bars, image_of, png
from ardbench.reports.files import provenance
from ardbench.reports.tables import Entry, Row, Table, cut, tables
from ardbench.reports.tradeoff import BARS, tradeoffs
from ardbench.reports.view import WHOLE, View
from ardbench.runs import Run

if TYPE_CHECKING:
    import numpy as np

    from ardbench.reports.transfer import Matrix


Sizes = Mapping[str, Mapping[str, tuple[int, int]]]
"""Architecture -> data set -> parameters and multiply-accumulates."""


@dataclass(frozen=True)
class Figure:
    """An image inside the page.

    Args:
        source: a data URI.
        caption: one line, also what a screen reader says.
        folded: behind a line that opens it, unless the page is printed.
    """

    source: str
    caption: str
    folded: bool = False


@dataclass(frozen=True)
class Column:
    """One image of a grid: as it is, its perturbation and the sum, each a data URI with words for a screen reader."""

    images: Sequence[tuple[str, str]]
    label: str
    said: str


@dataclass(frozen=True)
class Grid:
    """What one attack did to some images."""

    about: str
    columns: Sequence[Column]


@dataclass(frozen=True)
class Section:
    """What stands under a heading, in this order; `styles` colours words of the table."""

    title: str
    texts: Sequence[str] = ()
    table: Table | None = None
    styles: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    grids: Sequence[Grid] = ()
    folded: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Kept:
    """Images that an attack has kept: clean and adversarial (m, H, W, C) in [0, 1], and what the network says of both.

    Args:
        about: run, checkpoint, protocol.
        clean, adversarial: the images.
        labels, said: names of the true class and of the class under attack.
    """

    about: str
    clean: np.ndarray
    adversarial: np.ndarray
    labels: Sequence[str]
    said: Sequence[str]


def page(
    title: str,
    frame: pd.DataFrame,
    runs: Sequence[Run],
    *,
    matrix: Matrix | None = None,
    kept: Sequence[Kept] = (),
    unseen: Sequence[str] = (),
    costs: Sizes | None = None,
    view: View = WHOLE,
) -> str:
    """Return the page; the same runs give the same bytes.

    Args:
        title: its heading.
        frame: what `collect` or `collect_suite` returned of the runs.
        runs: that are shown.
        matrix: how the adversarial examples of a suite's teachers transfer.
        kept: images for the grids.
        unseen: why images that were kept are not among them, and what to type instead.
        costs: parameters and multiply-accumulates of each architecture on each data set.
        view: what the tables show.
    """
    from jinja2 import Environment

    there = [run for run in runs if (run.path / "config.json").is_file()]
    evaluated = read_evaluated(there)
    measured = tables(frame, view)
    shown = cut([*(_with_sizes(table, costs or {}) for table in measured), *class_tables(evaluated, view)], view)
    titles = {table.title for table in measured}
    sections = [
        *(Section(table.title, table=table) for table in shown if table.title in titles),
        *_trust(there),
        *(Section(table.title, table=table) for table in shown if table.title not in titles),
        *_by_class(evaluated),
        *_tradeoffs(frame, view),
        *_curves(there),
        *_sweeps(there),
        *_transfer(matrix),
        *_images(kept, unseen),
        _provenance(there),
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["blocks"] = _blocks
    template = resources.files("ardbench.reports").joinpath("page.html").read_text(encoding="utf-8")
    about = (
        f"{len(there)} runs. Made by ardbench from per-example verdicts; every figure and style is inside this file. "
        "A column's heading sorts its table."
    )
    return environment.from_string(template).render(title=title, about=about, sections=sections)


def _blocks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield each run's lines together."""
    block: list[Row] = []
    for row in rows:
        if row.opens and block:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _with_sizes(table: Table, costs: Sizes) -> Table:
    """Return the table of costs with parameters and MACs beside; any other as it is."""
    if not costs or "images/s" not in table.header:
        return table
    rows = []
    for row in table.rows:
        sizes = costs.get(row.entries[1].text, {}).values()
        cells = [" / ".join(f"{number / 1e6:.4g}" for number in numbers) for numbers in zip(*sizes, strict=True)]
        rows.append(Row((*row.entries, *map(Entry, cells or ["", ""])), row.opens, row.quoted))
    notes = [
        *table.footnotes,
        "MACs: multiply-accumulates of one forward of one image, of the student as it is deployed.",
    ]
    notes += [f"{name}: its sizes on {' / '.join(sizes)}." for name, sizes in costs.items() if len(sizes) > 1]
    return Table(table.title, (*table.header, "M parameters", "M MACs"), table.labels, tuple(rows), tuple(notes))


def _trust(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield what the trust checks say of every evaluation that has been checked on the weights that are there."""
    rows = []
    for run in runs:
        for path in sorted(run.path.glob(f"eval/*/{trust.STEM}*.json")):
            findings, weights = trust.load(path)
            if (run.done or {}).get("weights", {}).get(path.parent.name, weights) != weights:
                continue
            images = path.stem.removeprefix(trust.STEM).removeprefix("-n") or "all"
            for place, one in enumerate(findings):
                words = ("", "", "") if place else (run.path.name, path.parent.name, images)
                rows.append(Row(tuple(map(Entry, (*words, one.level, one.check, one.reason))), opens=not place))
    if rows:
        header = ("run", "checkpoint", "test images", "verdict", "check", "reason")
        notes = (
            "Signs that an attack has failed rather than that the network held: all ok proves nothing, it only lacks them.",
        )
        styles = {level: level for level in ("ok", "note", "warning")}
        yield Section("Trust checks", table=Table("", header, len(header), tuple(rows), notes), styles=styles)


def _by_class(evaluated: Sequence[Evaluated]) -> Iterator[Section]:
    """Yield bars of clean and attacked accuracy by class, one figure a run and checkpoint."""
    frame = accuracies_by_class(evaluated)
    figures = []
    for (run, checkpoint), group in frame.groupby(["run", "checkpoint"], sort=False):
        means = group.groupby("protocol")["value"].mean().drop("clean", errors="ignore")
        strongest = ["aa"] if "aa" in means else [str(means.idxmin())] if len(means) else []
        shown = [name for name in ("clean", *strongest) if name in set(group["protocol"])]
        parts = {name: _shares(group[group["protocol"] == name]) for name in shown}
        figures.append(Figure(image_of(bars(parts)), f"{run}, {checkpoint}", folded=True))
    if figures:
        yield Section("Accuracy by class", figures=figures)


def _shares(rows: pd.DataFrame) -> dict[str, float]:
    return dict(zip(rows["class"], rows["value"], strict=True))


def _tradeoffs(frame: pd.DataFrame, view: View) -> Iterator[Section]:
    """Yield clean against attacked accuracy, a figure for each table that has both of two settings or more."""
    figures = [
        Figure(image_of(drawn), f"Clean against {attack}, {about}")
        for (attack, about), drawn in tradeoffs(frame, view, least=2).items()
    ]
    if figures:
        yield Section("Clean against attacked accuracy", texts=[BARS], figures=figures)


def _curves(runs: Sequence[Run]) -> Iterator[Section]:
    figures = []
    for run in runs:
        if run.metrics:
            figures.append(Figure(image_of(curves({run.path.name: [run]})), run.path.name, folded=True))
        if maps := class_maps(run):
            figures.append(Figure(image_of(maps), f"{run.path.name}, its teachers by class", folded=True))
    if figures:
        yield Section("Curves", figures=figures)


def _sweeps(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield accuracy against eps, a figure for each protocol and norm that was measured under several."""
    figures = []
    for (protocol, norm), lines in sweeps(runs).items():
        scale, unit = (255, "eps in 1/255 (linf)") if norm == "linf" else (1, f"eps ({norm})")
        scaled = {
            name: [(scale * eps, share, low, high) for eps, share, low, high in points]
            for name, points in lines.items()
        }
        figures.append(Figure(image_of(bands(scaled, unit, "accuracy in %")), f"{protocol}, {norm}"))
    if figures:
        text = (
            "Each line is a checkpoint, all its points on the same images; shaded are the 95 % Wilson intervals. "
            "At eps = 0 stands the clean accuracy."
        )
        yield Section("Accuracy against eps", texts=[text], figures=figures)


def _transfer(matrix: Matrix | None) -> Iterator[Section]:
    if matrix:
        yield Section(
            "Transfer between teachers", matrix.notes(), figures=[Figure(image_of(matrix.drawn()), matrix.about)]
        )


def _images(kept: Sequence[Kept], unseen: Sequence[str]) -> Iterator[Section]:
    """Yield grids of clean images, their perturbations, scaled to be seen, and adversarial images."""
    if kept or unseen:
        text = "From above: the clean image, the perturbation (grey is zero, scaled to the largest), the adversarial image."
        yield Section(
            "Adversarial images", texts=[*([text] if kept else []), *unseen], grids=[_grid(one) for one in kept]
        )


def _grid(kept: Kept) -> Grid:
    change = kept.adversarial - kept.clean
    visible = 0.5 + change / (2 * max(abs(change).max(), 1e-12))
    columns = []
    for *images, label, said in zip(kept.clean, visible, kept.adversarial, kept.labels, kept.said, strict=True):
        words = (label, f"the perturbation of {label}", f"{label}, taken for {said}")
        columns.append(Column(list(zip(map(png, images), words, strict=True)), label, said))
    return Grid(kept.about, columns)


def _provenance(runs: Sequence[Run]) -> Section:
    found: dict[str, Any] = provenance(runs)
    rows = []
    for run in found["runs"]:
        known = run["environment"]
        words = (
            run["run"],
            known.get("git_sha", "")[:10],
            known.get("torch", ""),
            run["device"],
            known.get("started", ""),
        )
        rows.append(Row(tuple(map(Entry, words)), opens=True))
    hours = ", ".join(f"{hours:.3g} h on {device}" for device, hours in found["training_device_hours"].items())
    notes = (f"Training {hours or 'none'}; evaluation {found['evaluation_hours']:.3g} h.",)
    header = ("run", "commit", "torch", "device", "started")
    whole = [(run["run"], json.dumps(run, indent=2)) for run in found["runs"]]
    return Section("Provenance", table=Table("", header, len(header), tuple(rows), notes), folded=whole)
