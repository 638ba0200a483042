"""Networks that exist already: those of runs, and those in files that somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from ardbench import data, models, plugins
from ardbench.config import Start
from ardbench.data import DatasetInfo
from ardbench.draws import seeded
from ardbench.engine.checkpoints import load_weights
from ardbench.errors import ArdbenchError
from ardbench.exports import Export, intact, owner, recorded
from ardbench.models import objects, outside, robustbench, zoo
from ardbench.models.feature_map import FeatureMap
from ardbench.models.files import load_into, read_state
from ardbench.models.layouts import fits
from ardbench.models.names import OBJECT, of_library
from ardbench.models.network import Network, Normalise
from ardbench.models.normalisation import IN_CODE, Normalisation, split_normalisation
from ardbench.models.wrapping import fitted
from ardbench.runs import Run, Teacher, sha256_of
from ardbench.teachers import ROBUSTBENCH

TWINS = {"preactresnet18": "preactresnet18-fast", "preactresnet18-fast": "preactresnet18"}
"""Architectures whose names and shapes are those of another."""


def fresh(model: str, dataset: str, normalise: bool, seed: int, purpose: str, device: torch.device) -> Network:
    """Return a newly initialised network; the weights depend on seed and purpose, not on the device."""
    info = data.info(dataset)
    with seeded(seed, "init", purpose):
        net = models.build(model, info, normalise)
    if plugins.find("model", model) is not None:
        outside.check(net, info)
    if of_library(model):
        with torch.no_grad():
            said = net.eval()(torch.full((2, info.channels, info.size, info.size), 0.5))
        if not torch.isfinite(said).all():
            raise ArdbenchError(
                f"{model} answers with numbers that are not finite before any training: choose another."
            )
    return net.train().to(device)


def begin_with(net: Network, source: Teacher) -> str:
    """Give a fresh network the weights of another of its architecture, and return which, in a sentence.

    Args:
        net: of the student's data set; its head stays where the other has another number of classes.
        source: as it is located.

    Raises:
        ArdbenchError: anything but the head does not fit, or the two differ in whether they normalise.
    """
    other = _own_form(source, Path(source.weights), _with_classes_of(source, net), torch.device("cpu"))
    told = bool(source.seen) or recorded(Path(source.weights))[0] or isinstance(other.normalise, Normalise)
    if told and isinstance(other.normalise, Normalise) != isinstance(net.normalise, Normalise):
        which = "normalises its inputs" if isinstance(other.normalise, Normalise) else "takes them as they are"
        raise ArdbenchError(
            f"{source.source} {which}, and the student does not: give --set data.normalise="
            f"{str(isinstance(other.normalise, Normalise)).lower()}."
        )
    theirs, ours = other.state_dict(), net.state_dict()
    head = {key for key in {*theirs, *ours} if key.startswith("head.")}
    same_head = {k: theirs[k].shape for k in head if k in theirs} == {k: ours[k].shape for k in head if k in ours}
    body = {key: tensor for key, tensor in theirs.items() if same_head or key not in head}
    wrong = [key for key in ours.keys() | body.keys() if key not in head or same_head]
    wrong = [k for k in wrong if k not in body or k not in ours or body[k].shape != ours[k].shape]
    if wrong:
        raise ArdbenchError(
            f"{source.source} does not fit the student on {net.info.name} (in {min(wrong)}, as of images of another size): "
            "give weights for such images."
        )
    net.load_state_dict(ours | body)
    said: str = f"The student begins with the weights of {source.source}"
    if same_head:
        return f"{said}."
    return (
        f"{said}, but for its head, which is drawn anew: there are {other.info.num_classes} classes there and "
        f"{net.info.num_classes} in {net.info.name}."
    )


def _with_classes_of(source: Teacher, net: Network) -> DatasetInfo:
    """Return the facts of the student's data set, with as many classes as a file of its architecture has."""
    path = Path(source.weights)
    found = owner(path)
    if found is not None:
        own = data.info(found.recipe.data.name) if isinstance(found, Run) else found.info
    elif source.source.startswith(zoo.PREFIX):
        own = zoo.entry(source.source).info
    else:
        wanted = {key: tensor.shape for key, tensor in net.state_dict().items()}
        heads = [one.weights["head.weight"] for one in fits(read_state(path), wanted, source.part)]
        return replace(net.info, num_classes=len(heads[0])) if heads else net.info
    if own.channels != net.info.channels:
        raise ArdbenchError(
            f"{source.source} sees images of {own.channels} channels, and those of {net.info.name} have "
            f"{net.info.channels}: give weights for such images."
        )
    return replace(net.info, num_classes=own.num_classes)


