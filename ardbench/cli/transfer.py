"""`ardbench transfer`: which teachers fall for each other's adversarial examples, and which set does so least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, table
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log

if TYPE_CHECKING:
    from ardbench.campaigns.suites import Cell, Suite
    from ardbench.config import Threat
    from ardbench.evaluation.matrix import Question, Transfer
    from ardbench.reports.transfer import Matrix
    from ardbench.runs import Teacher

Norm = Literal["linf", "l2"]


@click.command()
@click.argument("sources", metavar="TEACHER|SUITE...", nargs=-1, required=True, shell_complete=options.complete_suite)
@click.option("--size", type=click.IntRange(min=2), default=2, show_default=True, help="Teachers in the set to choose.")
@click.option("--dataset", metavar="NAME", help="Whose test images are attacked; the first teacher's own if not given.")
@click.option("--eps", type=options.Radius(), metavar="EPS", help="The radius of the attack, such as 8/255.")
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="The norm of the attack; as with --eps, the first teacher's own if not given.",
)
@click.option("--n", type=click.IntRange(min=1), help="Attack a class-balanced subset of so many test images.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Images at a time; it decides the noise of the attack.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The seed of the attack.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write transfer.csv, transfer.md and the heat map as PNG, SVG and PDF there.",
)
@options.device
@options.data_root
@options.runs
@options.quiet
@options.log_file
@options.as_json
def transfer(
    sources: tuple[str, ...], size: int, dataset: str | None, eps: float | None, norm: Norm | None, n: int | None,
    batch: int, seed: int, out: Path | None, device: str, data_root: Path | None, runs: Path, quiet: bool,
    log_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure how adversarial examples transfer between teachers, and choose the set with the lowest mean.

    TEACHER is a source as `distill --teacher` takes it; a SUITE stands for all of its teachers. An example is crafted
    from each image that its source classifies correctly (APGD-CE, 40 steps). What was measured is kept under --runs.
    """
    from ardbench.campaigns.suites import planned, suite_names
    from ardbench.reports.transfer import Matrix

    named: list[str | Teacher] = []
    for text in sources:
        is_suite = text in suite_names() or text.endswith(".toml")
        named += teachers_of(*planned(text, runs)) if is_suite else [text]
    question = ask(named, size, dataset, norm, eps, n, batch, seed)
    if out is not None:
        from ardbench.runs import check_makeable

        check_makeable("--out", out)
    output, log = Output(as_json), Log.to(log_file)
    matrix = Matrix(question, answered(question, runs, device, data_root, quiet, output, log), size)
    files = show(matrix, output, out and out / "transfer")
    output.document(question.document() | matrix.document() | {"files": files})


def teachers_of(suite: Suite, cells: Sequence[Cell]) -> list[Teacher]:
    """Return the teachers of a suite, each once, or say which of them is not there yet."""
    found = list({one.source: one for cell in cells for one in cell.teachers}.values())
    if absent := next((one.source for one in found if not one.sha256), None):
        raise ArdbenchError(
            f"Teacher {absent} of the suite is not there yet: type ardbench reproduce {suite.name} first."
        )
    return found


