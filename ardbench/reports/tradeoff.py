"""Clean accuracy against accuracy under attack, with intervals: a point for each line of a table that has both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ardbench.errors import ArdbenchError
from ardbench.evaluation.derived import ESTIMATED, is_derived
from ardbench.reports.evaluations import protocol_order
from ardbench.reports.figures import MARKERS, PALETTE, figure
from ardbench.reports.tables import groups, names, parts
from ardbench.reports.view import WHOLE, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = (
    "Bars are the 95 % Wilson intervals of the test images; of several seeds, the mean with the standard deviation "
    "between them."
)


class Share(NamedTuple):
    """An accuracy and the ends of its bar, as fractions, and what the bar is."""

    value: float
    low: float
    high: float
    told: str


def tradeoffs(frame: pd.DataFrame, view: View = WHOLE, least: int = 1) -> dict[tuple[str, str], Figure]:
    """Return a figure for each data set and threat by (attack, "data set (threat)").

    The attack is AutoAttack where it was measured, estimated on all images where that was asked for, else the last of the
    table's columns; of the protocols and checkpoints of a view alone, if it names any.

    Args:
        frame: the tidy results.
        view: what is shown.
        least: points without which there is no figure.
    """
    found = {}
    for dataset, threat, rows in parts(frame):
        attack = _telling(rows, view)
        points = dict(_points(rows, attack, view)) if attack else {}
        if len(points) >= least:
            found[attack, f"{dataset} ({threat})"] = _drawn(points, attack, f"{dataset} ({threat})")
    return found


def required(frame: pd.DataFrame, view: View = WHOLE) -> dict[tuple[str, str], Figure]:
    """Return the figures of `tradeoffs`, of which there is one at least.

    Raises:
        ArdbenchError: nothing has been measured both clean and under attack.
    """
    found = tradeoffs(frame, view)
    if not found:
        raise ArdbenchError(
            "No run was measured both clean and under attack: type `ardbench eval RUN --protocol clean --protocol aa` first."
        )
    return found


def _telling(rows: pd.DataFrame, view: View) -> str:
    measured = protocol_order(rows.loc[rows["value"].notna() & (rows["protocol"] != "clean"), "protocol"])
    attacks = [name for name in measured if (name == ESTIMATED or not is_derived(name)) and view.shows(name, "")]
    return next((name for name in (ESTIMATED, "aa") if name in attacks), attacks[-1] if attacks else "")


def _points(rows: pd.DataFrame, attack: str, view: View) -> Iterator[tuple[str, tuple[Share, Share]]]:
    """Yield name and (clean, attacked) of every line that has both; checkpoints of one run in one place are one point."""
    measured, found = rows[rows["value"].notna()], dict[tuple[str, str, tuple[Share, Share]], list[str]]()
    called = names(measured)
    for key, group in groups(measured):
        first = group.iloc[0]
        below = " from ".join(filter(None, (first["student"], first["teachers"])))
        for checkpoint in filter(lambda one: view.shows("", one), ("best", "last", "averaged")):
            line = group[group["checkpoint"] == checkpoint]
            clean, robust = _share(line, "clean"), _share(line, attack)
            if clean and robust:
                found.setdefault((called[key], below, (clean, robust)), []).append(checkpoint)
    alike = {name: len({below for other, below, _ in found if other == name}) for name, *_ in found}
    several = len({checkpoint for some in found.values() for checkpoint in some}) > 1
    for (name, below, shares), some in found.items():
        words = (name, below if alike[name] > 1 else "", " and ".join(some) if several else "")
        yield ", ".join(filter(None, words)), shares


def _share(line: pd.DataFrame, protocol: str) -> Share | None:
    """Return what a table prints: the newest version on the most images, over seeds mean and deviation."""
    rows = line[line["protocol"] == protocol]
    rows = rows[rows["protocol_version"] == rows["protocol_version"].max()]
    rows = rows[rows["n"] == rows["n"].max()]
    if rows.empty:
        return None
    mean = float(rows["value"].mean())
    if len(rows) == 1:
        return Share(
            mean, float(rows["low"].iloc[0]), float(rows["high"].iloc[0]), f"95 % of {rows['n'].iloc[0]} images"
        )
    deviation = float(rows["value"].std())
    return Share(mean, mean - deviation, mean + deviation, f"± s of {len(rows)} seeds")


def _drawn(points: dict[str, tuple[Share, Share]], attack: str, about: str) -> Figure:
    drawn = figure(6.4, 3.6 + 0.2 * len(points))
    axes = drawn.subplots()
    told = {robust.told for _, robust in points.values()}
    for place, (name, shares) in enumerate(points.items()):
        (x, left, right), (y, low, high) = ((100 * share for share in one[:3]) for one in shares)
        axes.errorbar(
            x, y, xerr=[[x - left], [right - x]], yerr=[[y - low], [high - y]], capsize=2, linewidth=1,
            label=name if len(told) == 1 else f"{name}, {shares[1].told}",
            color=PALETTE[place % len(PALETTE)], marker=MARKERS[place // len(PALETTE) % len(MARKERS)], linestyle="none",
        )  # fmt: skip
    axes.set(xlabel="clean accuracy in %", ylabel=f"accuracy under {attack} in %", title=about)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"bars of {attack}: {told.pop()}" if len(told) == 1 else None
    drawn.legend(loc="outside lower center", fontsize=9, frameon=False, title=title, title_fontsize=9)
    return drawn
