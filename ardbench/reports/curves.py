"""What metrics.jsonl tells over the epochs, as panels of curves, and a teacher's accuracies by class as heat maps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ardbench.data import info
from ardbench.errors import ArdbenchError
from ardbench.reports.figures import CELL, DASHES, PALETTE, PRINTED, figure, heat, save
from ardbench.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[int, str]
"""Its place among the panels and its title."""
Points = tuple[list[int], list[float]]
"""Epochs, counted from 1, and the value of each in which there is one."""


class Line(NamedTuple):
    """What is drawn of a quantity: epochs, counted from 1, means and, over several runs, standard deviations."""

    epochs: list[int]
    means: list[float]
    deviations: list[float] | None


NO_LOSSES = ("epoch", "seconds", "images", "images_per_second", "peak_memory", "learning_rate")
CASES = {"both": "on x and on x'", "clean_only": "on x alone", "neither": "not on x"}
"""IAD's three cases: when a teacher is right."""
LOSS: Panel = (0, "Loss and its terms")
ACCURACY: Panel = (1, "Accuracy of the student in %")
RELIABLE = 2  # a panel for each teacher
ATTACKED: Panel = (3, "Accuracy on the student's x' in %")
WEIGHTS: Panel = (4, "Weights of the teachers")


def draw(groups: Mapping[str, Sequence[Run]], place: Path) -> list[Path]:
    """Write curves as PLACE.png, PLACE.svg and PLACE.pdf, and the classes of each run that has them; return the paths.

    Args:
        groups: runs that differ in the seed alone, by name; several share the panels, one colour each, and those that
            are more than there are colours have figures of their own, PLACE-2 and so on.
        place: folder and name without an ending; classes take the place of "curves" in the name.

    Raises:
        ArdbenchError: a run without an epoch.
    """
    runs = [run for group in groups.values() for run in group]
    if empty := next((run.path for run in runs if not run.metrics), None):
        raise ArdbenchError(f"{empty} has no finished epoch yet: type its command again, or leave it out.")
    paths = []
    for number, names in enumerate(_by_colours(groups), 1):
        where = place.with_name(f"{place.name}-{number}") if number > 1 else place
        paths += save(curves({name: groups[name] for name in names}), where)
    about = place.name.replace("curves", "classes")
    for run in runs:
        if classes := class_maps(run):
            paths += save(classes, place.with_name(about if len(runs) == 1 else f"{about}-{run.path.name}"))
    return paths


def curves(groups: Mapping[str, Sequence[Run]]) -> Figure:
    """Return a panel for each kind of number that the runs have told: colours are quantities, or groups if several.

    Of a group of several runs stand the means over them, in a band of one standard deviation to either side, at the
    epochs that all of them have.
    """
    told = [_over_seeds([_told(run) for run in runs]) for runs in groups.values()]
    panels = sorted({panel for one in told for panel in one})
    if not panels:
        first = next(iter(groups.values()))[0]
        raise ArdbenchError(f"{first.path / 'metrics.jsonl'} tells no numbers that could be drawn.")
    across = min(len(panels), 3)
    down = math.ceil(len(panels) / across)
    drawn = figure(4.6 * across, 3.4 * down)
    last = max(len(run.metrics) for runs in groups.values() for run in runs)
    for place, panel in enumerate(panels, 1):
        axes = drawn.add_subplot(down, across, place)
        axes.set_xlim(1 - 0.05 * last, 1.05 * last)  # epochs, the same ones in every panel
        _panel(axes, panel, [one.get(panel, {}) for one in told])
    names = list(groups)
    if len(names) == 1:
        drawn.suptitle(names[0], fontsize=12)
    else:
        from matplotlib.lines import Line2D

        keys = [Line2D([], [], color=colour, linewidth=2) for colour in PALETTE[: len(names)]]
        drawn.legend(keys, names, loc="outside lower center", frameon=False, ncols=2 if len(names) > 4 else 1)
    return drawn


