"""Losses against references written out, by relations, and by gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ardbench.losses import cross_entropy, kl, margin


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def logits(seed: int, rows: int = 6, classes: int = 5) -> Tensor:
    return 4 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 30.0])
def test_kl_is_the_sum_written_out(temperature: float) -> None:
    student, target = logits(0), logits(1)
    expected = []
    for s, t in zip(student.tolist(), target.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        expected.append(temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    assert torch.allclose(kl(student, target, temperature), torch.tensor(expected, dtype=torch.float64), rtol=1e-10)


def test_cross_entropy_and_margin_are_written_out() -> None:
    z, labels = logits(2), torch.tensor([0, 1, 2, 3, 4, 0])
    entropy = [-math.log(softmax(row)[y]) for row, y in zip(z.tolist(), labels.tolist(), strict=True)]
    margins = [max(v for k, v in enumerate(row) if k != y) - row[y] for row, y in zip(z.tolist(), labels, strict=True)]
    assert torch.allclose(cross_entropy(z, labels), torch.tensor(entropy, dtype=torch.float64), rtol=1e-10)
    assert torch.equal(margin(z, labels), torch.tensor(margins, dtype=torch.float64))


@given(st.integers(0, 10**6))
def test_relations(seed: int) -> None:
    student, target = logits(seed), logits(seed + 1)
    labels = target.argmin(dim=1)
    assert (kl(student, target) > 0).all()
    assert torch.allclose(kl(student, student), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(kl(student + 7, target - 3), kl(student, target))  # a softmax knows no shift
    assert torch.equal(margin(student, labels) > 0, student.argmax(dim=1) != labels)
    one_hot = torch.full_like(student, -1e4).scatter(1, labels[:, None], 1e4)
    assert torch.allclose(kl(student, one_hot), cross_entropy(student, labels))


def test_gradients_flow_into_both_sides() -> None:
    student, target = logits(3).requires_grad_(), logits(4).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda s, t: kl(s, t, 3.0), (student, target))
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, labels), (student,))
    assert torch.autograd.gradcheck(lambda s: margin(s, labels), (student,))


def test_finite_at_large_logits() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 0])
    for value in (kl(z, z.detach().flip(1)), cross_entropy(z, labels), margin(z, labels)):
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
