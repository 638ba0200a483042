"""Teachers' logits that are kept: the same numbers, asked for once, bounded, and shared between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU, method, recipe
from torch import Tensor

from ardbench.data.load import load
from ardbench.data.views import count_views, number_views
from ardbench.engine.loop import Loop
from ardbench.engine.teacher_cache import FOLDER, ROWS
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.runs import Run, Teacher

TEACHER = Teacher("file", "robust", "identity", "resnet8-tiny", "weights", "sha")


class Asked:
    """Stands before a teacher and counts."""

    def __init__(self, teacher: Any) -> None:
        self.teacher, self.sizes = teacher, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        answer: Tensor = self.teacher(x)
        return answer


def pixels(x: Tensor) -> Tensor:
    """Stand for a teacher: ten pixels are its logits, which no precision, batch or processor rounds otherwise."""
    return x.flatten(1)[:, 90:100]


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def loop_of(folder: Path, name: str = "rslad", progress: Progress | None = None, **sets: Any) -> tuple[Loop, Asked]:
    """Return a loop whose teacher counts what it is asked."""
    wanted = recipe(name, **({"schedule__epochs": 2} | sets))
    built = method(wanted)
    built.teachers = (asked := Asked(built.teachers[0]),)
    run = Run(folder / f"{name}-{wanted.seed}")
    run.create(wanted, [TEACHER], {})
    splits = load("fake", CPU, validation=wanted.data.validation)
    return Loop(run, wanted, built, splits, lambda: False, progress or Progress()), asked


def batches(loop: Loop, epochs: int = 2) -> list[Any]:
    return [loop.batches.batch(epoch, step) for epoch in range(epochs) for step in range(len(loop.batches))]


def test_every_view_has_its_number() -> None:
    across = torch.arange(3)
    for augment, flips in (("crop-flip", 2), ("crop", 1)):
        views = torch.cartesian_prod(across, across, torch.arange(flips))  # all, with one zero pixel around
        numbers = number_views(views, augment, pad=1)
        assert sorted(numbers.tolist()) == list(range(count_views(augment, 1)))
    assert count_views("crop-flip", 4) == 162
    assert number_views(torch.tensor([[4, 4, 0]]), "none", 4).item() == 0 == count_views("none", 4) - 1


@pytest.mark.parametrize("outer", ["fp32", "bf16"])
def test_what_is_kept_is_what_the_teacher_says(outer: str, tmp_path: Path) -> None:
    loop, asked = loop_of(tmp_path, precision__outer=outer)
    asked.teacher = pixels
    for batch in batches(loop) * 2:
        assert torch.equal(loop.method.teacher_logits(batch), pixels(batch.x))


def test_a_view_is_asked_about_once_and_in_batches_of_one_size(tmp_path: Path) -> None:
    loop, asked = loop_of(tmp_path, data__augment="none")
    for batch in batches(loop, epochs=3):
        loop.method.teacher_logits(batch)
    assert set(asked.sizes) == {2 * ROWS}  # what holds a batch of 50
    assert (
        sum(asked.sizes) == 288
    )  # 224 images in three batches, one view an image: nothing is new after the first epoch


def test_a_new_view_is_asked_about_and_a_known_one_is_not(tmp_path: Path) -> None:
    loop, asked = loop_of(tmp_path)
    first, later = batches(loop, 1), batches(loop, 2)[len(loop.batches) :]
    for batch in first:
        loop.method.teacher_logits(batch)
    once = len(asked.sizes)
    for batch in reversed(first):
        loop.method.teacher_logits(batch)
    assert len(asked.sizes) == once
    for batch in later:
        loop.method.teacher_logits(batch)
    assert len(asked.sizes) > once


def test_training_with_it_is_training_without_it(tmp_path: Path) -> None:
    losses = []
    for size in (4.0, 0.0):
        loop, asked = loop_of(tmp_path / str(size), precision__cache_gb=size)
        asked.teacher = pixels
        assert loop.fit()
        losses.append([row["loss"] for row in loop.rows])
    assert losses[0] == losses[1]


def test_what_does_not_fit_is_asked_each_time_and_said(tmp_path: Path) -> None:
    heard = Notes()
    loop, asked = loop_of(tmp_path, progress=heard, precision__cache_gb=1e-6)
    for _ in range(2):
        for batch in batches(loop):
            loop.method.teacher_logits(batch)
    assert sum(asked.sizes) == 4 * len(loop.batches.split)
    assert len(heard.notes) == 1 and "precision.cache_gb is 1e-06" in heard.notes[0]


DISK: dict[str, Any] = {"precision__cache_disk": True, "data__augment": "none"}


@pytest.mark.parametrize(("name", "seed"), [("rslad", 1), ("iad-i", 0)])
def test_a_file_is_shared_by_seeds_and_methods(name: str, seed: int, tmp_path: Path) -> None:
    first, asked = loop_of(tmp_path, **DISK)
    asked.teacher = pixels
    assert first.fit() and asked.sizes
    again, asked = loop_of(tmp_path, name, seed=seed, **DISK)
    for batch in batches(again):
        assert torch.equal(again.method.teacher_logits(batch), pixels(batch.x))
    assert not asked.sizes


def test_another_precision_or_teacher_has_another_file(tmp_path: Path) -> None:
    first, _ = loop_of(tmp_path, **DISK)
    other, asked = loop_of(tmp_path, "ard", precision__outer="bf16", **DISK)
    assert first.fit()
    other.method.teacher_logits(batches(other)[0])
    assert asked.sizes


def test_two_runs_that_write_keep_what_each_has_asked(tmp_path: Path) -> None:
    loops = [loop_of(tmp_path, name, **DISK)[0] for name in ("rslad", "ard")]
    for loop, step in zip(loops, (0, 3), strict=True):
        loop.cache.ahead = 1
        loop.method.teacher_logits(loop.batches.batch(0, step))
    for loop in loops:
        loop.cache.save()
    third, asked = loop_of(tmp_path, "crdnd", **DISK)
    for step in (0, 3):
        third.cache.ahead = 1
        third.method.teacher_logits(third.batches.batch(0, step))
    assert not asked.sizes


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"{}"])
def test_a_damaged_file_is_refused_by_name(damage: Any, tmp_path: Path) -> None:
    assert loop_of(tmp_path, **DISK)[0].fit()
    file = next((tmp_path / FOLDER).glob("*.safetensors"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArdbenchError, match=file.name):
        loop_of(tmp_path, seed=1, **DISK)[0].fit()


def test_the_switches_that_only_compute_otherwise_are_no_part_of_the_identity() -> None:
    plain = recipe("rslad")
    assert recipe("rslad", precision__cache_gb=0, precision__compile=True).identity() == plain.identity()
    assert recipe("rslad", precision__attack="bf16").identity() != plain.identity()
