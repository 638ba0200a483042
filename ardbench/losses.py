"""Losses as pure functions: logits (B, K) in, one value per example (B,) out; the caller averages.

Tensors are used through their methods alone, so that a method file is validated without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kl(logits: Tensor, target_logits: Tensor, temperature: float = 1.0, offset: float = 0.0) -> Tensor:
    """Return T^2 KL(target || student) = T^2 sum_k p_k (log p_k - log q_k), p and q softmaxes at temperature T.

    Args:
        logits: (B, K) of the student, q.
        target_logits: (B, K) of the target, p. Gradients flow into it unless the caller detaches it.
        temperature: T > 0, in logit units.
        offset: log(p_k + offset) stands in the place of log p_k.

    Returns:
        (B,) in nats.

    Source: Hinton, Vinyals and Dean, 2015 (the T^2); direction as in `docs/methods.md`.
    """
    log_p = (target_logits / temperature).log_softmax(dim=-1)
    log_q = (logits / temperature).log_softmax(dim=-1)
    own = (log_p.exp() + offset).log() if offset else log_p
    return temperature**2 * (log_p.exp() * (own - log_q)).sum(dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)_y.

    Args:
        logits: (B, K).
        labels: (B,) int64 in [0, K).

    Returns:
        (B,) in nats.
    """
    return -logits.log_softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -sum_k q_k log softmax(logits)_k.

    Args:
        logits: (B, K).
        labels: (B, K) probabilities q; gradients flow into them unless the caller detaches them.

    Returns:
        (B,) in nats.
    """
    return -(labels * logits.log_softmax(dim=-1)).sum(dim=-1)


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


def boosted_cross_entropy(logits: Tensor, labels: Tensor, released: bool = False) -> Tensor:
    """Return CE(z, y) - log(1 - max_{k != y} p_k), the boosted cross-entropy of MART.

    Args:
        logits: (B, K), K >= 2.
        labels: (B,) int64.
        released: use -log(1.0001 - max p + 1e-12) as the released code does; it bounds the term by -log(0.0001).

    Returns:
        (B,) in nats.

    Source: Wang et al., ICLR 2020, Equation 7; the logarithm as a difference of logsumexps, exact where p nears 1.
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    strongest = others.argmax(dim=-1, keepdim=True)  # (B, 1), the wrong class that the network likes best
    if released:
        rest = (1.0001 - logits.softmax(dim=-1).gather(1, strongest) + 1e-12).log().squeeze(1)
    else:
        rest = logits.scatter(1, strongest, float("-inf")).logsumexp(dim=-1) - logits.logsumexp(dim=-1)
    return cross_entropy(logits, labels) - rest


def nt_xent(u: Tensor, v: Tensor, tau: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy between two views of a batch, the mean of its two anchors.

    All 2B rows are L2-normalised; the positive of u_i is v_i and the other way round, the denominator holds the 2B - 1
    others.

    Args:
        u: (B, D).
        v: (B, D).
        tau: temperature > 0 of the cosines.

    Returns:
        (B,) in nats; at most ln(2B - 1) + 2 / tau.

    Source: Chen et al. (SimCLR), ICML 2020, Equation 1.
    """
    import torch

    rows = torch.nn.functional.normalize(torch.cat([u, v]), dim=-1)  # (2B, D)
    cosines = rows @ rows.T / tau  # (2B, 2B)
    itself = torch.eye(len(rows), dtype=torch.bool, device=u.device)
    log_p = cosines.masked_fill(itself, float("-inf")).log_softmax(dim=-1)
    positives = log_p.roll(len(u), dims=1).diagonal()  # (2B,): of anchor i in column i + B, in a circle of 2B
    return -positives.reshape(2, -1).mean(dim=0)


def trust(teacher_adv: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return A_i = T_y(x'_i)^beta (B,), a constant of the loss.

    Args:
        teacher_adv: (B, K) logits of the teacher at x'.
        labels: (B,).
        beta: exponent; 0 trusts the teacher wholly.

    Source: Zhu et al., ICLR 2022, Equation 5 as transcribed in RSLAD's Table 1; exponent after the released code.
    """
    return (-beta * cross_entropy(teacher_adv, labels)).exp().detach()


def entropy(logits: Tensor, order: float = 1.0, offset: float = 0.0) -> Tensor:
    """Return the entropy (B,) of softmax(logits), (B, K), in nats: Shannon's, or Renyi's log(sum_k p_k^order) / (1 - order).

    Args:
        offset: in Shannon's, log(p_k + offset) stands in the place of log p_k.
    """
    log_p = logits.log_softmax(dim=-1)
    if order == 1:
        return -(log_p.exp() * ((log_p.exp() + offset).log() if offset else log_p)).sum(dim=-1)
    return (order * log_p).logsumexp(dim=-1) / (1 - order)


def evened(temperatures: Tensor, unsure: Tensor, rate: float, highest: float) -> Tensor:
    """Return the temperatures (2,) of two teachers after a step of `rate` that makes them more equally sure; in [1, highest].

    Args:
        unsure: scalar, by how much the mean entropy of the first one's targets is above that of the second's.

    Source: Zhao et al. (B-MTARD), TPAMI 2024, released code.
    """
    import torch

    move = rate * unsure.sign()
    return torch.stack((temperatures[0] - move, temperatures[1] + move)).clamp(1, highest)
