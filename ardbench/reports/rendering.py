"""One table in three dresses: Markdown, LaTeX with booktabs, and the console."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from ardbench.errors import printable
from ardbench.reports.tables import Entry, Row, Table

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "§": r"$\S$",
    "¶": r"\P{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip
FITTED = r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\tabcolsep=3pt"
"""Opens a box that is as wide as it is, and no wider than the line."""


def markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub-flavoured Markdown, footnotes as a list below each."""
    return "\n".join(_markdown_table(table) for table in tables)


def latex(tables: Sequence[Table], fit_width: bool = False) -> str:
    """Return the tables as LaTeX floats; they need the package booktabs and nothing else.

    Args:
        tables: what is shown.
        fit_width: stack words and intervals, and scale what is still wider than the line; needs graphicx as well.
    """
    packages = "booktabs,graphicx" if fit_width else "booktabs"
    made = [_latex_table(_folded(table), True) if fit_width else _latex_table(table, False) for table in tables]
    return f"% \\usepackage{{{packages}}}\n" + "\n".join(made)


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(character, character) for character in printable(text))


def renderable(tables: Sequence[Table]) -> RenderableType:
    """Return the tables for a rich console."""
    return Group(*map(_Screen, tables))


def _markdown_table(table: Table) -> str:
    rows = [[_plain(entry, row.quoted) for entry in row.entries] for row in table.rows]
    header = [marked(word) for word in table.header]
    widths = [max(3, *(len(line[column]) for line in [header, *rows])) for column in range(len(header))]
    rule = ["-" * width if column < table.labels else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [_line(line, widths, table.labels) for line in [header, rule, *rows]]
    notes = [f"- {marked(note)}" for note in table.footnotes]
    return "\n".join([f"## {marked(table.title)}", "", *lines, "", *notes, ""])


def _line(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    padded = [
        cell.ljust(width) if i < labels else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _plain(entry: Entry, quoted: bool) -> str:
    number = marked(entry.text + entry.mark)
    text = " ".join(filter(None, (f"**{number}**" if entry.bold else number, marked(entry.detail))))
    return f"*{text}*" if quoted and text else text


def marked(text: str) -> str:
    """Return text that Markdown shows as it stands: no HTML, link, code or cell begins in it."""
    return re.sub(r"[\\`<|*]|\](?=[(\[:])|&(?=[#\w]+;)", r"\\\g<0>", printable(text))


def _latex_table(table: Table, fits: bool) -> str:
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    opened, closed = (FITTED, "  }") if fits else ("", "")
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escaped(table.title)}}}",
        *([opened] if fits else []),
        f"  \\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        f"    {_joined(map(escaped, table.header))}",
        r"    \midrule",
    ]
    for index, row in enumerate(table.rows):
        lines += [r"    \addlinespace"] if row.opens and index else []
        lines.append(
            f"    {_joined(_latex_entry(entry, row, 'lr'[i >= table.labels] * fits) for i, entry in enumerate(row.entries))}"
        )
    lines += [
        r"    \bottomrule",
        r"  \end{tabular}",
        *([closed] if fits else []),
        "",
        r"  \smallskip",
        r"  \begin{minipage}{\linewidth}\footnotesize",
    ]
    lines += [f"    {escaped(note)}\\par" for note in table.footnotes]
    return "\n".join([*lines, r"  \end{minipage}", r"\end{table}", ""])


def _folded(table: Table) -> Table:
    """Return a table whose student and teachers stand below the run, as on the screen."""
    words = table.header[: table.labels]
    if words[:1] != ("run",) or not {"student", "teachers"} & set(words):
        return table
    kept = [i for i, name in enumerate(table.header) if i >= table.labels or name not in ("student", "teachers")]
    rows = []
    for row in table.rows:
        below = _below(dict(zip(words, (entry.text for entry in row.entries), strict=False)))
        run = replace(row.entries[0], detail=below)
        rows.append(replace(row, entries=(run, *(row.entries[i] for i in kept if i))))
    header = tuple(table.header[i] for i in kept)
    return replace(table, header=header, labels=sum(i < table.labels for i in kept), rows=tuple(rows))


def _joined(cells: Iterable[str]) -> str:
    line = " & ".join(cells)
    return f"{'{}' * line.startswith(('[', '*'))}{line} \\\\"  # which would belong to the \\\\ of the row above


def _latex_entry(entry: Entry, row: Row, stacked: str) -> str:
    """Return a cell; `stacked` is the side, l or r, at which its detail stands below its text."""
    text = escaped(entry.text + entry.mark)
    text = f"\\textit{{{text}}}" if row.quoted and text else f"\\textbf{{{text}}}" if entry.bold else text
    if not entry.detail:
        return text
    if stacked:
        detail = f"\\tiny {escaped(entry.detail)}"
        return f"\\begin{{tabular}}[t]{{@{{}}{stacked}@{{}}}}{text}\\\\[-3pt]{detail}\\end{{tabular}}"
    return f"{text} {{\\scriptsize {escaped(entry.detail)}}}"


class _Screen:
    """A table as wide as the screen: the words of a row are stacked, and columns that do not fit follow below."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table
        named = table.header[: table.labels]
        words = [_stacked(named, [entry.text for entry in row.entries[: table.labels]]) for row in table.rows]
        columns = [
            [Text(table.header[i]), *(_console_entry(row.entries[i]) for row in table.rows)]
            for i in range(table.labels, len(table.header))
        ]
        widest = min(2 + max(map(_width, words)), options.max_width // 2)  # longer words are wrapped
        room = options.max_width - 4 - widest
        yield Text(table.title, style="bold")
        while columns:
            fitting = max(1, sum(total <= room for total in accumulate(2 + max(map(_width, one)) for one in columns)))
            yield self._grid(words, widest, columns[:fitting])
            columns = columns[fitting:]
        yield Padding(Text("\n".join(table.footnotes), style="dim"), (0, 0, 1, 1), expand=False)

    def _grid(self, words: Sequence[Text], widest: int, columns: Sequence[Sequence[Text]]) -> Grid:
        grid = Grid(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
        grid.add_column(self.table.header[0], overflow="fold", max_width=widest)
        for header, *_ in columns:
            grid.add_column(header, justify="right", no_wrap=True)
        for index, row in enumerate(self.table.rows):
            cells = [column[index + 1] for column in columns]
            if row.opens and index and not self.table.rows[index - 1].opens:
                grid.add_section()
            about = words[index] if row.opens else Padding(words[index], (0, 0, 0, 2))
            grid.add_row(about, *cells, style="italic dim" if row.quoted else None)
        return grid


def _width(text: Text) -> int:
    return max(len(line) for line in text.plain.split("\n"))


def _stacked(names: Sequence[str], words: Sequence[str]) -> Text:
    """Return "run, checkpoint" over "student from teachers", as far as the table has them."""
    about = dict(zip(names, words, strict=True))
    below = _below(about)
    first = ", ".join(word for name, word in about.items() if word and name not in ("student", "teachers"))
    return Text.assemble(first, (f"\n{below}" if below else "", "dim"))


def _below(about: Mapping[str, str]) -> str:
    """Return "student from teachers"."""
    teachers = about.get("teachers")
    return " ".join(filter(None, (about.get("student"), teachers and f"from {teachers}")))


def _console_entry(entry: Entry) -> Text:
    """Return the number over its interval."""
    number = (entry.text + entry.mark, "bold" if entry.bold else "")
    return Text.assemble(number, ("\n" + entry.detail if entry.detail else "", "dim"))
