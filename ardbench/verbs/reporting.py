"""`ardbench.results` and `ardbench.report`: from run directories to a tidy table, tables for people, figures, a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.data import heeds_data_root
from ardbench.errors import ArdbenchError, unknown
from ardbench.runs import Run, all_runs, write_atomic
from ardbench.verbs import texts

if TYPE_CHECKING:
    import pandas as pd

    from ardbench.campaigns.cells import Cell
    from ardbench.reports import Table, View
    from ardbench.reports.page import Kept
    from ardbench.reports.published import Number
    from ardbench.reports.rows import Other
    from ardbench.reports.transfer import Matrix

What = str | Path | Run
"""A folder of runs, a run, a suite by name or file, a CSV that a report wrote, or a network that is no run: FILE:ARCH, an
exported folder, zoo:NAME."""
SHOWN = 10
"""Images in a grid."""


@dataclass(frozen=True)
class Report:
    """What was made.

    Args:
        frame: the tidy results (`ardbench.reports.results.COLUMNS`).
        runs: that it tells of.
        view: what tables show.
        paths: files that were written.
        remarks: what could not be shown, and why.
    """

    frame: pd.DataFrame
    runs: Sequence[Run]
    view: View
    paths: tuple[Path, ...]
    remarks: tuple[str, ...]

    @cached_property
    def tables(self) -> list[Table]:
        """The tables for people."""
        from ardbench.reports.classes import read_evaluated
        from ardbench.reports.files import made_tables

        return made_tables(self.frame, read_evaluated(self.runs), self.view)


@dataclass(frozen=True)
class _Chosen:
    """A name for files, the cells of a suite, of a folder or of runs that were named one by one, or results that were read.

    `derived` are the columns that the suite asks for; `others` are networks that are no runs.
    """

    name: str
    cells: Sequence[Cell] = ()
    suite: bool = False
    derived: Sequence[str] = ()
    named: bool = False
    frame: pd.DataFrame | None = None
    others: Sequence[Other] = ()

    @property
    def runs(self) -> list[Run]:
        return [cell.run for cell in self.cells]

    def of(self, students: Sequence[str]) -> _Chosen:
        """Return what of it are networks of these architectures; of none named all.

        Raises:
            ArdbenchError: one of them is of no network there.
        """
        if not students:
            return self
        there = {cell.recipe.student for cell in self.cells} | {one.student or one.model for one in self.others}
        there |= set() if self.frame is None else set(self.frame["student"])
        for name in students:
            if name not in there:
                raise unknown("student among these networks:", name, there)
        return replace(
            self,
            cells=[cell for cell in self.cells if cell.recipe.student in students],
            others=[one for one in self.others if (one.student or one.model) in students],
            frame=None if self.frame is None else self.frame[self.frame["student"].isin(students)],
        )


def results(
    what: What | Sequence[What] = "runs",
    *,
    runs: str | Path = "runs",
    published: str | Path | None = None,
    derived: str | Sequence[str] = (),
    dataset: str | None = None,
    named: str | Sequence[str] = (),
) -> pd.DataFrame:
    """Return the tidy results: a row for each run, checkpoint and protocol, and for each published number beside it.

    Args:
        what: a folder of runs, one run or several, networks that are no runs, a suite (with a row for all that is still to
            be measured), or a CSV that `report` wrote.
        runs: the folder in which a suite's runs lie, and the verdicts of files.
        published: a CSV of numbers like benchmarks/published.csv, which stand beside runs as well.
        derived: columns of numbers that are made on demand: nsd, worst-class, nrr, overfitting, each of aa unless it says
            of what (`nsd:pgd20`), aa-estimated, and minus-aa, of pgd20.
        dataset: of files, which do not say it.
        named: for each network that is no run, in order, what published numbers stand beside it: "METHOD, STUDENT".

    Raises:
        ArdbenchError: there is nothing of that name, or a file is damaged.
    """
    return _frame(_several(what, Path(runs), dataset), published, texts(derived), texts(named))


@heeds_data_root
def report(
    what: What | Sequence[What] = (),
    *,
    runs: str | Path = "runs",
    out: str | Path | None = None,
    html: str | Path | None = None,
    view: View | None = None,
    published: str | Path | None = None,
    data_root: str | Path | None = None,
    dataset: str | None = None,
    named: str | Sequence[str] = (),
    students: str | Sequence[str] = (),
) -> Report:
    """Return tables of what was measured, and write them where told.

    Args:
        what, runs, published, dataset, named: as in `results`; () takes every run in `runs`.
        out: a folder for the tables as Markdown, CSV and LaTeX with their provenance.
        html: a file for one page that needs no other; of a suite with the matrix of its teachers' transfer, if measured.
        view: what tables show (`ardbench.reports.View`).
        data_root: where the page finds clean images beside those that an evaluation has kept.
        students: architectures; () takes the networks of all.

    Raises:
        ArdbenchError: as `results`; or the view names what there is not.
    """
    from ardbench.evaluation.derived import is_asked_for
    from ardbench.reports import View, write

    shown = view or View()
    chosen = _several(what, Path(runs), dataset).of(texts(students))
    frame = _frame(chosen, published, tuple(filter(is_asked_for, shown.columns)), texts(named))
    shown.check(frame)
    paths, remarks = list[Path](), list[str]()
    if out is not None:
        paths += write(frame, Path(out), chosen.name, chosen.runs, view=shown)
    if html is not None:
        matrix = _matrix(what, Path(runs)) if chosen.suite else None
        remarks = _page(Path(html), chosen, frame, shown, matrix, None if data_root is None else Path(data_root))
        paths.append(Path(html))
    return Report(frame, chosen.runs, shown, tuple(paths), tuple(remarks))


def draw(
    what: What | Sequence[What] = (),
    *,
    runs: str | Path = "runs",
    out: str | Path | None = None,
    curves: bool = False,
    tradeoff: bool = False,
    view: View | None = None,
    students: str | Sequence[str] = (),
) -> list[Path]:
    """Write figures as PNG, SVG and PDF: in `out`, else in a single run's directory or beside the runs of a suite.

    Args:
        what, runs, students: as in `report`.
        out: the folder.
        curves: what runs told over their epochs; runs that differ in the seed alone are a mean in a band.
        tradeoff: clean accuracy against accuracy under attack, with intervals.
        view: protocols and checkpoints of the tradeoff.

    Raises:
        ArdbenchError: nothing to draw, or several runs and no folder.
    """
    from ardbench.reports import View
    from ardbench.reports.curves import draw as draw_curves
    from ardbench.reports.figures import save
    from ardbench.reports.settings import by_setting
    from ardbench.reports.tradeoff import required

    chosen, shown = _several(what, Path(runs)).of(texts(students)), view or View()
    stem = f"{chosen.name}-" if chosen.suite else ""
    if chosen.frame is not None and (curves or out is None):
        what_to_do = "name runs or a suite for --curves" if curves else "say where with --out FOLDER"
        raise ArdbenchError(f"A CSV of results has no epochs and no directory of its own: {what_to_do}.")
    if out is not None:
        folder = Path(out)
    elif chosen.suite:
        folder = Path(runs)
    elif len(chosen.cells) == 1:
        folder = chosen.runs[0].path
    else:
        raise ArdbenchError("Figures of several runs belong to none of them: say where with --out FOLDER.")
    paths: list[Path] = []
    if curves:
        # of a suite or a folder the runs that have begun: the others are nobody's mistake
        begun = [cell for cell in chosen.cells if chosen.named or cell.run.metrics]
        if not begun:
            following = f"type ardbench reproduce {chosen.name}" if chosen.suite else "go on with one of them"
            raise ArdbenchError(f"No run there has a finished epoch yet: {following}.")
        paths += draw_curves(by_setting(begun), folder / f"{stem}curves")
    if tradeoff:
        frame = _frame(chosen, None)
        shown.check(frame)
        found = required(frame, shown)
        for (attack, about), figure in found.items():
            words = f"clean-{attack} {about}" if len(found) > 1 else f"clean-{attack}"
            name = stem + "".join(letter if letter.isalnum() or letter == "." else "-" for letter in words).strip("-")
            paths += save(figure, folder / name)
    return paths


def _several(what: What | Sequence[What], runs: Path, dataset: str | None = None) -> _Chosen:
    several = [what] if isinstance(what, str | Path | Run) else list(what)
    return _chosen(several or [runs], runs, dataset)


def _chosen(what: Sequence[What], root: Path, dataset: str | None) -> _Chosen:
    """Return what was named: a suite, results that were written, a folder of runs, or runs and other networks."""
    from ardbench.exports import export_in
    from ardbench.reports.settings import cells_of
    from ardbench.subjects import is_named

    first = what[0]
    if len(what) == 1 and not isinstance(first, Run) and not is_named(first):
        path = Path(first)
        if path.suffix == ".csv":
            from ardbench.reports import read

            return _Chosen(path.stem, frame=read(path))
        folder = path.is_dir() and not (path / "config.json").is_file()
        if folder or path == root:
            if found := all_runs(path):
                return _Chosen("report", cells_of(found))
            if path == root:
                raise ArdbenchError(
                    f"There is no run under {root}: train one first, or give --runs with the folder of runs."
                )
        elif not path.is_dir():
            from ardbench.campaigns.cells import planned

            suite, cells = planned(str(first), root)
            return _Chosen(suite.name, cells, suite=True, derived=suite.derived)
    others = [one for one in what if not isinstance(one, Run) and (is_named(one) or export_in(Path(one)))]
    runs = dict.fromkeys(one if isinstance(one, Run) else Run.open(Path(one)) for one in what if one not in others)
    known = dataset or next((run.recipe.data.name for run in runs), None)
    return _Chosen("report", cells_of(list(runs)), named=True, others=[_other(str(one), known, root) for one in others])


def _other(what: str, dataset: str | None, root: Path) -> Other:
    """Return a network that is no run, with what was measured of it."""
    from ardbench.reports.rows import Other
    from ardbench.subjects import FILE, Words, find, is_file

    (one,) = find(what, Words(dataset=dataset if is_file(what) else None, runs=root))
    identity, found = one.key(FILE)["weights"], list(one.under_any_threat(FILE))
    return Other(Path(what).name, identity, one.model, one.dataset, one.threat, found)


def _as_published(others: Sequence[Other], named: Sequence[str], published: Sequence[Number]) -> list[Other]:
    """Return the networks with the method and the student under which published numbers stand beside them.

    Raises:
        ArdbenchError: more names than networks, or a name of which nothing was published.
    """
    from ardbench.reports.published import UNNAMED, numbers

    if len(named) > len(others):
        raise ArdbenchError(
            f"--as names {len(named)} networks that are no runs, and the table has {len(others)}: runs have their names."
        )
    every = (*numbers(), *published)
    methods = {*UNNAMED, *(number.method for number in every)}
    students = {number.student for number in every}
    found = list(others)
    for place, text in enumerate(named):
        method, comma, student = (part.strip() for part in text.partition(","))
        if not comma:
            raise ArdbenchError(f"--as {text!r} is no METHOD, STUDENT: write it like 'rslad, resnet18'.")
        if method not in methods or student not in students:
            kind, given, allowed = (
                ("method", method, methods) if method not in methods else ("student", student, students)
            )
            raise unknown(f"published {kind}", given, sorted(allowed))
        found[place] = replace(others[place], method=method, student=student)
    return found


def _frame(
    chosen: _Chosen, published: str | Path | None, derived: Sequence[str] = (), named: Sequence[str] = ()
) -> pd.DataFrame:
    from ardbench.reports import collect_suite
    from ardbench.reports.published import own_numbers

    if chosen.frame is None:
        own = own_numbers(Path(published)) if published is not None else ()
        others = _as_published(chosen.others, named, own)
        return collect_suite(chosen.cells, own, tuple(dict.fromkeys([*chosen.derived, *derived])), others)
    if published is not None:
        raise ArdbenchError(
            "--published stands beside runs, and a CSV of results has its published numbers in it: name runs or a suite."
        )
    if absent := next((name for name in derived if name not in set(chosen.frame["protocol"])), None):
        raise ArdbenchError(
            f"Column {absent!r} is made of verdicts, and a CSV of results has none: name runs or a suite, or write the CSV "
            "with that column."
        )
    return chosen.frame


def _matrix(what: What | Sequence[What], runs: Path) -> Matrix | None:
    """Return how a suite's teachers transfer, if that was measured."""
    from ardbench.campaigns.cells import planned
    from ardbench.evaluation.matrix import load_transfer
    from ardbench.reports.transfer import Matrix
    from ardbench.verbs.transferring import ask, teachers_of

    suite, cells = planned(str(what if isinstance(what, str | Path | Run) else what[0]), runs)
    if suite.transfer is None or not all(one.sha256 for cell in cells for one in cell.teachers):
        return None
    question = ask(teachers_of(suite, cells), suite.transfer.size, n=suite.transfer.n)
    place = question.place(runs)
    return Matrix(question, load_transfer(place), suite.transfer.size) if place.is_file() else None


