"""DARHT: distilling from heterogeneous teachers."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, Share
from ardbench.errors import ArdbenchError
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ardbench.data.batches import Batch


class DARHTConfig(MethodConfig):
    """distill_from, label_until: shares of the run at which the teachers come in and the labels leave.

    distance: between a teacher's logits and its block, KL or the mean square on raw logits; weighting: of the teachers,
    exp(-CE_i), 1/M, or multiplicative weights; p_adv: probability that a batch is attacked; drop_block: zero one
    teacher's block in every forward, at test too.
    """

    distill_from: Share
    label_until: Share
    distance: Literal["kl", "mse"]
    weighting: Literal["confidence", "uniform", "mwu"]
    p_adv: Share
    drop_block: bool

    @model_validator(mode="after")
    def _is_taught_throughout(self) -> DARHTConfig:
        if self.label_until < self.distill_from:
            raise ValueError("label_until must not come before distill_from: nothing would be learnt in between")
        return self


class DARHT(Method[DARHTConfig]):
    """Distillation from heterogeneous robust teachers, after the first author's released code of December 2023.

    h(x) features in R^d, z = A h + a in R^{M K} with a block z_i per teacher, f = B z + b in R^K the class logits;
    x~ is x' or x by one coin per batch, x' = argmax CE(f(x'), y);  D_i = mean KL(T_i(x~) || z_i(x~));
    w_i = exp(-mean CE(T_i(x~), y)), not normalised.

    min  L_cls = CE(f(x~), y)  at first, L_cls + sum_i w_i D_i  from `distill_from`, sum_i w_i D_i  from `label_until`

    f is attacked and deployed, with A and B folded into one layer. The paper's text may differ. Released and not
    reproduced: teachers in train mode, three epochs at learning rate 0, batches with L_cls > 8 skipped. Ours: teachers in
    eval mode, and multiplicative weights that are updated each step (commented out in the release).
    """

    Config = DARHTConfig
    roles = ("robust", ...)
    inside = True

    def __init__(self, context: Context) -> None:
        from ardbench.draws import seeded
        from ardbench.models.feature_map import FeatureMap

        super().__init__(context)
        count = len(self.teachers)
        if self.config.drop_block and count < 2:
            raise ArdbenchError("method.drop_block = true zeroes one of several teachers: give two or more --teacher.")
        head = self.student.get_submodule("head")
        with seeded(context.recipe.seed, "init", "feature map"):
            self.head = FeatureMap(head.in_features, count, self.classes, self.config.drop_block)  # type: ignore[arg-type]
        self.student.head = self.head.to(head.weight.device)  # type: ignore[arg-type]
        self.shares = head.weight.new_full((count,), 1 / count)  # type: ignore[operator]

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the loss of the phase that `epoch` lies in."""
        c = self.config
        attacked = batch.draws.coin("attacked", c.p_adv)
        x = self.maximise(label_loss, batch, aux=(batch.y,)) if attacked else batch.x
        z = self.logits(x, self.blocks)  # (B, M K)
        terms: dict[str, Tensor] = {}
        if epoch < self.epoch_of(c.label_until):
            terms["label"] = cross_entropy(self.logits(z, self.head.classify), batch.y).mean()
        if epoch >= self.epoch_of(c.distill_from):
            terms["distill"], weights = self.distillation(z, x, batch)
            return Step(sum(terms.values(), z.new_zeros(())), terms | weights)
        return Step(terms["label"], terms)

    def blocks(self, x: Tensor) -> Tensor:
        """Return z (B, M K) of x."""
        z: Tensor = self.head.map(self.student.features(x))  # type: ignore[operator]
        return z

    def distillation(self, z: Tensor, x: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return sum_i w_i D_i and the weights by name.

        Args:
            z: (B, M K) of the student at x.
            x: (B, C, H, W), x or x'.
            batch: that x comes from; the weights are those of the global batch.
        """
        import torch

        answers = [self.ask(x, i) for i in range(len(self.teachers))]  # M times (B, K)
        distances = [self.distance(*pair) for pair in zip(z.chunk(len(answers), dim=1), answers, strict=True)]
        confidence = torch.stack(
            [-batch.mean(cross_entropy(answer, batch.y)) for answer in answers]
        ).exp()  # (M,) in (0, 1]
        weights = self.weigh(confidence)
        return (weights * torch.stack(distances)).sum(), {f"weight_{i}": w for i, w in enumerate(weights)}

    def distance(self, block: Tensor, teacher: Tensor) -> Tensor:
        """Return D_i, the mean over the batch, of a block z_i and a teacher's logits, (B, K) each."""
        return kl(block, teacher).mean() if self.config.distance == "kl" else (block - teacher).square().mean()

    def weigh(self, confidence: Tensor) -> Tensor:
        """Return the weights (M,) of the teachers from exp(-CE_i) (M,); multiplicative ones remember earlier batches."""
        if self.config.weighting == "mwu":
            self.shares = self.shares * confidence / (self.shares * confidence).sum()
        return confidence if self.config.weighting == "confidence" else self.shares

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return a copy of the student whose two linear layers are folded into a plain head; as it is with drop_block."""
        if self.config.drop_block:
            return student
        net = deepcopy(student)
        net.head = net.head.folded()  # type: ignore[operator, union-attr]
        return net

    def state(self) -> dict[str, Tensor]:
        """Return the multiplicative weights."""
        return {"shares": self.shares}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.shares = state["shares"].to(self.shares)
