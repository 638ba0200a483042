"""Diagnostics: counted right, and nothing of the training is changed by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU, batch, method, recipe
from torch import Tensor

from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine.diagnostics import Diagnostics
from ardbench.engine.loop import Loop
from ardbench.methods.base import Method
from ardbench.progress import Progress
from ardbench.runs import Run


def trained(folder: Path, wanted: Recipe, stop: Any = lambda: False) -> Loop:
    folder.mkdir(exist_ok=True)
    loop = Loop(
        Run(folder), wanted, method(wanted), load("fake", CPU, validation=wanted.data.validation), stop, Progress()
    )
    loop.fit()
    return loop


def counted(
    built: Method[Any], wanted: Recipe, steps: int
) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor, Tensor]]]:
    """Return the row of some steps, and what was seen in each: x, x', y."""
    diagnostics, seen = Diagnostics(built, CPU), list[tuple[Tensor, Tensor, Tensor]]()
    observe = built.watch
    assert observe is not None

    def both(given: Any, x_adv: Tensor) -> None:
        seen.append((given.x, x_adv, given.y))
        observe(given, x_adv)

    built.watch = both
    for step in range(steps):
        built.step(batch(wanted, step), 0)
    return diagnostics.close(), seen


def test_the_three_cases_and_the_classes_are_counted_example_by_example() -> None:
    wanted = recipe("iad-ii")
    built = method(wanted)
    row, seen = counted(built, wanted, 3)
    assert len(row["teachers"]) == 2
    assert "peer" not in row
    for teacher, told in zip(built.teachers, row["teachers"], strict=True):
        cases, hits, total = {"both": 0, "clean_only": 0, "neither": 0}, [0] * 10, [0] * 10
        for x, x_adv, labels in seen:
            for said, said_adv, y in zip(teacher(x).argmax(1), teacher(x_adv).argmax(1), labels, strict=True):
                cases["neither" if said != y else "both" if said_adv == y else "clean_only"] += 1
                hits[int(y)] += int(said == y)
                total[int(y)] += 1
        assert sum(total) == 150
        assert {name: told[name] for name in cases} == pytest.approx({k: v / 150 for k, v in cases.items()})
        assert told["class_clean"] == pytest.approx([h / t if t else None for h, t in zip(hits, total, strict=True)])
        assert told["clean"] == pytest.approx(sum(hits) / 150)


def test_a_peer_is_judged_in_eval_mode_and_stays_in_train_mode() -> None:
    wanted = recipe("peeraid")
    built = method(wanted)
    peer = built.trainables()["peer"].train()
    before = [buffer.clone() for buffer in peer.buffers()]
    diagnostics = Diagnostics(built, CPU)
    given = batch(wanted)
    x_adv = (given.x + 0.1).clamp(0, 1)
    diagnostics.observe(given, x_adv)
    assert all(map(torch.equal, before, peer.buffers()))
    assert peer.training
    row = diagnostics.close()
    assert row["teachers"] == []
    expected = float((peer.eval()(x_adv).argmax(1) == given.y).float().mean())
    assert row["peer"]["adv"] == pytest.approx(expected)


def test_a_batch_that_is_not_attacked_is_not_counted() -> None:
    wanted = recipe("darht", method__p_adv=0)
    row, seen = counted(method(wanted), wanted, 2)
    assert seen == []
    assert row["teachers"][0]["clean"] is None


@pytest.mark.parametrize("name", ["rslad", "peeraid", "darht"])
def test_training_is_the_same_to_the_bit_and_so_is_the_identity(name: str, tmp_path: Path) -> None:
    plain, asked = (recipe(name, schedule__epochs=2, diagnostics=on) for on in (False, True))
    assert plain.identity(["t"]) == asked.identity(["t"])
    first, second = trained(tmp_path / "a", plain), trained(tmp_path / "b", asked)
    for a, b in zip(first.trainables.values(), second.trainables.values(), strict=True):
        assert all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
    assert all("diagnostics" in row for row in second.rows)
    assert not any("diagnostics" in row for row in first.rows)


def test_counts_survive_a_stop_inside_the_epoch(tmp_path: Path) -> None:
    wanted = recipe("rslad", schedule__epochs=1, diagnostics=True)
    whole = trained(tmp_path / "whole", wanted).rows
    asked = iter([False, True])
    trained(tmp_path / "parts", wanted, lambda: next(asked, False))
    assert trained(tmp_path / "parts", wanted).rows[0]["diagnostics"] == whole[0]["diagnostics"]
