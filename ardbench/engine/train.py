"""From a resolved recipe and its teachers to a finished run directory."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import ardbench
from ardbench import data, methods, models, plugins, processes
from ardbench.config import Recipe
from ardbench.data.batches import Splits
from ardbench.data.epoch import Epoch
from ardbench.data.load import extra_of, load
from ardbench.engine import networks
from ardbench.engine.device import allow_tf32, check_precision, describe, forget_peak, with_graphs
from ardbench.engine.distribution import synchronise
from ardbench.engine.loop import Loop
from ardbench.engine.stopping import stopping
from ardbench.engine.teacher_checks import check_teachers
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import Paused
from ardbench.faults import blamed
from ardbench.methods.base import Context, Method
from ardbench.models.names import OBJECT
from ardbench.models.network import notes_of
from ardbench.progress import Progress
from ardbench.runs import Run, Teacher, sha256_of, write_json
from ardbench.starts import source_of


def train(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    run: Run,
    device: torch.device,
    *,
    data_root: Path | None = None,
    deadline: float | None = None,
    progress: Progress | None = None,
    given: Mapping[str, torch.nn.Module] = MappingProxyType({}),
) -> bool:
    """Train the run, or what is missing of it; return whether it is finished. Every process of `processes.joined` calls it.

    Args:
        recipe: resolved.
        teachers: in the order of the method's roles.
        run: where `Run.place` puts it.
        data_root: where data sets lie; None takes the default.
        deadline: by `time.monotonic`, when the loop saves and stops.
        progress: listens.
        given: teachers that are network objects, by identity.

    Raises:
        ArdbenchError: whatever the user can mend; what was saved before stays.
    """
    listener = progress or Progress()
    plugins.check(
        recipe.outside, str(run.path)
    )  # a process of a campaign may have found another source than its parent
    with processes.held(run.lock()), stopping(deadline) as stop:
        if run.done is not None:
            return True
        decided, note = with_graphs(recipe, device)
        for said in (*check_precision(recipe.precision, device), *filter(None, [note])):
            listener.note(said)
        allow_tf32(recipe.precision.tf32)
        forget_peak(device)
        _refuse_single_images(recipe, given)
        method = build_method(decided, teachers, device, listener, given)
        splits = processes.first(
            lambda: _loaded(recipe, device, data_root, listener)
        )  # downloads at most what has a use
        # not before: what is refused leaves no directory
        told = environment(device) | ({"outside": plugins.origins(recipe.outside)} if recipe.outside else {})
        processes.once(lambda: run.create(recipe, teachers, told))
        loop = Loop(run, recipe, method, splits, stop, listener)
        try:
            check_teachers(recipe, teachers, run, splits, listener, given)
        except Paused:
            return False
        if not _fitted(loop):
            return False
        processes.once(lambda: _end(run, recipe, loop, device))
    return True


def _loaded(recipe: Recipe, device: torch.device, data_root: Path | None, listener: Progress) -> Splits:
    """Return what is trained and measured on, and say where its images lie."""
    of = recipe.data
    extra = extra_of(of, device)
    words = (of.name, device, data_root, of.validation, of.train_images)
    splits = load(*words, progress=listener, place=of.place, workers=of.workers)
    listener.note(f"Images lie {splits.place}.")
    if extra is not None:
        labelled = "labelled by the first teacher" if extra.labels is None else "with labels of their own"
        listener.note(
            f"{100 * extra.share:g} % of each batch are of the {len(extra.images):,} images of {of.extra}, {labelled}."
        )
    return replace(splits, extra=extra)


def _refuse_single_images(recipe: Recipe, given: Mapping[str, torch.nn.Module] = MappingProxyType({})) -> None:
    """Refuse a last batch of one image, in one process or another, where a BatchNorm sees features of 1x1: one number."""
    info, of = data.info(recipe.data.name), recipe.data
    images, world = of.train_images or info.train_images - of.validation, processes.size()
    epoch = Epoch.of(of, images)
    last = epoch.mix(len(epoch) - 1).rows
    shares = [last * (rank + 1) // world - last * rank // world for rank in range(world)]
    if last != 1 and (recipe.sync_bn or 1 not in shares):
        return
    if recipe.student.startswith(OBJECT):
        assert recipe.start is not None  # as `ardbench.starts` makes it
        cpu = torch.device("cpu")
        net, where = networks.student_object(recipe.start, info, cpu, given), cpu
    else:
        where = torch.device("meta")
        with where:
            net = models.build(recipe.student, info)
    try:
        net.train()(torch.zeros(1, info.channels, info.size, info.size, device=where))
    except ValueError:  # of torch, which cannot take the variance of one number
        whose = "one image" if last == 1 else f"{last} images for {world} processes, one for some of them"
        raise ArdbenchError(
            f"data.batch = {of.batch} and {images} training images leave a last batch of {whose}, of which a BatchNorm of "
            f"{recipe.student} has a single number to normalise: give --set data.drop_last=true, or another data.batch."
        ) from None


def _end(run: Run, recipe: Recipe, loop: Loop, device: torch.device) -> None:
    """Write the marker of a finished run."""
    document = {
        "epochs": loop.at.epoch,
        "seconds": loop.at.seconds,
        "images": loop.at.images,
        "device": device.type,
        "best_epoch": loop.at.best_epoch,
        "weights": {name: sha256_of(run.weights(name)) for name in run.checkpoints},
    }
    write_json(run.path / "done", document)


def _fitted(loop: Loop) -> bool:
    """Train; return whether it is finished."""
    try:
        return loop.fit()
    except torch.OutOfMemoryError:
        raise ArdbenchError(
            f"Out of device memory in epoch {loop.at.epoch + 1}: what was saved is kept; free the device and type the same "
            f"command again, or train another run with a data.batch under {loop.recipe.data.batch}."
        ) from None


def build_method(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    device: torch.device,
    progress: Progress | None = None,
    given: Mapping[str, torch.nn.Module] = MappingProxyType({}),
) -> Method[Any]:
    """Return the method with its student freshly initialised and its teachers loaded and frozen; `given` as in `train`."""
    taught = [networks.of_teacher(one, recipe.data.name, device, given).requires_grad_(False) for one in teachers]
    tell = (progress or Progress()).note
    for note in (note for net in taught for note in notes_of(net)):
        tell(note)

    def fresh(model: str, purpose: str) -> torch.nn.Module:
        start = recipe.start if purpose == "student" else None
        if start is not None and start.source.startswith(OBJECT):
            return networks.student_object(start, data.info(recipe.data.name), device, given)
        words = (model, recipe.data.name, recipe.data.normalise, recipe.seed, purpose, device)
        net = networks.fresh(*words)
        for note in notes_of(net):
            tell(note)
        if start is not None and start.kind == "init":
            tell(networks.begin_with(net, source_of(recipe)))
        return net

    def build(model: str, purpose: str = "peer") -> torch.nn.Module:
        net = fresh(model, purpose)
        net = synchronise(net) if recipe.sync_bn else net
        return net.to(memory_format=torch.channels_last) if recipe.precision.channels_last else net

    kind = methods.method_class(recipe.method["name"])
    with blamed(kind, "__init__"):
        return kind(
            Context(recipe, build(recipe.student, "student"), tuple(taught), build, progress.note if progress else None)
        )


def environment(device: torch.device) -> dict[str, Any]:
    """Return what env.json records: versions, device, command, and the state of the source tree."""
    sha, dirty = _git()
    return {
        "ardbench": ardbench.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": describe(device),
        "processes": processes.size(),
        "git_sha": sha,
        "git_dirty": dirty,
        "argv": ["ardbench", *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git() -> tuple[str, bool]:
    """Return the commit of the checkout that ardbench runs from and whether its package has changes; ("", False) in a wheel."""
    root = Path(ardbench.__file__).parents[1]
    if not (root / ".git").exists():
        return "", False
    try:
        words = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "ardbench"])
        sha, changes = (subprocess.check_output(["git", "-C", str(root), *w], text=True).strip() for w in words)
        return sha, bool(changes)
    except (OSError, subprocess.CalledProcessError):
        return "", False
