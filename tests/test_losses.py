"""Losses against references written out, by relations, and by gradients."""

from __future__ import annotations

import math

import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ardbench.losses import boosted_cross_entropy, cross_entropy, kl, margin, nt_xent


def logits(seed: int, rows: int = 6, classes: int = 5) -> Tensor:
    return 4 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 30.0])
def test_kl_is_the_sum_written_out(temperature: float) -> None:
    student, target = logits(0), logits(1)
    expected = [references.kl(t, s, temperature) for s, t in zip(student.tolist(), target.tolist(), strict=True)]
    assert kl(student, target, temperature).tolist() == pytest.approx(expected, rel=1e-10)


def test_losses_of_labels_are_written_out() -> None:
    z, labels = logits(2), torch.tensor([0, 1, 2, 3, 4, 0])
    pairs = list(zip(z.tolist(), labels.tolist(), strict=True))
    assert cross_entropy(z, labels).tolist() == pytest.approx([references.ce(*pair) for pair in pairs], rel=1e-10)
    assert margin(z, labels).tolist() == [references.margin(*pair) for pair in pairs]
    for released in (False, True):
        boosted = [references.boosted_ce(*pair, released) for pair in pairs]
        assert boosted_cross_entropy(z, labels, released).tolist() == pytest.approx(boosted, rel=1e-9)


def test_nt_xent_is_written_out_and_has_its_closed_forms() -> None:
    u, v = logits(0), logits(1)
    anchors = references.nt_xent(u.tolist(), v.tolist(), 0.5)
    expected = [(anchors[i] + anchors[i + 6]) / 2 for i in range(6)]
    assert nt_xent(u, v, 0.5).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(nt_xent(3 * u, 0.2 * v, 0.5), nt_xent(u, v, 0.5), rtol=1e-12)  # of directions alone
    equal, apart = torch.ones(128, 10), torch.eye(128)
    assert nt_xent(equal, 2 * equal, 0.5).tolist() == pytest.approx([math.log(255)] * 128, rel=1e-6)  # 5.5413
    assert nt_xent(apart, apart, 0.5).tolist() == pytest.approx(
        [math.log(1 + 254 * math.exp(-2))] * 128, rel=1e-6
    )  # 3.5660


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
    assert torch.autograd.gradcheck(lambda s: boosted_cross_entropy(s, labels), (student,))
    assert torch.autograd.gradcheck(lambda s, t: nt_xent(s, t, 0.5), (student, target))


def test_finite_at_large_logits() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 0])
    boosted = [boosted_cross_entropy(z, labels, released) for released in (False, True)]
    for value in (
        kl(z, z.detach().flip(1)),
        cross_entropy(z, labels),
        margin(z, labels),
        *boosted,
        nt_xent(z, z.flip(1), 0.5),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@given(st.integers(0, 10**6), st.sampled_from([0.5, 5.0, 30.0]))
def test_temperature_divides_logits_and_multiplies_by_its_square(seed: int, temperature: float) -> None:
    student, target = logits(seed), logits(seed + 1)
    expected = temperature**2 * kl(student / temperature, target / temperature)
    assert torch.allclose(kl(student, target, temperature), expected, rtol=1e-12)


def test_at_high_temperature_kl_is_half_the_variance_of_the_difference() -> None:
    """Hinton, Vinyals and Dean, 2015: T^2 KL -> sum_k (d_k - mean d)^2 / (2 K), d being the difference of the logits."""
    student, target = logits(0), logits(1)
    assert torch.allclose(kl(student, target, 1e5), (target - student).var(dim=1, correction=0) / 2, rtol=1e-3)


@given(st.integers(0, 10**6))
def test_kl_bounds_the_distance_of_the_distributions(seed: int) -> None:
    """Pinsker: KL >= |p - q|^2 / 2 in the sum of absolute differences, so that it is zero for equal ones alone."""
    student, target = logits(seed) / 40, logits(seed + 1) / 40  # near each other, where the bound is tight
    distance = (student.softmax(1) - target.softmax(1)).abs().sum(1)
    assert (kl(student, target) >= distance**2 / 2 - 1e-12).all()


def test_gradients_in_closed_form() -> None:
    """d CE / dz = softmax(z) - onehot, and d kl / dz = T (q - p)."""
    z, target, labels = logits(0).requires_grad_(), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    (of_entropy,) = torch.autograd.grad(cross_entropy(z, labels).sum(), z)
    assert torch.allclose(of_entropy, z.softmax(1) - torch.nn.functional.one_hot(labels, 5), rtol=1e-12)
    (of_kl,) = torch.autograd.grad(kl(z, target, 5.0).sum(), z)
    assert torch.allclose(of_kl, 5.0 * ((z / 5).softmax(1) - (target / 5).softmax(1)), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_a_certain_and_wrong_network_costs_the_difference_of_its_logits(temperature: float) -> None:
    wrong, target = torch.tensor([[1e4, 0.0, -1e4], [1e4, 1e4, 1e4]]), torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])
    assert kl(wrong, target, temperature).tolist() == pytest.approx([temperature * 1e4, 0.0], rel=1e-6, abs=1e-3)
    assert cross_entropy(wrong, torch.tensor([1, 2])).tolist() == pytest.approx([1e4, math.log(3)], rel=1e-6)
    assert margin(wrong, torch.tensor([1, 2])).tolist() == [1e4, 0.0]


def test_each_example_stands_for_itself() -> None:
    """The gradient of example i with respect to the logits of example j is zero."""
    labels, target, own = torch.tensor([0, 1, 2, 3, 4, 0]), logits(1), torch.eye(6, dtype=torch.bool)
    for loss in (lambda z: kl(z, target), lambda z: cross_entropy(z, labels), lambda z: margin(z, labels)):
        jacobian = torch.autograd.functional.jacobian(loss, logits(0))  # (B, B, K)
        assert (jacobian[~own] == 0).all()
        assert (jacobian[own].abs().sum(1) > 0).all()
