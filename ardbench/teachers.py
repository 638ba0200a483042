"""What a user types after --teacher: [ROLE=]SOURCE, matched with the roles that a method wants. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING

from ardbench import models, plugins
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.exports import CONFIG, Export, export_in, intact, owner, recorded
from ardbench.models import zoo
from ardbench.models.names import OBJECT, split_source
from ardbench.models.normalisation import Normalisation, split_normalisation
from ardbench.models.sealed import facts_of
from ardbench.runs import Run, Teacher, is_checkpoint, known_checkpoint, sha256_of

if TYPE_CHECKING:
    from torch import nn

Roles = tuple[str | EllipsisType, ...]

ROBUSTBENCH = "robustbench:"
FORMS = f"a run directory, an exported folder, FILE:ARCH, {zoo.PREFIX}NAME or {ROBUSTBENCH}NAME"


def default_checkpoint(recipe: Recipe) -> str:
    """Return the checkpoint that stands for a run: the selected one, or the last where nothing selects."""
    return "last" if recipe.selection.by == "last" else "best"


def resolve_teachers(
    texts: Sequence[str | nn.Module], method: str, roles: Roles, recipe: Recipe | None = None
) -> tuple[Teacher, ...]:
    """Return the teachers in the order of the method's roles.

    Args:
        texts: as `locate` takes them, each with ROLE= before it where the order does not say; or networks.
        method: the method's name, for what is refused.
        roles: as in `Method.roles`.
        recipe: of the student, whose data set and threat `robustbench:NAME` needs.

    Raises:
        ArdbenchError: too few, too many, an unknown role, or a source that is not there.
    """
    names = [role for role in roles if isinstance(role, str)]
    wanted = f"{method} wants {_in_words(roles)}"
    given = [_split(text, names, wanted) if isinstance(text, str) else (None, text) for text in texts]
    more = len(given) - len(names)
    if more < 0 or (more > 0 and ... not in roles):
        raise ArdbenchError(f"{wanted}, but {len(given)} {'was' if len(given) == 1 else 'were'} given with --teacher.")
    slots = names + names[-1:] * more
    ordered: list[tuple[str, str | nn.Module] | None] = [None] * len(slots)
    for role, source in sorted(given, key=lambda pair: pair[0] is None):
        free = [i for i, slot in enumerate(slots) if ordered[i] is None and role in (None, slot)]
        if not free:
            raise ArdbenchError(f"{wanted}, but more than that is given for the role {role!r}.")
        ordered[free[0]] = (slots[free[0]], source)
    return tuple(
        locate(source, role, recipe) if isinstance(source, str) else of_object(source, role)
        for role, source in filter(None, ordered)
    )


def locate(source: str, role: str = "robust", recipe: Recipe | None = None, what: str = "Teacher") -> Teacher:
    """Return the teacher that a source names.

    Args:
        source: RUN, RUN@CHECKPOINT, an exported folder, FILE:ARCH, FILE#PART:ARCH (of a file that holds several networks),
            FILE:ARCH@SIZE (it sees images of that side), FILE:ARCH+mean=NUMBERS+std=NUMBERS (it normalises them in code),
            zoo:NAME, robustbench:NAME.
        recipe: of the student, whose data set and threat `robustbench:NAME` needs.
        what: it is, for messages.

    Raises:
        ArdbenchError: a source that is not there or has another form.
    """
    if source.startswith(zoo.PREFIX):
        return _of_zoo(zoo.present(source), role)
    if source.startswith(ROBUSTBENCH):
        return _of_robustbench(source, role, recipe)
    name, checkpoint = split_checkpoint(source)
    if Path(name).is_dir():
        exported = export_in(Path(name))
        return (
            _of_export(Path(name), exported, role)
            if exported
            else of_run(Run.open(Path(name)), role, checkpoint, source, what)
        )
    place, model = split_source(source)
    if not place:
        hint = f"{source}:ARCH, such as {source}:resnet18" if Path(source).is_file() else FORMS
        raise ArdbenchError(f"{what} {source!r} is no run directory: give {hint}.")
    file, part = split_part(place)
    if not file.is_file():
        raise ArdbenchError(f"{what} {source!r}: there is no file {file}; give {FORMS}.")
    model, seen = split_model(f"{what} {source!r}", model)
    return of_file(file, model, part, seen, role, source)


def split_model(what: str, text: str) -> tuple[str, Normalisation | None]:
    """Return the model and the normalisation of ARCH, ARCH@SIZE or ARCH+mean=NUMBERS+std=NUMBERS.

    Args:
        what: that is refused.

    Raises:
        ArdbenchError: no such architecture, size or numbers.
    """
    model, seen = split_normalisation(text)
    arch, at, size = model.partition("@")
    models.check_known(arch)
    if at and not (size.isdecimal() and int(size)):
        raise ArdbenchError(f"{what}: {size!r} is no side of an image in pixels; give {arch}@64 or the like.")
    return model, seen


def split_checkpoint(text: str) -> tuple[str, str]:
    """Return RUN and CHECKPOINT of RUN@CHECKPOINT, and "" for the second of anything else.

    Raises:
        ArdbenchError: a run stands before what is no checkpoint, or an export, which has no choice of them.
    """
    name, at, checkpoint = text.rpartition("@")
    if at and not Path(text).exists() and (Path(name) / "config.json").is_file():
        if export_in(Path(name)):
            raise ArdbenchError(f"{name} is an exported network, which has one checkpoint: leave out @{checkpoint}.")
        try:
            known_checkpoint(checkpoint)
        except ValueError as error:
            raise ArdbenchError(f"{text}: {error}.") from None
    return (name, checkpoint) if is_checkpoint(checkpoint) else (text, "")


def of_object(net: nn.Module, role: str = "robust") -> Teacher:
    """Return a network object as a teacher: it is known by its class and weights, and lies in no file."""
    from ardbench.models import objects

    kind = objects.class_of(net)
    return Teacher(OBJECT + kind, role, objects.identity(net), kind, "", objects.sha256(net))


def of_file(
    file: Path, model: str, part: str, seen: Normalisation | None, role: str = "robust", source: str = ""
) -> Teacher:
    """Return a file of weights as a teacher.

    Args:
        file: which is there.
        model: an architecture, or ARCH@SIZE.
        part: of a file that holds several networks.
        seen: by what its inputs are normalised in code; it enters the identity.

    Raises:
        ArdbenchError: a run or an export says that it is another architecture, or by what its inputs are normalised.
    """
    check_owner(file, model)
    known, own = recorded(file)
    if seen and known and seen != own:
        raise ArdbenchError(
            f"{file} is ardbench's own and says by what its inputs are normalised ({own or 'nothing'}): leave out {seen}."
        )
    digest = sha256_of(file)
    if isinstance(found := owner(file), Export):
        return _of_export(file.parent, found, role, source)
    typed = "" if known else str(seen or "")
    identity = f"{digest}{''.join(model.partition('@')[1:])}" + (f"#{part}" if part else "") + typed
    identity += "".join(plugins.sources([("model", model.partition("@")[0])]).values())
    return Teacher(source or str(file), role, identity, model, str(file.resolve()), digest, part, typed)


def split_part(text: str) -> tuple[Path, str]:
    """Return FILE and PART of FILE#PART; a file that has the mark in its name is a file."""
    file, mark, part = text.rpartition("#")
    return (Path(file), part) if mark and not Path(text).is_file() else (Path(text), "")