def of_run(run: Run, checkpoint: str, device: torch.device) -> Network:
    """Return the deployed network of a finished run, on `device`, in eval mode.

    Raises:
        ArdbenchError: the checkpoint is absent, damaged, or not the one that the done marker names.
    """
    recipe = run.recipe
    _check_finished(run)
    plugins.check(recipe.outside, str(run.path), run.environment.get("outside", {}))
    info = data.info(recipe.data.name)
    return _built(recipe.student, info, recipe.data.normalise, run.intact(checkpoint)).to(device).eval()


def filled(like: nn.Module, run: Run, checkpoint: str, device: torch.device) -> nn.Module:
    """Return the network of a finished run whose student was an object, as `of_run` does of others.

    Args:
        like: a network of its class, of which a copy takes the weights.

    Raises:
        ArdbenchError: as `of_run`, or `like` is of another class, or the weights do not fit it.
    """
    _check_finished(run)
    if (kind := OBJECT + objects.class_of(like)) != run.recipe.student:
        raise ArdbenchError(
            f"The student of {run.path} is {run.recipe.student}, and {kind} was given: give one of its class, or none where an "
            "architecture has a name."
        )
    net = _copied(like, kind)
    try:
        net.load_state_dict(load_weights(run.intact(checkpoint)))
    except RuntimeError as error:  # of torch, which names each key in a line of its own
        why = " ".join(str(error).split())[:300]
        raise ArdbenchError(f"The weights of {run.path} do not fit the network that was given: {why}") from None
    return net.to(device).eval()


def _check_finished(run: Run) -> None:
    if run.done is None:
        raise ArdbenchError(f"{run.path} is not finished: type its train or distill command again to finish it first.")


def of_file(
    path: Path,
    model: str,
    info: DatasetInfo,
    device: torch.device,
    normalise: bool = False,
    part: str = "",
    seen: Normalisation | None = None,
) -> Network:
    """Return a network whose weights lie in a file of a named architecture, or in a part of it, in eval mode.

    Pixels in [0, 1] go in. They are normalised by numbers in the file where there are such, else by those of `info` where
    `normalise` says so, or by `seen`; one of our own files says it itself. A file that leaves this to the code around its
    network is wrong without.

    Raises:
        ArdbenchError: the file is refused, holds other numbers than `seen`, or is of an architecture whose files leave them to
            code, and none were given.
    """
    known, own = recorded(path)
    seen = seen or own
    net = models.build(model, seen.of(info) if seen else info, normalise or seen is not None)
    given = net.normalise
    net.notes = load_into(net, read_state(path), str(path), part)
    if model in TWINS and not known:
        net.notes += (
            f"{path} fits {TWINS[model]} as well as {model}: their names and shapes are the same and their numbers are not; "
            "`ardbench identify` tells which it is.",
        )
    if seen and not _same(given, net.normalise):
        raise ArdbenchError(
            f"{path} holds another input normalisation than {seen}: leave that out, and its own is used."
        )
    if model in IN_CODE and not known and not isinstance(net.normalise, Normalise):
        name = info.name
        raise ArdbenchError(
            f"{path} holds no input normalisation, and every published {model} normalises in code: add --mean {name} "
            f"--std {name}, as a teacher {path}:{model}+mean={name}+std={name}; if nothing is normalised, 0 and 1."
        )
    return net.to(device).eval()


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two first layers normalise alike, to the digits in which such numbers are written."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("mean", "std")]
    return all(bool(((a - b).abs() < 1e-4).all()) for a, b in pairs)


def of_export(folder: Path, export: Export, device: torch.device) -> Network:
    """Return the network of an exported folder, on `device`, in eval mode.

    Raises:
        ArdbenchError: its weights are absent, damaged, or not the ones that config.json names.
    """
    path = intact(folder, export)
    return _built(export.architecture, export.info, bool(export.normalise), path).to(device).eval()


