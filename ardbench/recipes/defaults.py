"""The recipe of a method on a data set that nobody wrote one for: its level recipe, fitted by rules to the images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ardbench.config import Recipe, in_pixels
from ardbench.data import DatasetInfo

SHOWN, LONGEST, SHORTEST = 1_500_000, 200, 30
"""Images that a run shows, and the most and least epochs that this makes: the level table's 30 epochs of CIFAR-10."""
HELD_OUT = 1000
"""Validation images, as of the level table, but no more than a tenth of the training images."""
LARGEST_BATCH, SMALLEST_BATCH = 128, 16
"""A batch is the level table's, but no more than a tenth of what trains: an epoch has ten steps."""
MANY = 100
"""Classes from which a method's weights are those for CIFAR-100."""
SMALL, MIDDLE = 16, 64
"""Sides up to which a student is a small one, and up to which eps is CIFAR's and the student keeps its resolution."""
RULES = {
    "student": f"by size: resnet8-tiny up to {SMALL} pixels, resnet18 up to {MIDDLE}, torchvision:resnet18 above",
    "data.validation": f"held out of training, by class, to select by: {HELD_OUT}, at most a tenth",
    "data.augment": "mirrored where a mirrored image is of its class",
    "data.batch": f"{LARGEST_BATCH}, at most a tenth, at least {SMALLEST_BATCH}",
    "data.drop_last": "the last batch would be of one image",
    "threat.eps": f"8/255 up to {MIDDLE} pixels, 4/255 above",
    "evaluation.eps": "the same",
    "attack.step_size": "eps / 4",
    "schedule.epochs": f"as many as show {SHOWN:,} images, {SHORTEST} to {LONGEST}",
}
"""What a default recipe decides by the data set, by dotted key."""


def base_of(method: str, info: DatasetInfo) -> str:
    """Return the name of the level recipe whose constants a method has on images like these."""
    return f"{method}-{'cifar100' if info.num_classes >= MANY else 'cifar10'}-level"


def default_name(method: str) -> str:
    """Return what the default recipe of a method is called; its runs have the data set behind it."""
    return f"{method}-level"


def student_for(size: int) -> str:
    """Return a usual student for images of a side."""
    return "resnet8-tiny" if size <= SMALL else "resnet18" if size <= MIDDLE else "torchvision:resnet18"


def fitting(method: Mapping[str, Any], title: str, info: DatasetInfo) -> dict[str, Any]:
    """Return what a level recipe has otherwise on a data set, as its sections.

    Args:
        method: its section [method] there.
        title: of the level recipe.
    """
    eps = 8 if info.size <= MIDDLE else 4
    threat, student = {"norm": "linf", "eps": f"{eps}/255"}, student_for(info.size)
    validation = min(HELD_OUT, info.train_images // 10)
    left = info.train_images - validation
    batch = min(LARGEST_BATCH, max(SMALLEST_BATCH, left // 10))
    return {
        "title": f"{title.partition(' on CIFAR')[0]} on {info.name}, by default",
        "student": student,
        "data": {
            "name": info.name,
            "validation": validation,
            "augment": "crop-flip" if info.flip else "crop",
            # BatchNorms of small features cannot take the statistics of one image
            **({"drop_last": True} if left % batch == 1 else {}),
            "batch": batch,
        },
        "threat": threat,
        "evaluation": threat,
        "attack": {"step_size": f"{eps // 4}/255"},
        "schedule": {
            "kind": "onecycle",
            "epochs": min(LONGEST, max(SHORTEST, round(SHOWN / info.train_images))),
            "warmup": "1/5",
        },
        "method": {"peer": student} if "peer" in method else {},
    }


def in_words(recipe: Recipe, info: DatasetInfo) -> str:
    """Return, in one sentence, that a run takes a default recipe and by what rules."""
    method, epochs, eps = recipe.method["name"], recipe.schedule.epochs, in_pixels(recipe.threat.eps)
    to_edit = shlex.join(["ardbench", "new", "recipe", method, "--dataset", info.name])
    return (
        f"{method} has no recipe of its own for {info.name}: it takes the default, with {epochs} epoch{'s' * (epochs > 1)} "
        f"({info.train_images:,} training images), eps {eps} (8/255 up to {MIDDLE} pixels and 4/255 above; these have "
        f"{info.size}), student {recipe.student}; `{to_edit}` writes it to edit."
    )
