"""Networks that exist already: those of runs, and those in files that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from ardbench import data, models
from ardbench.draws import derive
from ardbench.engine.checkpoints import load_weights
from ardbench.errors import ArdbenchError
from ardbench.models.files import load_into, read_state
from ardbench.models.network import Network
from ardbench.runs import Run, Teacher, sha256_of


def fresh(model: str, dataset: str, normalise: bool, seed: int, purpose: str, device: torch.device) -> Network:
    """Return a newly initialised network; the weights depend on seed and purpose, not on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init", purpose))
        return models.build(model, data.info(dataset), normalise).to(device)


def of_run(run: Run, checkpoint: str, device: torch.device) -> Network:
    """Return the deployed network of a finished run, on `device`, in eval mode.

    Raises:
        ArdbenchError: the checkpoint is absent, damaged, or not the one that the done marker names.
    """
    recipe, done = run.recipe, run.done
    if done is None:
        raise ArdbenchError(f"{run.path} is not finished: type its train or distill command again to finish it first.")
    if checkpoint not in run.checkpoints:
        raise ArdbenchError(f"{run.path} has no checkpoint {checkpoint!r}: choose one of {', '.join(run.checkpoints)}.")
    net = models.build(recipe.student, data.info(recipe.data.name), recipe.data.normalise)
    load_into(net, load_weights(run.weights(checkpoint)), str(run.weights(checkpoint)))
    return net.to(device).eval()


def of_file(path: Path, model: str, dataset: str, device: torch.device) -> Network:
    """Return a network whose weights lie in a .pt or .safetensors file of a named architecture, in eval mode.

    Pixels in [0, 1] go in as they are; a file that normalises outside its network is wrong here.
    """
    net = models.build(model, data.info(dataset), normalise=False)
    load_into(net, read_state(path), str(path))
    return net.to(device).eval()


def of_teacher(teacher: Teacher, dataset: str, device: torch.device) -> Network:
    """Return a teacher's network for students on `dataset`.

    Raises:
        ArdbenchError: its images or classes are not those of the data set, or its weights have changed.
    """
    path = Path(teacher.weights)
    if path.is_file() and sha256_of(path) != teacher.sha256:
        raise ArdbenchError(f"The weights of teacher {teacher.source} have just changed: type the same command again.")
    if path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
        run = Run.open(path.parent)
        _same_shape(run.recipe.data.name, dataset, teacher.source)
        return of_run(run, path.stem, device)
    return of_file(path, teacher.model, dataset, device)


def _same_shape(taught: str, wanted: str, source: str) -> None:
    a, b = data.info(taught), data.info(wanted)
    if (a.num_classes, a.channels, a.size) != (b.num_classes, b.channels, b.size):
        raise ArdbenchError(
            f"Teacher {source} was trained on {taught} ({a.num_classes} classes, {a.channels}x{a.size}x{a.size}), but the "
            f"student's data set {wanted} has {b.num_classes} classes of {b.channels}x{b.size}x{b.size}: "
            f"give a teacher of {wanted}."
        )
