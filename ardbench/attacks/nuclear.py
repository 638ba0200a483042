"""The nuclear norm of a batch's logits, whose gradient is found by products alone: nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ardbench import processes

ROUNDS = 24
"""Each multiplies what is left of a small singular value by 1.5: down to 1e-4 of the whole they arrive at 1."""


def nuclear_terms(rows: Tensor) -> Tensor:
    """Return what each example adds to the nuclear norm of the global batch's matrix; the sum over all of them is the norm.

    Args:
        rows: (b, K), this process's rows of the matrix (B, K).

    Returns:
        (b,), the gradient of whose sum is that of the norm, U V^T, where no singular value is below 1e-4 of the largest.
    """
    return (polar(rows.detach()) * rows).sum(dim=-1)


def polar(rows: Tensor) -> Tensor:
    """Return this process's rows (b, K) of U V^T, of rows (b, K) of the global batch's matrix U diag(s) V^T.

    A value of s near 0 is left near 0. Newton and Schulz's iteration for (M^T M)^(-1/2), a matrix (K, K), in float64: a
    decomposition would make the host wait.

    Source: N. J. Higham, "Functions of matrices", 2008, section 8.3.
    """
    wide = rows.double()
    square = processes.total(wide.mT @ wide)  # (K, K)
    size = square.trace().clamp_min(torch.finfo(torch.float64).tiny)
    one = torch.eye(len(square), dtype=square.dtype, device=square.device)
    left, root = square / size, one  # left tends to 1 on the range, root to its inverse square root
    for _ in range(ROUNDS):
        turn = (3 * one - left) / 2
        left, root = turn @ left @ turn, root @ turn
    return (wide @ root * size.rsqrt()).to(rows.dtype)
