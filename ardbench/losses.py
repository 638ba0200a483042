"""Losses as pure functions: logits (B, K) in, one value per example (B,) out; the caller averages.

Tensors are used through their methods alone, so that a method file is validated without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kl(logits: Tensor, target_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(target || student) = T^2 sum_k p_k (log p_k - log q_k), p and q softmaxes at temperature T.

    Args:
        logits: (B, K) of the student, q.
        target_logits: (B, K) of the target, p. Gradients flow into it unless the caller detaches it.
        temperature: T > 0, in logit units.

    Returns:
        (B,) in nats.

    Source: Hinton, Vinyals and Dean, 2015 (the T^2); direction as in `docs/methods.md`.
    """
    log_p = (target_logits / temperature).log_softmax(dim=-1)
    log_q = (logits / temperature).log_softmax(dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)_y.

    Args:
        logits: (B, K).
        labels: (B,) int64 in [0, K).

    Returns:
        (B,) in nats.
    """
    return -logits.log_softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max_{k != y} z_k - z_y, positive exactly where the example is misclassified.

    Args:
        logits: (B, K), K >= 2.
        labels: (B,) int64.

    Returns:
        (B,) in logit units.

    Source: Carlini and Wagner, 2017, f_6 without its floor; the "CW" of PGD-driven tables.
    """
    true = logits.gather(1, labels[:, None])  # (B, 1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=-1) - true.squeeze(1)
