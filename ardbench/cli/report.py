"""`ardbench report`: tables from run directories, without torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    import pandas as pd

    from ardbench.campaigns.suites import Cell, Suite
    from ardbench.reports.page import Kept
    from ardbench.reports.transfer import Matrix
    from ardbench.runs import Run

SHOWN = 10
"""Images in a grid."""
GARBAGE = 100_000
"""Objects after which Python looks for garbage: what a report reads lives to its end, and looking took a tenth of its time."""


@click.command()
@click.argument("what", metavar="[SUITE|RUN...]", nargs=-1, shell_complete=options.complete_suite)
@options.runs
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the tables there as Markdown, CSV and LaTeX with their provenance; without it they are printed.",
)
@click.option(
    "--curves",
    is_flag=True,
    help="Draw what the runs told over their epochs, and accuracies by class, as PNG and SVG, in place of the tables.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one page that needs no other file: tables to sort, figures, trust checks, costs, provenance.",
)
@options.data_root
def report(
    what: tuple[str, ...], runs: Path, out: Path | None, curves: bool, html: Path | None, data_root: Path | None
) -> None:
    """Make tables of what was measured: of one suite, of the runs named, or of all runs under --runs.

    With --curves the files lie in the run's own directory, or for several runs in --out. --html shows images that
    `eval --keep-adversarial` has kept, where their data set is at hand.
    """
    from ardbench.reports import collect, collect_suite, console, write
    from ardbench.reports.curves import draw

    gc.set_threshold(GARBAGE)
    if curves and html is not None:
        raise ArdbenchError(
            "--curves draws figures in place of what --html writes, a page that has them: leave one out."
        )
    output = Output(as_json=False)
    if curves:
        for path in draw(_chosen(what, runs), out):
            output.line(str(path))
        return
    matrix = None
    if len(what) == 1 and not Path(what[0]).is_dir():
        from ardbench.campaigns.suites import planned

        suite, cells = planned(what[0], runs)
        name, chosen, frame = suite.name, [cell.run for cell in cells], collect_suite(cells)
        matrix = _matrix(suite, cells, runs) if html else None
    else:
        name, chosen = "report", _chosen(what, runs)
        frame = collect(chosen)
    if out is None and html is None:
        output.show(console(frame, chosen))
    paths = write(frame, out, name, chosen) if out else []
    if html:
        paths.append(_page(html, name, frame, chosen, matrix, data_root))
    for path in paths:
        output.line(str(path))


def _page(
    path: Path, name: str, frame: pd.DataFrame, runs: Sequence[Run], matrix: Matrix | None, data_root: Path | None
) -> Path:
    """Write the page; sizes of networks and images that were kept are the only things that load torch."""
    from ardbench import data
    from ardbench.models.cost import cost
    from ardbench.reports.page import page
    from ardbench.runs import write_atomic

    there = [run for run in runs if run.metrics]
    costs: dict[str, dict[str, tuple[int, int]]] = {}
    for model, dataset in dict.fromkeys((run.recipe.student, run.recipe.data.name) for run in there):
        costs.setdefault(model, {})[dataset] = cost(model, data.info(dataset))
    kept: list[Kept] = []
    unseen: dict[str, None] = {}
    for run in there:
        try:
            kept += _kept(run, data_root)
        except ArdbenchError as error:
            unseen[f"Images were kept, and the clean ones to show beside them are not at hand: {error}"] = None
    for reason in unseen:
        say(reason)
    write_atomic(
        path,
        page(name, frame, runs, matrix=matrix, kept=kept, unseen=list(unseen), costs=costs).encode(
            errors="backslashreplace"
        ),
    )
    return path


def _matrix(suite: Suite, cells: Sequence[Cell], runs: Path) -> Matrix | None:
    """Return how the suite's teachers transfer, if that was measured."""
    from ardbench.cli.transfer import ask, teachers_of
    from ardbench.evaluation.matrix import load_transfer
    from ardbench.reports.transfer import Matrix

    if suite.transfer is None or not all(one.sha256 for cell in cells for one in cell.teachers):
        return None
    question = ask(teachers_of(suite, cells), suite.transfer.size, n=suite.transfer.n)
    place = question.place(runs)
    return Matrix(question, load_transfer(place), suite.transfer.size) if place.is_file() else None


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

    from ardbench.campaigns.suites import of_present_weights
    from ardbench.data.load import load
    from ardbench.evaluation.adversarial import read_images
    from ardbench.reports.page import Kept
    from ardbench.reports.results import verdicts_of

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


def _chosen(what: tuple[str, ...], root: Path) -> list[Run]:
    from ardbench.runs import Run, all_runs

    found = list(dict.fromkeys(Run.open(Path(text)) for text in what)) or all_runs(root)
    if not found:
        raise ArdbenchError(f"There is no run under {root}: train one first, or give --runs with the folder of runs.")
    return found
