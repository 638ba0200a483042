"""How adversarial examples transfer between teachers: what is asked, and the answer. Torch-free until it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench import data
from ardbench.campaigns.cells import planned
from ardbench.campaigns.suites import suite_names
from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.matrix import Question, load_transfer, save_transfer
from ardbench.exports import owner
from ardbench.listeners import say
from ardbench.models import zoo
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, check_makeable
from ardbench.subjects import expanded
from ardbench.teachers import ROBUSTBENCH, locate
from ardbench.verbs.evaluating import threat_of
from ardbench.verbs.measuring import Norm

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.suites import Suite
    from ardbench.evaluation.matrix import Transfer
    from ardbench.progress import Progress


def named(sources: Sequence[str], runs: Path) -> list[str | Teacher]:
    """Return teachers and their sources; a suite stands for all of its teachers, and SUITE:NAME for a run of it."""
    found = list[str | Teacher]()
    for text in sources:
        suite = text in suite_names() or text.endswith(".toml")
        found += teachers_of(*planned(text, runs)) if suite else [expanded(text, runs)]
    return found


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
    question: Question,
    runs: Path,
    device: str,
    data_root: Path | None,
    listening: Callable[[str], AbstractContextManager[Progress]],
) -> Transfer:
    """Return what an earlier call has measured, or measure it and keep it under the runs.

    Args:
        listening: gives the listener of the work, which goes by the name that it is given.
    """
    place = question.place(runs)
    if place.is_file():
        say(f"Measured before: {place}")
    else:
        check_makeable("--runs", runs)
        save_transfer(place, question, _measured(question, device, data_root, listening(place.stem)))
    return load_transfer(place)


def _origin(teacher: Teacher) -> tuple[str, Threat | None] | None:
    """Return the data set and the threat that a run, an export or the zoo says of a teacher."""
    if teacher.source.startswith(zoo.PREFIX):
        entry = zoo.entry(teacher.source)
        return entry.dataset, entry.threat
    found = owner(Path(teacher.weights))
    if isinstance(found, Run):
        return found.recipe.data.name, found.recipe.evaluation
    return (found.dataset, found.threat) if found else None


def _measured(
    question: Question, device: str, data_root: Path | None, listening: AbstractContextManager[Progress]
) -> Transfer:
    """Return the counts, and what they were measured with."""
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.engine.networks import of_teacher
    from ardbench.engine.train import environment
    from ardbench.evaluation.measure import subset_of
    from ardbench.evaluation.transfer import transfer
    from ardbench.models.network import notes_of

    chosen = choose(device)
    say(f"Device: {describe(chosen)}")
    with listening as progress:
        split = subset_of(load(question.dataset, chosen, data_root, progress=progress).test, question.n)
        nets = [of_teacher(teacher, question.dataset, chosen) for teacher in question.teachers]
        for note in (note for net in nets for note in notes_of(net)):
            progress.note(note)
        q = question
        found = transfer(nets, split, q.threat, steps=q.steps, batch=q.batch, seed=q.seed, progress=progress)
    return replace(found, environment=environment(chosen))