def _by_colours(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield names in groups of as many as there are colours."""
    left = iter(names)
    while some := list(islice(left, len(PALETTE))):
        yield some


def _over_seeds(seeds: Sequence[Mapping[Panel, Mapping[str, Points]]]) -> dict[Panel, dict[str, Line]]:
    """Return each quantity over the runs that tell it: at the epochs that all of these have, mean and deviation."""
    found: dict[Panel, dict[str, Line]] = {}
    for panel, quantity in dict.fromkeys((place, name) for one in seeds for place in one for name in one[place]):
        several = [dict(zip(*one[panel][quantity], strict=True)) for one in seeds if quantity in one.get(panel, {})]
        epochs = sorted(set.intersection(*(set(one) for one in several)))
        values = [[one[epoch] for one in several] for epoch in epochs]
        means = [sum(some) / len(some) if len(some) > 1 else some[0] for some in values]
        deviations = [_deviation(some, mean) for some, mean in zip(values, means, strict=True)]
        found.setdefault(panel, {})[quantity] = Line(epochs, means, deviations if len(several) > 1 else None)
    return found


def _deviation(values: Sequence[float], mean: float) -> float:
    """Return the standard deviation of values that need not be finite, as those of `statistics` must."""
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / max(1, len(values) - 1))


def class_maps(run: Run) -> Figure | None:
    """Return the last epoch's accuracies by class of every teacher, and CRDND's M1 and M2 of the first one.

    None where the run has told no accuracies by class.
    """
    epoch, teachers = next(
        ((row["epoch"] + 1, found) for row in reversed(run.metrics) if (found := _by_class(row))), (0, [])
    )
    if not teachers:
        return None
    names = info(run.recipe.data.name).classes or tuple(map(str, range(len(teachers[0][0]))))
    rows = [f"teacher {i} on {x}" for i, x in product(range(1, len(teachers) + 1), ("x", "x'"))]
    heights = [CELL * len(rows) + 1, CELL * min(len(names), PRINTED) + 1]
    drawn = figure(2 * heights[1] + 1, sum(heights))
    drawn.suptitle(f"{run.path.name}, epoch {epoch}", fontsize=12)
    accuracies, *compensations = drawn.subplot_mosaic("AA;12", height_ratios=heights).values()
    heat(accuracies, [by for teacher in teachers for by in teacher], rows, names, "Accuracy by class in %")
    for number, (axes, accuracy) in enumerate(zip(compensations, teachers[0], strict=True), 1):
        heat(axes, compensation(accuracy), names, names, f"CRDND's M{number}, in %")
    return drawn


def compensation(accuracy: Sequence[float]) -> list[list[float]]:
    """Return CRDND's M (K, K) with M_ii = a_i and M_ij = (1 - a_j)/(K - 1), without torch."""
    others = len(accuracy) - 1
    return [[a if i == j else (1 - a) / others for j, a in enumerate(accuracy)] for i in range(len(accuracy))]


def _by_class(row: Mapping[str, Any]) -> list[list[list[float]]]:
    """Return for each teacher its accuracies by class on x and on x'; NaN for a class that was not seen."""
    teachers = [t for t in row.get("diagnostics", {}).get("teachers", ()) if t["class_clean"]]
    return [
        [[math.nan if a is None else a for a in teacher[name]] for name in ("class_clean", "class_adv")]
        for teacher in teachers
    ]


def _told(run: Run) -> dict[Panel, dict[str, Points]]:
    """Return the points of every quantity, by panel."""
    found: dict[Panel, dict[str, Points]] = {}
    for row in run.metrics:
        for panel, quantity, value in _placed(row):
            if value is not None:
                epochs, values = found.setdefault(panel, {}).setdefault(quantity, ([], []))
                epochs.append(row["epoch"] + 1)
                values.append(value)
    return found


def _placed(row: Mapping[str, Any]) -> Iterator[tuple[Panel, str, float | None]]:
    """Yield where each number of a row is drawn: panel, quantity, value; shares and accuracies in per cent."""
    for key, value in row.items():
        if re.fullmatch("(val|test)_(clean|robust)", key):
            yield ACCURACY, key.replace("val", "validation").replace("_", ", "), 100 * value
        elif found := re.fullmatch(r"weight_(\d+)", key):
            yield WEIGHTS, f"teacher {int(found[1]) + 1}", value
        elif key not in NO_LOSSES and isinstance(value, (int, float)):
            yield LOSS, key.replace("_", " "), value
    told = row.get("diagnostics", {})
    for number, teacher in enumerate(told.get("teachers", ()), 1):
        for case, words in CASES.items():
            yield (RELIABLE, f"Teacher {number} is right, % of the examples"), words, _percent(teacher[case])
        yield ATTACKED, f"teacher {number}", _percent(teacher["adv"])
    if "peer" in told:
        yield ATTACKED, "peer", _percent(told["peer"]["adv"])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _panel(axes: Axes, panel: Panel, told: Sequence[Mapping[str, Line]]) -> None:
    """Draw the quantities of one panel; of several groups the loss alone, for terms of two methods are not the same."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    several = len(told) > 1
    quantities = list(dict.fromkeys(name for one in told for name in one))
    if several and panel == LOSS:
        quantities = ["loss"]
    keys = []
    for q, quantity in enumerate(quantities):
        dashes = DASHES[(q if several else q // len(PALETTE)) % len(DASHES)]
        look = {"linestyle": dashes, "marker": ".", "markersize": 4}
        keys.append(Line2D([], [], color="0.4" if several else PALETTE[q % len(PALETTE)], **look))
        for r, one in enumerate(told):
            if quantity in one:
                epochs, means, deviations = one[quantity]
                colour = PALETTE[(r if several else q) % len(PALETTE)]
                axes.plot(epochs, means, color=colour, label=quantity, **look)
                if deviations:
                    low, high = ([m + sign * s for m, s in zip(means, deviations, strict=True)] for sign in (-1, 1))
                    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_title(panel[1], fontsize=11)
    axes.set_xlabel("epoch")
    if panel[0] == RELIABLE:
        axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(keys, quantities, fontsize=9, handlelength=3)