def _built(model: str, info: DatasetInfo, normalise: bool, path: Path) -> Network:
    """Return a network with weights of ours, whose head may be one of DARHT's that drops blocks."""
    net, state = models.build(model, info, normalise), load_weights(path)
    net.head = FeatureMap.fitting(state) or net.head
    net.notes = load_into(net, state, str(path))
    return net


def of_teacher(
    teacher: Teacher, dataset: str, device: torch.device, given: Mapping[str, nn.Module] = MappingProxyType({})
) -> nn.Module:
    """Return a teacher's network for students on `dataset`, in eval mode, resizing first if its own images are of another size.

    Args:
        given: networks that lie in no file, by identity; a copy of one is returned.

    Raises:
        ArdbenchError: its channels or classes are not those of the data set, or its weights have changed.
    """
    path, info = Path(teacher.weights), data.info(dataset)
    if teacher.source.startswith(OBJECT):
        return _of_object(teacher, info, device, given)
    if path.is_file() and sha256_of(path) != teacher.sha256:
        raise ArdbenchError(f"The weights of teacher {teacher.source} have just changed: type the same command again.")
    if teacher.source.startswith(ROBUSTBENCH):
        return robustbench.load(teacher.model, dataset).to(device)
    return fitted(_own_form(teacher, path, info, device), info.size)


def _of_object(teacher: Teacher, info: DatasetInfo, device: torch.device, given: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of a network object, if it was given again and answers as a teacher must."""
    if teacher.identity not in given:
        raise ArdbenchError(
            f"Teacher {teacher.source} is a network object of Python with weights {teacher.sha256[:8]}: give the same one to "
            "ardbench.distill(..., teachers=[net]), which goes on with it."
        )
    net = _copied(given[teacher.identity], f"Teacher {teacher.source}").to(device).eval()
    objects.check_answers(net, torch.zeros(2, info.channels, info.size, info.size, device=device), info.num_classes)
    return net


def student_object(start: Start, info: DatasetInfo, device: torch.device, given: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of the network that a caller gave as a student, as it begins, if it was given again.

    Raises:
        ArdbenchError: it was not, cannot be copied, or does not give the data set's logits.
    """
    if start.identity not in given:
        raise ArdbenchError(
            f"The student {start.source} is a network object of Python: give one of the same class and first weights as "
            "student=net, which goes on with it."
        )
    net = _copied(given[start.identity], f"The student {start.source}").to(device)
    x = torch.zeros(2, info.channels, info.size, info.size, device=device)
    objects.check_answers(net, x, info.num_classes, exactly=True)
    return net.train()


def _copied(net: nn.Module, what: str) -> nn.Module:
    try:
        return deepcopy(net)
    except Exception as error:  # of a stranger's code
        why = str(error).partition("\n")[0]
        raise ArdbenchError(f"{what} cannot be copied ({type(error).__name__}: {why}).") from None


def _own_form(teacher: Teacher, path: Path, wanted: DatasetInfo, device: torch.device) -> Network:
    """Return a teacher's network for images of its own size: of the zoo, of a run, of an export, or of a file."""
    if teacher.source.startswith(zoo.PREFIX):
        entry = zoo.entry(teacher.source)
        _check_shape(entry.info, wanted, teacher.source)
        return of_file(path, entry.model, entry.info, device, normalise=bool(entry.mean))
    found = owner(path)
    if isinstance(found, Run):
        _check_shape(data.info(found.recipe.data.name), wanted, teacher.source)
        if found.done is not None:
            return of_run(found, path.stem, device)
    elif found is not None:
        _check_shape(found.info, wanted, teacher.source)
        return of_export(path.parent, found, device)
    model, _, size = teacher.model.partition("@")
    _, seen = split_normalisation(teacher.seen)
    info = replace(wanted, size=int(size)) if size else wanted
    return of_file(path, model, info, device, part=teacher.part, seen=seen)


def _check_shape(taught: DatasetInfo, wanted: DatasetInfo, source: str) -> None:
    if (taught.num_classes, taught.channels) != (wanted.num_classes, wanted.channels):
        a, b = (f"{info.num_classes} classes of {info.channels}x{info.size}x{info.size}" for info in (taught, wanted))
        raise ArdbenchError(
            f"Teacher {source} was trained on {taught.name} ({a}), but the student's data set {wanted.name} has {b}: "
            f"give a teacher of {wanted.name}."
        )
