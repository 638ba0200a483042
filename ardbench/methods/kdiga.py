"""Knowledge Distillation with Input Gradient Alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardbench.config import MethodConfig, NonNegative, Positive, Share
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


class KDIGAConfig(MethodConfig):
    """alpha: share of the divergence; temperature: t; scale: s; alignment: c."""

    alpha: Share
    temperature: Positive
    scale: Positive
    alignment: NonNegative


class KDIGA(Method[KDIGAConfig]):
    """Knowledge Distillation with Input Gradient Alignment (Shao et al., 2021): robustness without an attack.

    min  alpha s t^2 KL(T^t(x) || S^t(x)) + (1 - alpha) CE(S(x), y) + c/B |grad_x CE(S(x), y) - grad_x CE(T(x), y)|_2

    One norm over the global batch's images, B of them; the CE under it are means over them. The gradient of S is
    differentiated once more, so that S is asked in fp32 and as it is, whatever `precision` says.
    """

    Config = KDIGAConfig
    roles = ("robust",)
    attacks = False
    gradients = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the three weighted terms."""
        import torch

        c, rows, x = self.config, batch.draws.rows, batch.x.detach().requires_grad_(True)
        student = self.twice(x)  # (b, K)
        label = cross_entropy(student, batch.y)  # (b,)
        own = torch.autograd.grad(label.sum() / rows, x, create_graph=True)[0]  # (b, C, H, W)
        teacher, gradient = self.teacher_gradient(batch, lambda logits: cross_entropy(logits, batch.y) / rows)
        apart = batch.everybodys((own - gradient).flatten(1).norm(dim=1)).norm()
        terms = {"imitation": kl(student, teacher, c.temperature).mean(), "label": label.mean(), "alignment": apart}
        loss = c.alpha * c.scale * terms["imitation"] + (1 - c.alpha) * terms["label"] + c.alignment / rows * apart
        return Step(loss, terms)

    def twice(self, x: Tensor) -> Tensor:
        """Return the student's logits (b, K) by kernels whose gradients have gradients: no compiled and no fused one."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = self.student(x)
        return logits
