"""What a user types after --teacher: [ROLE=]SOURCE, matched with the roles that a method wants. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType

from ardbench import models
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError, unknown
from ardbench.runs import CHECKPOINTS, Run, Teacher, sha256_of

Roles = tuple[str | EllipsisType, ...]


def default_checkpoint(recipe: Recipe) -> str:
    """Return the checkpoint that stands for a run: the selected one, or the last where nothing selects."""
    return "last" if recipe.selection.by == "last" else "best"


def resolve_teachers(texts: Sequence[str], method: str, roles: Roles) -> tuple[Teacher, ...]:
    """Return the teachers in the order of the method's roles.

    Args:
        texts: RUN, RUN@CHECKPOINT or FILE:ARCH, each with ROLE= before it where the order does not say.
        method: the method's name, for what is refused.
        roles: as in `Method.roles`.

    Raises:
        ArdbenchError: too few, too many, an unknown role, or a source that is not there.
    """
    names = [role for role in roles if isinstance(role, str)]
    wanted = f"{method} wants {_in_words(roles)}"
    given = [_split(text, names, wanted) for text in texts]
    more = len(given) - len(names)
    if more < 0 or (more > 0 and ... not in roles):
        raise ArdbenchError(f"{wanted}, but {len(given)} {'was' if len(given) == 1 else 'were'} given with --teacher.")
    slots = names + names[-1:] * more
    ordered: list[tuple[str, str] | None] = [None] * len(slots)
    for role, source in sorted(given, key=lambda pair: pair[0] is None):
        free = [i for i, slot in enumerate(slots) if ordered[i] is None and role in (None, slot)]
        if not free:
            raise ArdbenchError(f"{wanted}, but more than that is given for the role {role!r}.")
        ordered[free[0]] = (slots[free[0]], source)
    return tuple(locate(source, role) for role, source in filter(None, ordered))


def locate(source: str, role: str = "robust") -> Teacher:
    """Return the teacher that a source names: a finished run, or a file with its architecture."""
    name, _, checkpoint = source.rpartition("@") if source.rpartition("@")[2] in CHECKPOINTS else (source, "", "")
    if Path(name).is_dir():
        return of_run(Run.open(Path(name)), role, checkpoint, source)
    file, colon, model = source.rpartition(":")
    if not colon:
        hint = (
            f"give {source}:ARCH, such as {source}:resnet18"
            if Path(source).is_file()
            else "give a run directory or FILE:ARCH"
        )
        raise ArdbenchError(f"Teacher {source!r} is no run directory: {hint}.")
    if not Path(file).is_file():
        raise ArdbenchError(f"Teacher {source!r}: there is no file {file}; give a run directory or FILE:ARCH.")
    if model not in models.MODELS:
        raise unknown("model", model, models.MODELS)
    digest = sha256_of(Path(file))
    return Teacher(source, role, digest, model, str(Path(file).resolve()), digest)


def of_run(run: Run, role: str, checkpoint: str = "", source: str = "") -> Teacher:
    """Return a finished run as a teacher; its selected checkpoint unless another is named."""
    if run.done is None:
        raise ArdbenchError(f"Teacher {run.path} is not finished: type its command again to finish it first.")
    name = checkpoint or default_checkpoint(run.recipe)
    if name not in run.checkpoints:
        raise ArdbenchError(
            f"Teacher {run.path} has no checkpoint {name!r}: choose one of {', '.join(run.checkpoints)}."
        )
    weights = run.weights(name).resolve()
    return Teacher(
        source or str(run.path), role, f"{run.identity}@{name}", run.recipe.student, str(weights), sha256_of(weights)
    )


def planned(run: Run, recipe: Recipe, identity: str, role: str) -> Teacher:
    """Return a teacher that is not trained yet, with the name that its student's hash needs."""
    name = default_checkpoint(recipe)
    return Teacher(str(run.path), role, f"{identity}@{name}", recipe.student, str(run.weights(name).resolve()), "")


def _split(text: str, names: list[str], wanted: str) -> tuple[str | None, str]:
    role, equals, source = text.partition("=")
    if not equals or "/" in role or Path(text).exists():
        return None, text
    if role not in names:
        raise ArdbenchError(f"--teacher {text!r}: {wanted}, and no role is called {role!r}.")
    return role, source


def _in_words(roles: Roles) -> str:
    names = [role for role in roles if isinstance(role, str)]
    if not names:
        return "no teacher"
    count = f"{len(names)} teacher{'s' if len(names) > 1 else ''} ({', '.join(names)})"
    return f"at least {count}" if ... in roles else count
