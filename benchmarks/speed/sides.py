"""The two sides of a comparison: the reference script and the engine's loop, on equal networks and the same images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import Images, Script
from reference_losses import METHODS
from tables import Runner
from torch import nn

from ardbench import data
from ardbench.config import Recipe, epoch_at
from ardbench.data.batches import Split, Splits
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.loop import LOOK_EVERY, Loop
from ardbench.methods import method_class
from ardbench.methods.base import Context, Method
from ardbench.models.cost import cost
from ardbench.models.feature_map import FeatureMap
from ardbench.planning.counting import StepCounter
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher

DATASET = "cifar10"
LARGE, SMALL = 128, 32
"""Batches: `LARGE` for the methods of `AT_LARGE`, which is the recipes' own, `SMALL` for the rest."""
HEAP = 3 * 2**30
"""Bytes, more than any step needs."""
AT_LARGE = ("pgd-at", "rslad", "peeraid", "crdnd")
GRAPH = "graph"
"""The form whose attacks are recorded as CUDA graphs."""
VARIANTS = {"fp32": "fp32", "bf16": "bf16", GRAPH: "bf16", "cold": "bf16", "warm": "bf16"}
"""Form of ours -> its precision. `CACHES` keep the teacher's logits: cold finds none of a step's views, warm all."""
CACHES = ("cold", "warm")
CACHED = ("rslad", "rslad@igdm", "ard", "iad-i", "crdnd", "mtard", "b-mtard", "absld", "dgad")
"""Methods that ask a teacher about each clean view, which `CACHES` save; AdaAD does with alpha < 1 alone, not as released."""
WHOLE_FROM = {"iad-i": "begin", "iad-ii": "begin", "adaiad": "begin", "darht": "distill_from"}
"""Methods that begin with less than their whole loss -> the field that says where all of its terms are there."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for; steps are those of one timed sample, a batch of 0 is the method's own."""

    device: str
    model: str
    teacher: str
    batch: int
    repeats: int
    steps: int
    methods: tuple[str, ...]
    variants: tuple[str, ...]
    gradient: str
    tf32: bool
    again: bool
    out: Path
    memory_of: str | None
    limit: float | None = None
    """Seconds after which no row is begun."""

    def of(self, method: str) -> Options:
        """Return the options with the batch at which the method is measured."""
        return replace(self, batch=self.batch or (LARGE if method in AT_LARGE else SMALL))


def kind_of(method: str) -> type[Method[Any]]:
    """Return the class of METHOD or METHOD@VARIANT."""
    return method_class(method.partition("@")[0])


def unaveraged(method: str) -> dict[str, object]:
    """Return what keeps a recipe from averaging the student, where it does not learn from the average."""
    return {} if kind_of(method).averages else {"average.kind": "none"}


def recipe_of(method: str, variant: str, options: Options) -> Recipe:
    """Return the as-released recipe of a method (DARHT has the level one alone) for one form of ours.

    Both sides do the same in each step: DARHT's coin always says attack, and nothing is averaged between epochs.
    """
    precision = VARIANTS[variant]
    sets: dict[str, object] = {"precision.attack": precision, "precision.outer": precision}
    sets |= {"precision.tf32": options.tf32, "data.batch": options.batch} | unaveraged(method)
    sets["precision.cuda_graph"] = variant == GRAPH
    if variant not in CACHES:
        sets["precision.cache_gb"] = 0
    if kind_of(method).peer:
        sets["method.peer"] = options.teacher
    base, at, laid = method.partition("@")
    name = f"{base}-{DATASET}{at}{laid}"
    if method == "darht":
        name, sets["method.p_adv"] = f"{name}-level", 1
    if options.memory_of is not None:
        sets["attack.steps"] = 2  # an attack step leaves nothing behind, so more of them raise no peak
    return resolve(name, student=options.model, sets=sets)


def obstacle(method: str, variant: str, options: Options, device: torch.device) -> str:
    """Return why a form of ours would be the bf16 one again for this method or device; "" where it is not."""
    if variant in CACHES and method not in CACHED:
        return "its step asks no teacher about the clean view of an image"
    if variant != GRAPH:
        return ""
    if device.type != "cuda":
        return "only CUDA records attacks"
    return "" if kind_of(method).attacks else "it has no attack to record"


def synthetic(device: torch.device) -> tuple[Images, Splits]:
    """Return the same random images for the reference (H, W, C in memory) and for ours (uint8 on the device)."""
    info, source = data.info(DATASET), np.random.default_rng(0)
    images = source.integers(0, 256, (info.train_images, info.size, info.size, info.channels), dtype=np.uint8)
    labels = source.integers(0, info.num_classes, info.train_images)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    train = Split(pixels, torch.from_numpy(labels).to(device), torch.arange(len(labels), device=device), info)
    return Images(images, labels.tolist(), info.pad), Splits(train, None, train.take([0]))


def teachers_of(method: str, options: Options, device: torch.device) -> tuple[nn.Module, ...]:
    """Return a teacher for each role (for an Ellipsis one more), frozen; random weights cost what trained ones do."""
    seeds = range(1, 1 + len(kind_of(method).roles))
    nets = (networks.fresh(options.teacher, DATASET, False, seed, "teacher", device) for seed in seeds)
    return tuple(net.eval().requires_grad_(False) for net in nets)


