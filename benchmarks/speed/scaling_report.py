"""The rows of the scaling benchmark, their CSV, the Markdown page and the figure beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tables import Cells, Measurement, Table, markdown, where

from ardbench.reports.figures import PALETTE, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE = """\
One training step of PGD adversarial training as the engine makes it (the recipes `pgd-at-cifar10` and `pgd-at-digits`,
random images of the data set's shape, a fresh student): one base point, and each axis of it varied alone. Seconds of a step
are the median of the samples, and "processor s" those of all processors together, which busy neighbours disturb less.
An epoch is not run to its end: its seconds are its images by the images/s of the step, and "overhead", what the engine does
once an epoch, measured by itself between the samples: closing it (a look at all weights; metrics and state written to disk)
and beginning the next (a permutation). There is no validation in it. GFLOP are counted from the method's own step
(`ardbench/planning/counting.py`), TFLOP/s are these by the seconds measured. Memory is the peak of resident memory above what
the process held before images and network were made, each point in a process of its own: some 100 MB of it are what torch
loads at its first step. On CUDA it is the peak of allocated memory.
"""
AXES = {"batch": "batch size", "steps": "PGD steps", "model": "student", "images": "images of the data set"}
"""The columns that are varied, in words."""
WIDE = 20
"""Heights that differ by more than this factor are drawn on a logarithmic scale, others from 0."""


@dataclass(frozen=True)
class Measured:
    """What a point took: seconds of one step and of all processors in it, of an epoch's overhead, and the peak in MB."""

    seconds: float
    processor_seconds: float
    overhead_seconds: float
    peak_mb: float


@dataclass
class Row(Measurement):
    """One point; everything up to `dataset` is its key."""

    precision: str
    model: str
    batch: int
    steps: int
    images: int
    dataset: str
    seconds: float = 0.0
    processor_seconds: float = 0.0
    images_per_second: float = 0.0
    gflop_per_image: float = 0.0
    tflops: float = 0.0
    overhead_seconds: float = 0.0
    epoch_seconds: float = 0.0
    peak_mb: int = 0
    repeats: int = 0
    date: str = ""

    def measured(self, taken: Measured, flop: float, repeats: int) -> None:
        """Fill in what was measured, and what follows from it; `flop` are those of one image."""
        speed = self.batch / taken.seconds
        self.seconds, self.processor_seconds = round(taken.seconds, 5), round(taken.processor_seconds, 5)
        self.images_per_second, self.gflop_per_image = round(speed, 2), round(flop / 1e9, 4)
        self.tflops, self.overhead_seconds = round(flop * speed / 1e12, 5), round(taken.overhead_seconds, 5)
        self.epoch_seconds = round(self.images / speed + taken.overhead_seconds, 3)
        self.fill(peak_mb=round(taken.peak_mb), repeats=repeats)


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "dataset", path, page)


def lines(rows: list[Cells], axis: str) -> list[list[Cells]]:
    """Return the rows that differ from each other in one axis alone, as lines of two or more, in the axis' order."""
    key, found = open_table(Path()).key, dict[tuple[str, ...], list[Cells]]()
    for row in rows:
        found.setdefault(tuple(row[name] for name in key if name != axis), []).append(row)
    order = "gflop_per_image" if axis == "model" else axis
    return [sorted(line, key=lambda row: float(row[order])) for line in found.values() if len(line) > 1]


def fixed(row: Cells, axis: str) -> str:
    """Return, in words, what is the same on a line along an axis."""
    words = {
        "model": row["model"],
        "batch": f"batch {row['batch']}",
        "steps": f"PGD-{row['steps']}",
        "images": f"{int(row['images']):,} images",
    }
    return ", ".join([*(said for name, said in words.items() if name != axis), row["precision"]])


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows: a table for every line along every axis."""
    heads = ["s/step", "processor s", "images/s", "GFLOP/image", "TFLOP/s", "s/epoch", "overhead s", "peak MB"]
    parts = ["# How the cost of training grows\n", NOTE]
    for axis, said in AXES.items():
        for line in lines(rows, axis):
            parts.append(f"## By {said}\n\n{line[0]['dataset']}, {fixed(line[0], axis)}; {where(line[0])}\n")
            parts.append(markdown([said, *heads], [_cells(row, axis) for row in line]))
    return "\n".join(parts)


def draw(rows: list[Cells], path: Path) -> list[Path]:
    """Write PATH.png and PATH.svg: a column for each axis, above images/s (seconds of an epoch by images), below memory."""
    drawn = figure(14, 6.5)
    columns = drawn.subplots(2, len(AXES), sharex="col").T
    for (speed, memory), axis in zip(columns, AXES, strict=True):
        several = lines(rows, axis)
        if axis == "images":
            _panel(speed, several, axis, "epoch_seconds", "seconds of an epoch")
        else:
            _panel(speed, several, axis, "images_per_second", "images/s")
        _panel(memory, several, axis, "peak_mb", "peak memory in MB")
        memory.set_xlabel(AXES[axis])
        speed.set_title("" if not several else fixed(several[0][0], axis), fontsize=9)
        if len(several) > 1:
            speed.set_title("")
            memory.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.3))
    return save(drawn, path)


def _panel(axes: Axes, several: list[list[Cells]], axis: str, column: str, said: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_ylabel(said)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for place, line in enumerate(several):
        x = [row[axis] if axis == "model" else int(row[axis]) for row in line]
        y = [float(row[column]) for row in line]
        axes.plot(x, y, marker="o", color=PALETTE[place % len(PALETTE)], label=fixed(line[0], axis))
    if not several:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    if axis == "model":
        axes.tick_params(axis="x", rotation=30)
    else:
        if axis != "steps":
            axes.set_xscale("log")
        values = sorted({int(row[axis]) for line in several for row in line})
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.minorticks_off()
    heights = [float(row[column]) for line in several for row in line]
    if max(heights) > WIDE * min(heights):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.1 * max(heights))
    axes.yaxis.set_major_formatter("{x:,.4g}")


def _cells(row: Cells, axis: str) -> list[str]:
    value = row[axis] if axis == "model" else f"{int(row[axis]):,}"
    rates = [f"{float(row[name]):.3g}" for name in ("seconds", "processor_seconds")]
    rates += [f"{float(row[name]):.4g}" for name in ("images_per_second", "gflop_per_image", "tflops", "epoch_seconds")]
    return [value, *rates, f"{float(row['overhead_seconds']):.2g}", row["peak_mb"]]
