"""Closed forms of the methods of 2022 to 2026; their losses stand against `references` in test_method_equations."""

from __future__ import annotations

import pytest
import torch
from test_method_equations import Search, built_for
from torch import Tensor

BEGUN = 6  # 60/200 of 20 epochs


@pytest.mark.parametrize("epoch", [BEGUN - 1, BEGUN])
def test_adaiad_without_temperature_and_introspection_is_adaad(epoch: int) -> None:
    """With beta = 0 every A_i is 1, also from `begin` on."""
    built, given, _ = built_for("adaiad", alpha=1, temperature=1, beta=0)
    plain, _, _ = built_for("adaad", alpha=1, scale=1)
    expected = plain.step(given, epoch).loss.item()
    assert built.step(given, epoch).loss.item() == pytest.approx(expected, rel=1e-12)


def test_adaiad_is_not_introspective_where_the_teacher_is_sure() -> None:
    built, given, _ = built_for("adaiad")
    Search(built, given.x)
    sure = 1e4 * torch.nn.functional.one_hot(given.y, 10).double()

    def teacher(x: Tensor) -> Tensor:
        return sure

    assert built.step(given, BEGUN).logs["introspection"].item() > 1e-4  # 7e-4: it would be seen
    built.teachers = (teacher,)
    logs = built.step(given, BEGUN).logs
    assert (logs["introspection"].item(), logs["trust"].item()) == (0, 1)


def test_hat_without_helpers_is_trades_and_a_helper_of_no_reach_is_x_prime() -> None:
    """Its helpers lie on the line through x and x', outside of ball and box."""
    built, given, _ = built_for("hat", gamma=0)
    plain, _, _ = built_for("trades", beta=2.5)
    assert built.step(given, 0).loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12)
    built, given, _ = built_for("hat")
    seen = list[Tensor]()
    x_adv = Search(built, given.x).x_adv
    built.student.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    built.step(given, 0)
    assert torch.equal(seen[0], given.x) and torch.equal(seen[1], x_adv)
    assert torch.allclose(seen[2], 2 * x_adv - given.x, rtol=0, atol=1e-12)
    assert seen[2].min() < 0 and seen[2].max() > 1