def script_of(method: str, options: Options, images: Images, device: torch.device) -> Script:
    """Return the reference loop on its own networks."""
    recipe, teachers = recipe_of(method, "fp32", options), teachers_of(method, options, device)

    def learning(model: str, purpose: str) -> nn.Module:
        return networks.fresh(model, DATASET, recipe.data.normalise, 0, purpose, device).train()

    student = learning(options.model, "student")
    if method == "darht":
        features = student.get_submodule("head").in_features
        student.head = FeatureMap(features, len(teachers), data.info(DATASET).num_classes).to(device)  # type: ignore[arg-type]
    peer = learning(options.teacher, "peer") if kind_of(method).peer else None
    workers, gradient = 0 if device.type == "cpu" else 2, gradient_of(method, options)
    return Script(recipe, student, teachers, peer, images, workers, device, METHODS[method][0], gradient)


def gradient_of(method: str, options: Options) -> str:
    """Return how the reference's attack differentiates."""
    return METHODS[method][1] if options.gradient == "released" else options.gradient


def reference(method: str, options: Options, images: Images, device: torch.device) -> Runner:
    """Return the reference loop with torch's and C's defaults and cudnn.benchmark as scripts set it."""

    def prepare() -> None:
        devices.keep_freed_memory(False)
        torch.backends.cudnn.benchmark = True
        devices.allow_tf32(options.tf32)
        torch.backends.cuda.matmul.fp32_precision = "ieee"  # torch's default: convolutions in TF32, products in fp32

    return Runner(prepare, script_of(method, options, images, device).step)


def loop_of(method: str, variant: str, options: Options, splits: Splits) -> Loop:
    """Return the engine's own loop on its own networks."""
    return loop_on(recipe_of(method, variant, options), method, options, splits)


def loop_on(recipe: Recipe, method: str, options: Options, splits: Splits) -> Loop:
    """Return the engine's own loop of a recipe of the method's, with the options' teachers."""
    device = splits.train.images.device

    def build(model: str, purpose: str = "peer") -> nn.Module:
        net: nn.Module = networks.fresh(model, DATASET, recipe.data.normalise, 0, purpose, device)
        return net.to(memory_format=torch.channels_last) if recipe.precision.channels_last else net

    teachers = teachers_of(method, options, device)
    built = kind_of(method)(Context(recipe, build(options.model, "student"), teachers, build))
    folder = Path(tempfile.gettempdir()) / "ardbench-speed-writes-nothing"
    loop = Loop(Run(folder), recipe, built, splits, lambda: False, Progress())
    loop.method.begin_epoch(0)
    for net in loop.trainables.values():
        net.train()
    return loop


def epoch_of(recipe: Recipe) -> int:
    """Return the first epoch in which the loss has all of its terms: the one that is measured."""
    name = recipe.method["name"]
    config, share = method_class(name).Config.model_validate(recipe.method), WHOLE_FROM.get(name)
    shares = [getattr(config, share)] if share else []
    shares += [recipe.weight_perturbation.begin] if recipe.weight_perturbation else []
    return max((epoch_at(share, recipe.schedule.epochs) for share in shares), default=0)


def flop_of(method: str, variant: str, options: Options, counter: StepCounter) -> float:
    """Return the FLOP of one image in one measured step of ours."""
    recipe = recipe_of(method, variant, options)
    teachers = [Teacher("fresh", "", "", options.teacher, "", "") for _ in kind_of(method).roles]
    epoch = epoch_of(recipe)
    saved = 2 * cost(options.teacher, data.info(DATASET)).macs if variant == "warm" else 0
    return counter.flop(recipe, teachers, range(epoch, epoch + 1)) - saved


def ours(method: str, variant: str, options: Options, splits: Splits) -> Runner:
    """Return the engine's side: batch, step and look at the losses as in `Loop._epoch`."""
    loop = loop_of(method, variant, options, splits)
    epoch, full, made = epoch_of(loop.recipe), len(splits.train) // options.batch, 0
    cache = loop.cache
    assert (cache is not None) == (variant in CACHES)

    def prepare() -> None:
        if loop.device.type == "cpu":
            devices.keep_freed_memory(True)
            if options.memory_of is None:
                torch.zeros(HEAP, dtype=torch.uint8)  # memory that an earlier step would have left
        torch.backends.cudnn.benchmark = False
        devices.allow_tf32(loop.recipe.precision.tf32)
        if cache is not None and variant == "cold":
            cache.forget()
            cache.ahead = 1  # so that each step asks about its own views
        elif cache is not None:
            first = made % full
            cache.fill(epoch, range(first, min(first + options.steps, full)))

    def step() -> None:
        nonlocal made
        index = made % full
        loop._step(loop.batches.batch(epoch, index), epoch, index)
        if loop.device.type == "cpu" or index % LOOK_EVERY == LOOK_EVERY - 1:
            loop.ledger.check(epoch)
        made += 1

    return Runner(prepare, step)
