"""Multi-Teacher Adversarial Robustness Distillation, and its balanced form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, NonNegative, Positive, Share
from ardbench.losses import entropy, evened, kl
from ardbench.methods.base import Context, Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ardbench.data.batches import Batch


class MTARDConfig(MethodConfig):
    """scale: of the loss; rate: eta, which falls to a tenth at each of the milestones; power: b.

    offset: in the logarithms of targets, 1e-5 as released; clean_target: whose answer S(x) hears, that of T_clean at x, or
    of T_robust at x' as in the released Fair-MTARD.
    """

    LATER = frozenset({"offset", "clean_target"})
    scale: Positive
    rate: Share
    milestones: tuple[Share, ...]
    power: Positive
    offset: NonNegative = 0.0
    clean_target: Literal["clean", "robust"] = "clean"


class MTARD(Method[MTARDConfig]):
    """Multi-Teacher Adversarial Robustness Distillation (Zhao et al., ECCV 2022).

    min  s [(1 - w) L_a + w L_n],    L_a = KL(T_robust(x') || S(x')),  L_n = KL(T_clean(x) || S(x)),    x' = argmax CE(S(x'), y)

    w <- w - eta (w - r_n / (r_a + r_n)) before each step, from 1/2;  r = (L / L(0))^b, L(0) that of the run's first batch.
    The teacher whose loss has fallen less is heard more. s = 0.1 is the released mean over batch and ten classes.
    """

    Config: ClassVar[type[MTARDConfig]] = MTARDConfig
    roles = ("robust", "clean")
    examples = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        like = next(self.student.parameters()).detach()
        self.weight = like.new_full((), 0.5)  # w
        self.first = like.new_zeros(2)  # L_a(0) and L_n(0), 0 before the first batch

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two teachers' mean divergences."""
        c, x_adv = self.config, self.maximise(label_loss, batch, aux=(batch.y,))
        robust, natural = self.targets(self.ask(x_adv, 0), self.teacher_logits(batch, 1), batch, epoch)  # (B, K)
        adversarial = kl(self.logits(x_adv), robust, offset=c.offset)  # (B,)
        clean = kl(self.logits(batch.x), natural if c.clean_target == "clean" else robust, offset=c.offset)  # (B,)
        self.balance(batch.mean(adversarial.detach()), batch.mean(clean.detach()), epoch)
        loss = c.scale * ((1 - self.weight) * adversarial + self.weight * clean)
        logs = {"kl_adv": adversarial, "kl_clean": clean, "weight_clean": self.weight.expand(len(loss))}
        return Step.over(loss, logs)

    def targets(self, robust: Tensor, clean: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K) that the student hears from each teacher."""
        return robust, clean

    def balance(self, adversarial: Tensor, clean: Tensor, epoch: int) -> None:
        """Move w towards the share that L_n has of what is left of both, by this epoch's eta."""
        c = self.config
        now = self.first.new_zeros(2)
        now[0], now[1] = adversarial, clean
        self.first = self.first.where(self.first > 0, now)
        left = (now / self.first) ** c.power  # r_a, r_n
        self.weight = self.weight - c.rate * self.lowered(epoch) * (self.weight - left[1] / left.sum())

    def lowered(self, epoch: int) -> float:
        """Return by how much eta is lower in an epoch than at the start."""
        return float(0.1 ** sum(epoch >= self.epoch_of(share) for share in self.config.milestones))

    def state(self) -> dict[str, Tensor]:
        """Return w and the losses of the first batch."""
        return {"weight": self.weight, "first": self.first}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.weight, self.first = (state[name].to(self.first) for name in ("weight", "first"))


class BMTARDConfig(MTARDConfig):
    """temperature_rate: k, which falls as eta does; temperatures stay between 1 and highest."""

    temperature_rate: Share
    highest: Positive


class BMTARD(MTARD):
    """Balanced MTARD (Zhao et al., TPAMI 2024): MTARD whose teachers are softened until they are equally sure.

    T_robust / u_a and T_clean / u_n in the place of T_robust and T_clean, S at 1, no u^2.  H: mean entropy of such targets

    u_a <- u_a - k sign(H_a - H_n),  u_n <- u_n + k sign(H_a - H_n) after each step, from 1, in [1, 10].
    """

    Config = BMTARDConfig
    config: BMTARDConfig

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.temperatures = self.first.new_ones(2)  # u_a, u_n

    def targets(self, robust: Tensor, clean: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return both teachers' logits at their temperatures, and move these for the next step."""
        c, u = self.config, self.temperatures
        robust, clean = robust / u[0], clean / u[1]
        unsure = batch.mean(entropy(robust, offset=c.offset) - entropy(clean, offset=c.offset))  # H_a - H_n
        self.temperatures = evened(u, unsure, c.temperature_rate * self.lowered(epoch), c.highest)
        return robust, clean

    def state(self) -> dict[str, Tensor]:
        """Return MTARD's, and the temperatures."""
        return super().state() | {"temperatures": self.temperatures}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        super().load_state(state)
        self.temperatures = state["temperatures"].to(self.first)
