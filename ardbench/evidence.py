"""Whether a run is what it says, by its files alone: name, weights, epochs, teachers, verdicts counted again. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ardbench import data
from ardbench.campaigns import copies
from ardbench.campaigns.cells import expected_checkpoints
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.verdicts import Verdicts, file_name, load_verdicts
from ardbench.models import zoo
from ardbench.runs import CHECKPOINTS, Run, Teacher, is_checkpoint, known_sha256, read_json

Labels = dict[tuple[str, int], int]
"""The class of (data set, position in its test set), as verdicts have said so far."""


@dataclass
class Counts:
    """What of a run was found to agree.

    Args:
        weights: checkpoints.
        teachers: whose weights are at hand, of so many that the run has, `taught_by`.
        verdicts: files of verdicts, on at most `images` test images.
        finished: whether the run is; of another there are only name, weights and state.
    """

    weights: int = 0
    teachers: int = 0
    taught_by: int = 0
    verdicts: int = 0
    images: int = 0
    finished: bool = True


def check(run: Run, labels: Labels) -> Counts:
    """Check all that a run's files tell of each other, and remember in `labels` what they say of the data set.

    Raises:
        ArdbenchError: the first thing that does not agree, in one sentence.
    """
    copies.check(run)
    teachers = [_check_teacher(run, teacher) for teacher in run.teachers]
    counts = Counts(len(run.checkpoints), sum(teachers), len(teachers), finished=run.done is not None)
    if run.done is None:
        return counts
    _check_epochs(run, run.done)
    for path, verdicts in measured(run):
        check_verdicts(run, path, verdicts)
        for position, label in zip(verdicts.index, verdicts.labels, strict=True):
            if labels.setdefault((run.recipe.data.name, position), label) != label:
                raise _changed(path, f"image {position} has the class {label} there and another elsewhere")
        counts.verdicts, counts.images = counts.verdicts + 1, max(counts.images, verdicts.n)
    return counts


def measured(run: Run) -> Iterator[tuple[Path, Verdicts]]:
    """Yield every file of verdicts of a run, also those at another eps or seed."""
    for pattern in ("eval/*/*.json", "eval-other/*/*/*.json"):
        for path in sorted(run.path.glob(pattern)):
            if not path.name.endswith(".state.json") and not trust.is_trust(path):
                yield path, load_verdicts(path)


def check_verdicts(run: Run, path: Path, verdicts: Verdicts) -> None:
    """Count verdicts again, and hold them against the run, their own key and what an attack may do.

    Raises:
        ArdbenchError: they do not agree.
    """
    document, info, wrong = read_json(path), data.info(run.recipe.data.name), verdicts.n - sum(verdicts.robust)
    weights = (run.done or {}).get("weights", {}).get(path.parent.name)
    if verdicts.key.get("weights") != weights:
        raise ArdbenchError(
            f"{path} was measured on other weights than {path.parent.name}.safetensors has: measure again."
        )
    if verdicts.taken and sum(verdicts.taken.values()) != wrong:
        told = sum(verdicts.taken.values())
        raise _changed(path, f"{wrong} of {verdicts.n} images are misclassified, and the attacks had taken {told}")
    derived: dict[str, Any] = {"n": verdicts.n, "class_balanced": verdicts.class_balanced}
    for name, value in derived.items():
        if document.get(name, value) != value:
            raise _changed(path, f"{name} is {value} and was written as {document[name]}")
    for name in ("protocol", "version", "n", "total", "seed", "threat"):
        if verdicts.key.get(name) != getattr(verdicts, name):
            raise _changed(path, f"its {name} is not the one that was measured")
    if path.name != file_name(verdicts.protocol, None if verdicts.n == verdicts.total else verdicts.n):
        raise _changed(path, f"it holds {verdicts.protocol} on {verdicts.n} images, which has another name")
    if verdicts.total != info.test_images or max(verdicts.index) >= verdicts.total:
        raise _changed(path, f"{info.name} has {info.test_images} test images")
    if len(set(verdicts.index)) < verdicts.n or verdicts.classes > info.num_classes:
        raise _changed(path, "an image stands in it twice, or a class that there is not")


def _changed(path: Path, what: str) -> ArdbenchError:
    return ArdbenchError(
        f"{path} has changed since it was measured ({what}): restore it, or delete it to measure again."
    )


def _check_epochs(run: Run, done: dict[str, Any]) -> None:
    """Check that weights, rows and the choice of the best are those that the recipe asks for."""
    recipe, rows = run.recipe, run.metrics
    wanted, there = set(expected_checkpoints(recipe)), set(run.checkpoints)
    wanted, named = (
        wanted.intersection(CHECKPOINTS),
        there.intersection(CHECKPOINTS),
    )  # epochs are kept by a wish of its own
    if wanted != named or there != set(done.get("weights", {})):
        raise ArdbenchError(
            f"{run.path} has the weights {', '.join(sorted(there))}, where {', '.join(sorted(wanted))} belong: restore them."
        )
    epochs, ended = [row["epoch"] for row in rows], recipe.schedule.epochs
    if recipe.selection.patience is not None:
        ended = next((count for count in range(1, ended) if recipe.selection.exhausted(rows[:count])), ended)
    if epochs != list(range(ended)) or done["epochs"] != ended:
        raise ArdbenchError(
            f"{run.path / 'metrics.jsonl'} has {len(rows)} rows, `done` says {done['epochs']} epochs and the recipe "
            f"{ended}: restore what was changed."
        )
    scores = {row["epoch"]: score for row in rows if (score := recipe.selection.scored(row)) is not None}
    if recipe.selection.by != "last" and "best_epoch" in done:
        best = max(scores, key=scores.__getitem__, default=-1)
        if best != done["best_epoch"]:
            raise ArdbenchError(
                f"{run.path / 'metrics.jsonl'} is highest in epoch {best + 1}, and the selected one is "
                f"{done['best_epoch'] + 1}: restore what was changed."
            )


def _check_teacher(run: Run, teacher: Teacher) -> bool:
    """Return whether a teacher's weights are at hand, and then are those that the run learnt from.

    Raises:
        ArdbenchError: they are others.
    """
    identity, _, checkpoint = teacher.identity.rpartition("@")
    weights = Path(teacher.weights)
    if is_checkpoint(checkpoint):
        beside = run.path.parent / weights.parent.name / weights.name
        weights = beside if beside.is_file() else weights
        of_run = Run(weights.parent)
        if weights.is_file() and (of_run.path / "config.json").is_file() and of_run.identity != identity:
            raise ArdbenchError(
                f"{weights.parent} is not the run that {run.path} names as its teacher: restore that one."
            )
    elif teacher.source.startswith(zoo.PREFIX) and teacher.source.removeprefix(zoo.PREFIX) in zoo.ENTRIES:
        weights = zoo.entry(teacher.source).path
    if not weights.is_file():
        return False
    if known_sha256(weights) != teacher.sha256:
        raise ArdbenchError(f"{weights} is not what {run.path} learnt from (its checksum does not match): restore it.")
    return True