def check_owner(file: Path, model: str) -> None:
    """Refuse a model that a file of weights is not of, where the run or the export that it lies in says which it is of."""
    found = owner(file)
    own = found.recipe.student if isinstance(found, Run) else found.architecture if found else model
    arch = model.partition("@")[0]
    if found is None and (own := facts_of(file).get("model", arch)) != arch and models.known(own):
        raise ArdbenchError(f"{file} is a {own}, as its metadata say, and no {model}: name that architecture.")
    if found is not None and own != model:
        whole = f"{file.parent}@{file.stem}" if isinstance(found, Run) else f"{file.parent}"
        raise ArdbenchError(f"{file} is a {own}, as {CONFIG} beside it says, and no {model}: give {whole}.")


def planned_outside(source: str, role: str) -> Teacher:
    """Return a teacher that is no run of a suite; a file of the zoo that is not here yet goes by its name in the zoo."""
    if source.startswith(zoo.PREFIX) and not (found := zoo.entry(source)).path.is_file():
        return Teacher(source, role, source, found.model, str(found.path.resolve()), "")
    return locate(source, role)


def _of_zoo(entry: zoo.Entry, role: str) -> Teacher:
    """Return a network of the zoo: its file, with the numbers that it sees its images by."""
    digest = sha256_of(entry.path)
    if entry.sha256 not in ("", digest):
        raise ArdbenchError(
            f"{entry.path} is not {zoo.PREFIX}{entry.name} (its checksum does not match): get {entry.get} again, and put "
            "it there."
        )
    seen = [repr(fact) for fact in (entry.size, entry.mean, entry.std) if fact]
    return Teacher(
        zoo.PREFIX + entry.name, role, " ".join([digest, *seen]), entry.model, str(entry.path.resolve()), digest
    )


