"""`ardbench transfer`: which teachers fall for each other's adversarial examples, and which set does so least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output, say, table
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    from ardbench.config import Threat
    from ardbench.evaluation.transfer import Transfer
    from ardbench.runs import Teacher

STEPS = 40
"""Of APGD-CE, as the teachers of DARHT are chosen."""


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
    help="Write transfer.csv, transfer.md and the heat map as PNG and SVG there.",
)
@options.device
@options.data_root
@options.runs
@options.quiet
@options.as_json
def transfer(**words: Any) -> None:
    """Measure how adversarial examples transfer between teachers, and choose the set with the lowest mean.

    TEACHER is a source as `distill --teacher` takes it; a SUITE stands for all of its teachers. An example is crafted
    from each image that its source classifies correctly (APGD-CE, 40 steps).
    """
    from ardbench import data
    from ardbench.reports.results import threat_name
    from ardbench.reports.transfer import Matrix

    wanted = Wanted(**words)
    teachers, dataset, threat = wanted.located()
    output = Output(wanted.as_json)
    measured, chosen, mean = _measured(teachers, dataset, threat, wanted, output)
    images = wanted.n or data.info(dataset).test_images
    about = f"{dataset}, {images} images, {threat_name(threat.norm, threat.eps)}, APGD-CE with {STEPS} steps"
    matrix = Matrix(tuple(teachers), measured, chosen, mean, about)
    made = matrix.table()
    output.line(made.title)
    output.show(table(made.header, [[entry.text for entry in row.entries] for row in made.rows], made.header[1:]))
    for note in matrix.notes():
        output.line(note)
    files = [str(path) for path in matrix.write(wanted.out)] if wanted.out else []
    for file in files:
        output.line(file)
    facts = {"dataset": dataset, "images": images, "threat": vars(threat), "steps": STEPS, "seed": wanted.seed}
    sources = [vars(teacher) for teacher in teachers]
    choice = {"chosen": [teachers[i].source for i in chosen], "mean": mean}
    output.document({**facts, "teachers": sources, "pairs": matrix.rows(), **choice, "files": files})


@dataclass(frozen=True)
class Wanted:
    """What was typed; the fields are the options."""

    sources: tuple[str, ...]
    size: int
    dataset: str | None
    eps: float | None
    norm: Literal["linf", "l2"] | None
    n: int | None
    batch: int
    seed: int
    out: Path | None
    device: str
    data_root: Path | None
    runs: Path
    quiet: bool
    as_json: bool

    def located(self) -> tuple[list[Teacher], str, Threat]:
        """Return the teachers, the data set and the threat, after all that can be refused before torch is loaded."""
        from ardbench import data
        from ardbench.cli.evaluate import threat_of
        from ardbench.config import Threat
        from ardbench.recipes import resolve
        from ardbench.teachers import ROBUSTBENCH, locate

        sources = self._sources()
        if self.size > len(sources):
            count = f"{len(sources)} {'was' if len(sources) == 1 else 'were'} named"
            raise ArdbenchError(
                f"--size {self.size} needs as many different teachers, but {count}: name more, or a suite that has them."
            )
        found = {one: locate(one) for one in sources if not one.startswith(ROBUSTBENCH)}
        origins = [origin for teacher in found.values() if (origin := _origin(teacher))]
        dataset = self.dataset or next((name for name, _ in origins), None)
        if dataset is None:
            raise ArdbenchError("No teacher says what it was trained on: give --dataset, such as --dataset cifar10.")
        images = data.info(dataset).test_images
        if self.n is not None and self.n > images:
            raise ArdbenchError(
                f"--n {self.n} is more than the {images} test images of {dataset}: give at most {images}."
            )
        own = next((threat for _, threat in origins if threat), Threat(norm="linf", eps=8 / 255))
        threat = threat_of(own, self.norm, self.eps)
        for one in set(sources) - set(found):  # a recipe says for which data set and threat its network is wanted
            recipe = resolve("standard", dataset=dataset, sets={"threat.norm": threat.norm, "threat.eps": threat.eps})
            found[one] = locate(one, recipe=recipe)
        return [found[one] for one in sources], dataset, threat

    def _sources(self) -> list[str]:
        """Return the teachers' sources, each once, a suite's in its own order."""
        from ardbench.cli.planning import planned
        from ardbench.suites import suite_names

        found: list[str] = []
        for text in self.sources:
            if text in suite_names() or text.endswith(".toml"):
                cells = planned(text, self.runs)[1]
                places = {
                    cell.name: str(cell.run.path) for cell in reversed(cells)
                }  # of several seeds the first teaches
                found += [places.get(one.source, one.source) for cell in cells for one in cell.teachers]
            else:
                found.append(text)
        return list(dict.fromkeys(found))


def _origin(teacher: Teacher) -> tuple[str, Threat | None] | None:
    """Return the data set and the threat that a run or the zoo says of a teacher."""
    from ardbench.models import zoo
    from ardbench.runs import Run

    if teacher.source.startswith(zoo.PREFIX):
        entry = zoo.entry(teacher.source)
        return entry.dataset, entry.threat
    folder = Path(teacher.weights).parent
    if not (folder / "config.json").is_file():
        return None
    recipe = Run.open(folder).recipe
    return recipe.data.name, recipe.evaluation


def _measured(
    teachers: Sequence[Teacher], dataset: str, threat: Threat, wanted: Wanted, output: Output
) -> tuple[Transfer, tuple[int, ...], float]:
    """Return the counts, the set with the lowest mean, and that mean."""
    from ardbench.cli.progress import shown
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.engine.networks import of_teacher
    from ardbench.evaluation.measure import SUBSET_SEED
    from ardbench.evaluation.transfer import best_set, mean_rate, transfer

    device = choose(wanted.device)
    say(f"Device: {describe(device)}")
    with output.working(), shown(wanted.quiet) as progress:
        split = load(dataset, device, wanted.data_root, progress=progress).test
        split = split if wanted.n is None else split.subset(wanted.n, SUBSET_SEED)
        nets = [of_teacher(teacher, dataset, device) for teacher in teachers]
        found = transfer(nets, split, threat, steps=STEPS, batch=wanted.batch, seed=wanted.seed, progress=progress)
    chosen = best_set(found.rates, wanted.size)
    return found, chosen, mean_rate(found.rates, chosen)
