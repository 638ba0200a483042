"""From the tidy results to tables: runs down, protocols across, what was published below what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from ardbench.config import EXTRA
from ardbench.evaluation.derived import WORST
from ardbench.reports import footnotes
from ardbench.reports.evaluations import protocol_order, threat_name
from ardbench.reports.evaluations import written_eps as written_eps
from ardbench.reports.view import WHOLE, View
from ardbench.reports.worst import Behind, behind
from ardbench.runs import checkpoint_order

SUBSET, UNFINISHED, ASSUMED, FURTHER = "†", "‡", "§", "¶"


@dataclass(frozen=True)
class Entry:
    """A cell as it is printed: the number, its uncertainty, a footnote mark, and whether it stands in bold."""

    text: str = ""
    detail: str = ""
    mark: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a table; `opens` is true where a new run begins, `quoted` where the numbers are published ones."""

    entries: tuple[Entry, ...]
    opens: bool = False
    quoted: bool = False


@dataclass(frozen=True)
class Table:
    """A table for people.

    Args:
        title: one line.
        header: of every column.
        labels: how many columns from the left hold words; the others hold numbers.
        rows: as long as the header each.
        footnotes: one sentence or two each.
    """

    title: str
    header: tuple[str, ...]
    labels: int
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


def tables(frame: pd.DataFrame, view: View = WHOLE) -> list[Table]:
    """Return a table of accuracies per data set and threat, and one of training costs.

    Args:
        frame: what `collect` or `read` returned.
        view: what of them is shown.
    """
    found = [_accuracies(part, dataset, threat, view) for dataset, threat, part in parts(frame)]
    return [*found, *_costs(frame)]


def cut(made: Iterable[Table], view: View) -> list[Table]:
    """Return tables with the columns of a view alone, and with numbers alone where it shows no intervals.

    A table of which no number is left is left out.

    Raises:
        ArdbenchError: no table has a column that the view names.
    """
    every = list(made)
    view.check_columns(table.header for table in every)
    found = []
    for table in every:
        if places := view.places(table.header, table.labels):
            lines = [replace(row, entries=tuple(_shown(row.entries[i], view) for i in places)) for row in table.rows]
            header, labels = tuple(table.header[i] for i in places), sum(i < table.labels for i in places)
            found.append(replace(table, header=header, labels=labels, rows=tuple(lines)))
    return found


def _shown(entry: Entry, view: View) -> Entry:
    return entry if view.intervals or not entry.detail.startswith("[") else replace(entry, detail="")