def _of_export(folder: Path, export: Export, role: str, source: str = "") -> Teacher:
    """Return an exported network: its weights, with the numbers that it normalises by."""
    weights, normalise = intact(folder, export).resolve(), export.normalise
    seen = [repr(numbers) for numbers in (normalise.mean, normalise.std)] if normalise else []
    identity = " ".join([export.sha256, *seen])
    return Teacher(source or str(folder), role, identity, export.architecture, str(weights), export.sha256)


def _of_robustbench(source: str, role: str, recipe: Recipe | None) -> Teacher:
    """Return a network of RobustBench, whose identity is the sha256 of its state dict; the file is RobustBench's own."""
    if recipe is None:
        raise ArdbenchError(
            f"{source} is a network for the data set and threat of one recipe: give it to `ardbench distill`, and to a "
            "suite the downloaded file as FILE:ARCH."
        )
    from ardbench.models import robustbench

    name, dataset = source.removeprefix(ROBUSTBENCH), recipe.data.name
    model = f"{robustbench.THREATS[recipe.threat.norm]}/{name}"
    identity = robustbench.digest(robustbench.load(model, dataset))
    weights = (robustbench.folder() / dataset / f"{model}.pt").resolve()
    return Teacher(source, role, identity, model, str(weights), sha256_of(weights) if weights.is_file() else identity)


def of_run(run: Run, role: str, checkpoint: str = "", source: str = "", what: str = "Teacher") -> Teacher:
    """Return a finished run as a teacher; its selected checkpoint unless another is named."""
    if run.done is None:
        raise ArdbenchError(f"{what} {run.path} is not finished: type its command again to finish it first.")
    name = checkpoint or default_checkpoint(run.recipe)
    if name not in run.checkpoints:
        raise run.without(name)
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
    if not (source if equals else text):
        raise ArdbenchError(f"--teacher {text!r} names no network: give {FORMS}.")
    if equals and role in names and not Path(text).exists():
        return role, source
    if not equals or "/" in role or Path(text).exists() or split_part(split_source(text)[0])[0].is_file():
        return None, text  # a name of a file, such as epoch=3-step=100.ckpt
    raise ArdbenchError(
        f"--teacher {text!r}: {wanted}, and no role is called {role!r}, nor is there a file of that name."
    )


def _in_words(roles: Roles) -> str:
    names = [role for role in roles if isinstance(role, str)]
    if not names:
        return "no teacher"
    count = f"{len(names)} teacher{'s' if len(names) > 1 else ''} ({', '.join(names)})"
    return f"at least {count}" if ... in roles else count