def _page(
    path: Path, chosen: _Chosen, frame: pd.DataFrame, view: View, matrix: Matrix | None, data_root: Path | None
) -> list[str]:
    """Write the page, and return what it cannot show; only sizes of networks and images that were kept load torch."""
    from ardbench import data, models
    from ardbench.models.cost import cost
    from ardbench.reports.page import page

    there = [run for run in chosen.runs if run.metrics]
    costs: dict[str, dict[str, tuple[int, int]]] = {}
    for model, dataset in dict.fromkeys((run.recipe.student, run.recipe.data.name) for run in there):
        if models.known(model):  # else a network object of Python
            costs.setdefault(model, {})[dataset] = cost(model, data.info(dataset))
    kept: list[Kept] = []
    unseen: dict[str, None] = {}
    for run in there:
        try:
            kept += _kept(run, data_root)
        except ArdbenchError as error:
            unseen[f"Images were kept, and the clean ones to show beside them are not at hand: {error}"] = None
    text = page(chosen.name, frame, chosen.runs, matrix=matrix, kept=kept, unseen=list(unseen), costs=costs, view=view)
    write_atomic(path, text.encode(errors="backslashreplace"))
    return list(unseen)


def _kept(run: Run, data_root: Path | None) -> Iterator[Kept]:
    """Yield some of the images with which each attack fooled a run's network, as far as they were kept."""
    ending = ".adversarial.safetensors"
    found = [
        (path, path.with_name(path.name.replace(ending, ".json")))
        for path in sorted(run.path.glob(f"eval/*/*{ending}"))
    ]
    finished = [(images, file) for images, file in found if file.is_file()]
    if not finished:
        return
    import torch

    from ardbench.campaigns.cells import of_present_weights
    from ardbench.data.load import load
    from ardbench.evaluation.adversarial import read_images
    from ardbench.reports.evaluations import verdicts_of
    from ardbench.reports.page import Kept

    split = load(run.recipe.data.name, torch.device("cpu"), data_root, download=False).test
    names = split.info.classes or tuple(map(str, range(split.info.num_classes)))
    for path, file in finished:
        verdicts = verdicts_of(run, file)
        if not of_present_weights(run, path.parent.name, verdicts):
            continue
        x_adv, index = read_images(path)["x_adv"], torch.tensor(verdicts.index)
        if len(x_adv) != len(index) or x_adv.shape[1:] != split.images.shape[1:] or int(index.max()) >= len(split):
            raise ArdbenchError(f"{path} holds other images than its verdicts are of; delete it to measure again.")
        x = split.pixels(index)  # (n, C, H, W)
        moved = ((x_adv - x).abs().flatten(1).amax(dim=1) > 0).tolist()
        rows = [i for i, robust in enumerate(verdicts.robust) if moved[i] and not robust][:SHOWN]
        if rows:
            yield Kept(
                f"{run.path.name}, {path.parent.name}, {verdicts.protocol}",
                x[rows].permute(0, 2, 3, 1).numpy(),
                x_adv[rows].permute(0, 2, 3, 1).numpy(),
                [names[verdicts.labels[i]] for i in rows],
                [names[verdicts.predictions[i]] for i in rows],
            )