def parts(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (data set, threat, rows); clean accuracies stand in every table of their run."""
    for dataset in dict.fromkeys(frame["dataset"]):
        rows = frame[frame["dataset"] == dataset]
        attacked = ~rows["protocol"].isin(["clean", ""])
        threats = list(dict.fromkeys(zip(rows.loc[attacked, "norm"], rows.loc[attacked, "eps"], strict=True)))
        for norm, eps in threats:
            fits = attacked & (rows["norm"] == norm) & (rows["eps"] == eps)
            elsewhere = set(rows.loc[attacked, "run"]) - set(rows.loc[fits, "run"])
            yield dataset, threat_name(norm, eps), rows[fits | (~attacked & ~rows["run"].isin(elsewhere))]
        if not threats:
            yield dataset, "", rows


def _accuracies(rows: pd.DataFrame, dataset: str, threat: str, view: View) -> Table:
    worst, checked = behind(rows), replace(view, protocols=(), columns=()).of(rows)
    rows = worst.shown(view.of(rows))
    protocols = protocol_order(rows.loc[rows["protocol"] != "", "protocol"])
    decimals = 2 if (rows["n"].max() if rows["n"].notna().any() else 0) >= 5000 else 1
    lines: list[Row] = []
    waiting: list[str] = []
    called, begun = names(rows), rows["value"].notna().any()
    for key, group in groups(rows):
        block = _block(group, called[key], protocols, decimals, worst)
        if begun and not any(map(_tells, block)):
            waiting.append(called[key].partition(f" {UNFINISHED}")[0])
        else:
            lines += [row for row in block if row.opens or not begun or _tells(row)]
    return Table(
        f"Accuracy in % on {dataset}" + (f" ({threat})" if threat else ""),
        ("run", "student", "teachers", "checkpoint", *protocols),
        4,
        tuple(lines),
        tuple(footnotes.of_accuracies(rows, worst, checked, view.intervals, list(dict.fromkeys(waiting)))),
    )


def _tells(row: Row) -> bool:
    """Return whether a line of accuracies, whose words take four columns, has a number."""
    return any(entry.text for entry in row.entries[4:])


def groups(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield the runs that differ in nothing but the seed; unfinished and stale ones apart from finished ones."""
    standing = rows["status"].where(rows["status"].isin(["partial", "stale"]), "")
    label = rows["suite_name"].where(rows["suite_name"] != "", rows["recipe"].where(rows["recipe"] != "", rows["run"]))
    keyed = rows.assign(label=label, standing=standing)
    for key, group in keyed.groupby(["label", "setting", "standing"], sort=False):
        yield tuple(str(part) for part in key), group


def names(rows: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Return how each group is called; settings that share every visible name are told apart by what differs."""
    seen: dict[tuple[str, str, str], set[str]] = {}
    keys = [(key, group.iloc[0]) for key, group in groups(rows)]
    for (label, setting, _), first in keys:
        seen.setdefault((label, first["student"], first["teachers"]), set()).add(setting)
    found: dict[tuple[str, ...], str] = {}
    for (label, setting, standing), first in keys:
        several = len(seen[label, first["student"], first["teachers"]]) > 1
        mark = f" {UNFINISHED} ({standing})" if standing else ""
        about = f" ({first['differs'] or f'#{setting}'})" if several else ""
        extra = " + extra data" if first["method"].split("+")[-1] == EXTRA else ""
        found[label, setting, standing] = f"{label}{extra}{about}{mark}"
    return found


def _block(group: pd.DataFrame, name: str, protocols: list[str], decimals: int, worst: Behind) -> list[Row]:
    """Return the lines of one run: each checkpoint, and below it what was published; last what fits none of them."""
    first = group.iloc[0]
    labels = (name, first["student"], first["teachers"])
    measured, quoted = group[group["published"].isna()], group[group["published"].notna()]
    checkpoints = checkpoint_order(name for name in measured["checkpoint"] if name) or [""]
    lines: list[Row] = []
    for checkpoint in checkpoints:
        rows = measured[measured["checkpoint"] == checkpoint]
        shown = labels if not lines else ("", "", "")
        tested = checkpoint == "best" and rows["selection"].str.startswith("best-test").any()
        cells = _entries(rows, protocols, decimals, worst)
        words = (*shown, f"{checkpoint} (by test!)" if tested else checkpoint)
        lines.append(Row((*(Entry(word) for word in words), *cells), opens=not lines))
        lines += _published(quoted[quoted["checkpoint"] == checkpoint], protocols)
    return lines + _published(quoted[~quoted["checkpoint"].isin(checkpoints)], protocols)


def _entries(rows: pd.DataFrame, protocols: list[str], decimals: int, worst: Behind) -> list[Entry]:
    """Return the cells of a line; its worst case is marked where it is over more attacks than those of most lines."""
    cells = [entry(rows[rows["protocol"] == protocol], decimals) for protocol in protocols]
    lines = set(zip(rows["run"], rows["checkpoint"], strict=True))
    if WORST in protocols and lines & worst.over_more.keys() and cells[place := protocols.index(WORST)].text:
        cells[place] = replace(cells[place], mark=cells[place].mark + FURTHER)
    return cells


def entry(rows: pd.DataFrame, decimals: int) -> Entry:
    """Return one cell: value and interval, over several seeds mean and deviation; blank if nothing was measured."""
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return Entry()
    rows = rows[rows["protocol_version"] == rows["protocol_version"].max()]
    rows = rows[rows["n"] == rows["n"].max()]
    mark = SUBSET if rows["subset"].astype(bool).any() else ""
    bold = bool(rows["winner"].fillna(False).astype(bool).all())
    mean = f"{100 * rows['value'].mean():.{decimals}f}"
    if len(rows) > 1:
        return Entry(mean, f"± {100 * rows['value'].std():.{decimals}f} ({len(rows)})", mark, bold)
    low, high = 100 * rows["low"].iloc[0], 100 * rows["high"].iloc[0]
    return Entry(mean, f"[{low:.{decimals}f}, {high:.{decimals}f}]", mark, bold)


def _published(quoted: pd.DataFrame, protocols: list[str]) -> list[Row]:
    """Return the lines of published numbers, one per source; two numbers for one cell stand in it side by side."""
    source = ["published_method", "published_paper", "published_kind", "published_teacher", "checkpoint"]
    once = quoted.drop_duplicates([*source, "protocol", "published"])  # each seed has brought them
    lines = []
    for (method, paper, kind, teacher, checkpoint), group in once.groupby(source, sort=False):
        cells = [_quoted(group[group["protocol"] == one]) for one in protocols]
        name = (
            f"published: {paper} ({kind})"
            if method in set(group["method"])
            else f"published as {method}: {paper} ({kind})"
        )
        words = (name, "", str(teacher), str(checkpoint))
        lines.append(Row((*map(Entry, words), *cells), quoted=True))
    return lines


def _quoted(rows: pd.DataFrame) -> Entry:
    """Return one cell of published numbers, each with whether it was reached, and the tolerance that they share."""
    numbers = " / ".join(f"{100 * value:.2f}" for value in rows["published"])
    if not (rows["verdict"] != "").any():
        return Entry(numbers)
    first = rows.iloc[0]
    mark = ASSUMED if first["assumed"] else ""
    return Entry(numbers, f"({' / '.join(rows['verdict'])}; ± {100 * first['tolerance']:.1f}{mark})")


def _costs(frame: pd.DataFrame) -> list[Table]:
    """Return the table of training costs, or none while no run has told any."""
    runs = frame.drop_duplicates("run")
    runs = runs[runs["hours"].notna()]
    if runs.empty:
        return []
    called = names(runs)
    lines = []
    for key, group in groups(runs):
        first = group.iloc[0]
        kinds = " and ".join(sorted({"GPU" if kind == "cuda" else kind.upper() for kind in group["device_kind"]}))
        words = (called[key], first["student"], first["teachers"], kinds)
        speed, hours = group["images_per_second"].mean(), group["hours"].mean()
        numbers = (str(len(group)), f"{speed:.0f}" if pd.notna(speed) else "", f"{hours:.3g}")
        lines.append(Row(tuple(Entry(word) for word in (*words, *numbers)), opens=True))
    header = ("run", "student", "teachers", "device", "runs", "images/s", "device-hours a run")
    return [Table("Cost of training", header, 4, tuple(lines), tuple(footnotes.of_costs(runs)))]
