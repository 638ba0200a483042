"""The contract of a module: what a recipe lays over a method, whichever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from ardbench.config import ModuleConfig

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from ardbench.data.batches import Batch
    from ardbench.methods.base import Method, Step

Config = TypeVar("Config", bound=ModuleConfig)
Need = Literal["examples", "teacher", "attack"]

LACKS: dict[Need, str] = {
    "examples": "weighs examples, and {method} has no loss per example",
    "teacher": "asks a trained teacher, and {method} has none",
    "attack": "follows x', and {method} attacks nothing",
}


class Module(Generic[Config]):
    """What is laid over a method: weights of examples, further terms, other targets. Subclasses state their equation.

    Modules act in the recipe's order on what the method and those before them made of the batch. Networks are asked through
    `self.method`: `answered` costs nothing where the method has asked the same already. The rules of a method hold: one
    function of the batch, no number read on the host, sums over the global batch (`batch.everybodys`), logs whose names
    stay the same within an epoch, and everything that a restart needs in `state`.

    Args:
        method: that it is laid over; being built, so that its own attributes are not there yet.
        section: of the recipe.
    """

    Config: ClassVar[type[ModuleConfig]] = ModuleConfig
    needs: ClassVar[tuple[Need, ...]] = ()
    """What the method must have: a loss per example, a trained teacher, an x'."""
    watches: ClassVar[bool] = False
    """Whether `observe` looks at the attack's iterates; such an attack is not replayed as a CUDA graph."""

    def __init__(self, method: Method[Any], section: dict[str, Any]) -> None:
        self.method = method
        self.config: Config = self.Config.model_validate(section)  # type: ignore[assignment]

    def __call__(self, step: Step, batch: Batch, epoch: int) -> Step:
        """Return what becomes of the step: see `Step.plus` and `Step.times`; `self.method.x_adv` is None without attack."""
        return step

    def observe(self, batch: Batch, number: int, iterate: Tensor, logits: Tensor) -> None:
        """See an iterate (b, C, H, W) before step `number` (from 0) of the attack, and the attacked student's logits (b, K)."""

    def targets(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what the method hears from a teacher in place of the teacher's logits (b, K), at x or at x'."""
        return logits

    def begin_epoch(self, epoch: int) -> None:
        """Do what the module does between epochs, as `Method.begin_epoch`."""

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""

    @classmethod
    def refusal(cls, method: type[Method[Any]]) -> str | None:
        """Return why the module cannot be laid over a method, the rest of a sentence about both, or None if it can."""
        has = {
            "examples": method.examples,
            "teacher": any(isinstance(role, str) for role in method.roles),
            "attack": method.attacks,
        }
        return next((LACKS[need] for need in cls.needs if not has[need]), None)
