"""Where a student begins that has no fresh weights: at those of a run or a file, or where a run ended. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.config import Recipe, Start
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.models.names import OBJECT
from ardbench.runs import Run, Teacher
from ardbench.teachers import locate

if TYPE_CHECKING:
    from torch import nn

STATE = "last.state"
"""What a run goes on from."""


def begun(recipe: Recipe) -> Recipe:
    """Return a recipe that knows by what the start of its student is named.

    Raises:
        ArdbenchError: it is not there, is of another architecture, or is not what the recipe says.
    """
    start = recipe.start
    if start is None or start.source.startswith(OBJECT):
        return recipe
    found = parent_of(start).identity if start.kind == "extend" else _weights(source_of(recipe))
    if start.identity not in ("", found):
        raise ArdbenchError(
            f"start.source {start.source} is not what the recipe was made with ({start.identity[:8]}, and here is "
            f"{found[:8]}): give that one, or leave start.identity out."
        )
    return recipe.model_copy(update={"start": start.model_copy(update={"identity": found})})


def with_object(recipe: Recipe, net: nn.Module) -> Recipe:
    """Return a recipe whose student is a network of the caller's, known by its class and the weights that it begins with."""
    from ardbench.models import objects

    if recipe.start is not None:
        raise ArdbenchError("A student that is an object begins with its own weights: leave out init.")
    name = OBJECT + objects.class_of(net)
    if method_class(recipe.method["name"]).inside:
        raise ArdbenchError(
            f"{recipe.method['name']} looks inside its student, at features and head, and {name.removeprefix(OBJECT)} is not "
            "ardbench's: name an architecture."
        )
    if recipe.data.normalise:
        raise ArdbenchError(
            "data.normalise is of the architectures that have a name, and a student that is an object normalises itself: "
            "set data.normalise to false."
        )
    start = Start(source=name, identity=objects.identity(net))
    return recipe.model_copy(update={"student": name, "start": start})


def _weights(found: Teacher) -> str:
    """Return the sha256 of the weights, with the part of the file and the normalisation where these were told."""
    return found.identity if found.identity.startswith(found.sha256) else found.sha256


def source_of(recipe: Recipe) -> Teacher:
    """Return the network whose weights the student begins with."""
    assert recipe.start is not None  # the caller has seen it
    typed = recipe.start.source
    plain = Path(typed.rpartition("#")[0] or typed).is_file() or Path(typed).is_file()
    found = locate(f"{typed}:{recipe.student}" if plain else typed, "student", recipe, what="Start")
    if found.model.partition("@")[0] != recipe.student:
        raise ArdbenchError(
            f"{typed} is a {found.model}, and the student is a {recipe.student}: give --student {found.model}, or weights "
            f"of a {recipe.student}."
        )
    return found


def parent_of(start: Start) -> Run:
    """Return the finished run that goes on.

    Raises:
        ArdbenchError: it is not finished, ended by its patience, or has not kept its state.
    """
    run = Run.open(Path(start.source))
    if run.done is None:
        raise ArdbenchError(f"{run.path} is not finished: type its command again to finish it first.")
    if run.done["epochs"] < run.recipe.schedule.epochs:
        raise ArdbenchError(
            f"{run.path} ended early, by selection.patience, after {run.done['epochs']} of {run.recipe.schedule.epochs} "
            f"epochs, and would again: start another run from its weights with --init {run.path}."
        )
    if not (run.path / STATE).is_file():
        raise ArdbenchError(
            f"{run.path} has no {STATE}, which a run goes on from (a copy that is committed has none): start another run "
            f"from its weights with --init {run.path}."
        )
    return run


def extended(source: str, epochs: int | None) -> Recipe:
    """Return the recipe of a finished run that goes on until it has `epochs` epochs in all."""
    start = Start(kind="extend", source=source)
    run = parent_of(start)
    recipe, before = run.recipe, run.recipe.schedule.epochs
    if recipe.student.startswith(OBJECT):
        raise ArdbenchError(
            f"The student of {run.path} is a network object, which a longer run cannot ask for: load the run's weights into "
            "one of its class, and train that as student=net."
        )
    if epochs is None or epochs <= before:
        raise ArdbenchError(
            f"{run.path} has {before} epochs: give how many it shall have in all, such as --epochs {2 * before}."
        )
    schedule = recipe.schedule.model_copy(update={"epochs": epochs})
    return Recipe.model_validate(
        recipe.model_copy(update={"schedule": schedule, "start": start}).model_dump(mode="json")
    )
