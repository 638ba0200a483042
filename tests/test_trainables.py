"""What learns beside the student: its own optimizer, its own rate, and when it begins."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import in_double, method, recipe
from test_engine import loop_of

from ardbench import methods
from ardbench.config import Rates
from ardbench.engine.schedules import factor
from ardbench.errors import ArdbenchError

OWN = {
    "trainables.teacher.optimizer.lr": 0.02, "trainables.teacher.optimizer.momentum": 0,
    "trainables.teacher.optimizer.weight_decay": 0.1, "trainables.teacher.schedule.kind": "constant",
    "trainables.teacher.schedule.begin": 0, "trainables.teacher.schedule.damping": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_a_method_names_what_it_trains_beside_the_student(name: str) -> None:
    built = method(recipe(name))
    assert set(built.others) <= set(built.trainables()) - {"student"}
    assert bool(built.others) == (name in ("peeraid", "lbgat", "ciard"))


def test_a_trainable_learns_by_its_own_optimizer_from_where_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_double(monkeypatch)
    sets: dict[str, Any] = {
        "schedule.epochs": 2,
        "precision.cache_gb": 0,
        "trainables.teacher.begin": 0.5,
        "optimizer.clip": 0.1,
    } | OWN
    loop = loop_of(
        "ciard", tmp_path, to=torch.float64, **{key.replace(".", "__"): value for key, value in sets.items()}
    )
    teacher, given = loop.trainables["teacher"], loop.batches.batch(0, 0)
    before = [p.detach().clone() for p in teacher.parameters()]
    student = [p.detach().clone() for p in loop.method.student.parameters()]
    loop._step(given, 0, 0)
    assert all(torch.equal(p, was) for p, was in zip(teacher.parameters(), before, strict=True)), "it has not begun"
    assert any(not torch.equal(p, was) for p, was in zip(loop.method.student.parameters(), student, strict=True))
    there = copy.deepcopy(teacher).train()
    x_adv = list[torch.Tensor]()
    loop.method.watch = lambda _, made: x_adv.append(made)
    loop._step(given, 1, 0)
    torch.nn.functional.cross_entropy(there(x_adv[0]), given.y).backward()  # type: ignore[no-untyped-call]
    for p, was in zip(teacher.parameters(), there.parameters(), strict=True):
        assert was.grad is not None
        expected = was - 0.02 * (was.grad + 0.1 * was)  # its gradient is not clipped, which [optimizer] is for
        assert torch.allclose(p, expected, rtol=1e-9, atol=1e-12)


def test_what_a_trainable_is_not_given_it_has_of_the_student() -> None:
    wanted = recipe("peeraid", trainables__peer__begin=0.3)
    assert wanted.learning("peer") == (wanted.optimizer, wanted.schedule, 0.3)
    assert wanted.learning("student") == (wanted.optimizer, wanted.schedule, 0.0)
    with pytest.raises(ArdbenchError, match=r"trainables\.peer\.optimizer\.momentum is missing"):
        recipe("peeraid", trainables__peer__optimizer__lr=0.1)


def test_a_recipe_that_lets_something_learn_which_the_method_does_not_train_is_refused() -> None:
    for name, trains in (("rslad", "the student alone"), ("peeraid", "peer beside the student")):
        with pytest.raises(ArdbenchError, match=rf"\[trainables.teacher\], but {name} trains {trains}: leave it out"):
            recipe(name, **{key.replace(".", "__"): value for key, value in OWN.items()})


def test_a_cosine_may_begin_later_and_be_damped() -> None:
    late = Rates(kind="cosine", begin=0.5, damping=0.01)
    for epoch in range(300):  # as CIARD's script has it for its student
        z = max(epoch - 150, 0) / 150
        wanted = 0.5 * (1 + math.cos(math.pi * z)) * math.exp(-0.01 * z**2)
        assert factor(late, 300, 7 * epoch, 7) == pytest.approx(wanted, rel=1e-12)
    for kind in ("constant", "onecycle"):
        with pytest.raises(ValueError, match="takes no begin and no damping"):
            Rates(kind=kind, begin=0.5)