def ask(
    named: Sequence[str | Teacher], size: int, dataset: str | None = None, norm: Norm | None = None, eps: float | None = None,
    n: int | None = None, batch: int = 500, seed: int = 0,
) -> Question:  # fmt: skip
    """Return what is to be measured, after all that can be refused before torch is loaded.

    Args:
        named: teachers or their sources; one that is there twice counts once.
        size: of the set that is to be chosen.
        dataset, norm, eps: those of the first teacher that says its own, unless given.
        n: test images; None for all.
        batch, seed: of the attack.
    """
    from ardbench import data
    from ardbench.cli.evaluate import threat_of
    from ardbench.config import Threat
    from ardbench.evaluation.matrix import Question
    from ardbench.recipes import resolve
    from ardbench.runs import Teacher
    from ardbench.teachers import ROBUSTBENCH, locate

    sources = list(dict.fromkeys(named))
    if size > len(sources):
        count = f"{len(sources)} {'was' if len(sources) == 1 else 'were'} named"
        raise ArdbenchError(
            f"--size {size} needs as many different teachers, but {count}: name more, or a suite that has them."
        )
    later = [one for one in sources if isinstance(one, str) and one.startswith(ROBUSTBENCH)]
    found = {one: one if isinstance(one, Teacher) else locate(one) for one in sources if one not in later}
    origins = [origin for teacher in found.values() if (origin := _origin(teacher))]
    dataset = dataset or next((name for name, _ in origins), None)
    if dataset is None:
        raise ArdbenchError("No teacher says what it was trained on: give --dataset, such as --dataset cifar10.")
    images = data.info(dataset).test_images
    if n is not None and n > images:
        raise ArdbenchError(f"--n {n} is more than the {images} test images of {dataset}: give at most {images}.")
    own = next((threat for _, threat in origins if threat), Threat(norm="linf", eps=8 / 255))
    threat = threat_of(own, norm, eps)
    for one in later:  # a recipe says for which data set and threat its network is wanted
        recipe = resolve("standard", dataset=dataset, sets={"threat.norm": threat.norm, "threat.eps": threat.eps})
        found[one] = locate(one, recipe=recipe)
    return Question(tuple(found[one] for one in sources), dataset, threat, n or images, batch, seed)


def answered(
    question: Question, runs: Path, device: str, data_root: Path | None, quiet: bool, output: Output, log: Log
) -> Transfer:
    """Return what an earlier call has measured, or measure it and keep it under the runs."""
    from ardbench.evaluation.matrix import load_transfer, save_transfer

    place = question.place(runs)
    if place.is_file():
        say(f"Measured before: {place}")
    else:
        from ardbench.runs import check_makeable

        check_makeable("--runs", runs)
        save_transfer(place, question, _measured(question, place.stem, device, data_root, quiet, output, log))
        log.write("finished", place.stem)
    return load_transfer(place)


def show(matrix: Matrix, output: Output, out: Path | None) -> list[str]:
    """Print a matrix, and write it to OUT.csv, OUT.md, OUT.png, OUT.svg and OUT.pdf; return these paths."""
    made = matrix.table()
    output.line(made.title)
    output.show(table(made.header, [[entry.text for entry in row.entries] for row in made.rows], made.header[1:]))
    for note in matrix.notes():
        output.line(note)
    files = [str(path) for path in matrix.write(out)] if out else []
    for file in files:
        output.line(file)
    return files


def _origin(teacher: Teacher) -> tuple[str, Threat | None] | None:
    """Return the data set and the threat that a run, an export or the zoo says of a teacher."""
    from ardbench.exports import owner
    from ardbench.models import zoo
    from ardbench.runs import Run

    if teacher.source.startswith(zoo.PREFIX):
        entry = zoo.entry(teacher.source)
        return entry.dataset, entry.threat
    found = owner(Path(teacher.weights))
    if isinstance(found, Run):
        return found.recipe.data.name, found.recipe.evaluation
    return (found.dataset, found.threat) if found else None


def _measured(
    question: Question, name: str, device: str, data_root: Path | None, quiet: bool, output: Output, log: Log
) -> Transfer:
    """Return the counts, and what they were measured with; in the log they go by a name."""
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.engine.networks import of_teacher
    from ardbench.engine.train import environment
    from ardbench.evaluation.measure import SUBSET_SEED
    from ardbench.evaluation.transfer import transfer
    from ardbench.listeners.screen import shown
    from ardbench.models.network import notes_of

    chosen = choose(device)
    say(f"Device: {describe(chosen)}")
    with output.working(), shown(quiet) as screen, log.of(name, screen) as progress:
        split = load(question.dataset, chosen, data_root, progress=progress).test
        split = split if question.n == len(split) else split.subset(question.n, SUBSET_SEED)
        nets = [of_teacher(teacher, question.dataset, chosen) for teacher in question.teachers]
        for note in (note for net in nets for note in notes_of(net)):
            progress.note(note)
        q = question
        found = transfer(nets, split, q.threat, steps=q.steps, batch=q.batch, seed=q.seed, progress=progress)
    return replace(found, environment=environment(chosen))
