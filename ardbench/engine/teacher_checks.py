"""What each teacher knows, measured before it teaches and kept in the run: a wrong one teaches without a word."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ardbench import data, processes
from ardbench.config import Recipe
from ardbench.data.batches import Split, Splits
from ardbench.engine import networks
from ardbench.errors import ArdbenchError
from ardbench.evaluation.batch_size import fitting, halved
from ardbench.evaluation.confirm import measuring
from ardbench.evaluation.cost import forwards
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.running_statistics import keeps_statistics
from ardbench.evaluation.trust import LIMITS, above_chance
from ardbench.exports import owner
from ardbench.models import zoo
from ardbench.models.cost import cost
from ardbench.models.names import OBJECT
from ardbench.models.normalisation import split_normalisation
from ardbench.models.normalisation import typed as numbers
from ardbench.progress import Progress
from ardbench.runs import Run, Teacher, write_json
from ardbench.teachers import ROBUSTBENCH
from ardbench.written import Said, TeacherChecked

PROTOCOLS = ("clean", LIMITS.teachers.protocol)
SEARCH, OUTER = 2, 6
"""A step's price in forwards of the student: two for each step of the attack, three each at x and x' for the weights."""


def check_teachers(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    run: Run,
    splits: Splits,
    progress: Progress,
    given: Mapping[str, nn.Module] = MappingProxyType({}),
) -> None:
    """Measure each teacher on validation images, tell what came out, and keep it in the run, once.

    Without validation images training images are taken. Nothing is refused: what looks wrong is warned of. Every process
    of `processes.joined` calls it alike; the first writes. It is short and not stopped: a run that gets little time at a
    call would never begin.

    Raises:
        Paused: Ctrl-C twice; nothing is kept.
        ArdbenchError: a teacher's logits are not finite, or there is no memory for one image.
    """
    if not teachers or run.teachers_checked is not None:
        return
    device = splits.train.labels.device
    split = splits.train if splits.validation is None else splits.validation
    images = f"{'training' if splits.validation is None else 'validation'} images"
    nets = [networks.of_teacher(teacher, recipe.data.name, device, given) for teacher in teachers]
    n = _affordable(recipe, nets, splits.train, len(split))
    checked = []
    for teacher, net in zip(teachers, nets, strict=True):
        try:
            found = _checked(recipe, teacher, net, split, n, images, progress)
        except ArdbenchError as error:
            raise ArdbenchError(f"Teacher {teacher.source} cannot teach: {error}") from None
        progress.note(f"Teacher {teacher.source} ({teacher.role}): {found.said}.")
        for reason in found.warnings:
            progress.warn(f"Warning, teacher {teacher.source}: {reason}{_typed(teacher, recipe.data.name)}")
        checked.append(found.model_dump(mode="json"))
    processes.once(lambda: write_json(run.path / "teachers.json", {"teachers": checked}))


def _checked(
    recipe: Recipe,
    teacher: Teacher,
    net: nn.Module,
    split: Split,
    n: int,
    images: str,
    progress: Progress,
) -> TeacherChecked:
    batch = min(recipe.data.batch, n)
    measured = {
        name: evaluate(net, split, name, recipe.evaluation, batch=batch, n=n, progress=progress) for name in PROTOCOLS
    }
    findings = [
        above_chance(measured["clean"], split.info.num_classes),
        processes.once(partial(_statistics, net, split, batch)),
    ]
    return TeacherChecked(
        source=teacher.source,
        role=teacher.role,
        sha256=teacher.sha256,
        images=images,
        n=n,
        threat=recipe.evaluation.model_dump(mode="json"),
        accuracies={name: verdicts.accuracy for name, verdicts in measured.items()},
        findings=[Said(**asdict(finding)) for finding in findings],
    )


def _statistics(net: nn.Module, split: Split, batch: int) -> Any:
    while (found := fitting(partial(keeps_statistics, net, split, batch))) is None:
        batch = halved(batch, "the check of a teacher")
    return found


def _affordable(recipe: Recipe, nets: Sequence[nn.Module], train: Split, there: int) -> int:
    """Return on how many of the images that are there the teachers are measured, by what that and an epoch cost.

    An epoch is taken to forward each teacher once, and the student as often as its attack and its gradients do.
    """
    limit, info, attack = LIMITS.teachers, data.info(recipe.data.name), recipe.attack
    with measuring(nn.ModuleList(nets), train.labels.device), FlopCounterMode(display=False) as counter:
        for net in nets:
            net(train.pixels(slice(0, 1)))
    teachers = counter.get_total_flops()
    steps = attack.steps * attack.restarts if attack else 0
    known = not recipe.student.startswith(OBJECT)  # else taken to cost as much as the teachers
    student = 2 * cost(recipe.student, info).macs if known else teachers
    epoch = len(train) * (teachers + (SEARCH * steps + OUTER) * student)
    price = teachers * sum(forwards(name, info.num_classes) for name in PROTOCOLS)
    return min(max(int(limit.share * epoch / price), limit.least), limit.most, there)


def _typed(teacher: Teacher, dataset: str) -> str:
    """Return what to type to look at a teacher: what finds its normalisation, and what makes all trust checks."""
    path, model = Path(teacher.weights), teacher.model.partition("@")[0]
    if teacher.source.startswith(ROBUSTBENCH):  # in a file of its own kind
        return ""
    if teacher.source.startswith(OBJECT):
        return f" To look at it: ardbench.evaluate(net, {dataset!r})"
    if teacher.source.startswith(zoo.PREFIX):
        return f" To look at it: {shlex.join(['ardbench', 'eval', teacher.source])}"
    if (found := owner(path)) is not None:
        chosen = ["--checkpoint", path.stem] if isinstance(found, Run) else []
        return f" To look at it: {shlex.join(['ardbench', 'eval', str(path.parent), *chosen])}"
    part = ["--part", teacher.part] if teacher.part else []
    seen = split_normalisation(model + teacher.seen)[1]
    typed = [word for name, said in vars(seen).items() for word in (f"--{name}", numbers(said))] if seen else []
    search = shlex.join(["ardbench", "identify", str(path), "--dataset", dataset, *part])
    look = shlex.join(["ardbench", "eval", str(path), "--model", model, "--dataset", dataset, *part, *typed])
    return f" What it is finds: {search} To look at it: {look}"
