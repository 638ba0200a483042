"""`ardbench.attack`: a protocol of ours on a caller's own network and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ardbench.errors import ArdbenchError
from ardbench.subjects import USUAL, is_object
from ardbench.verbs.evaluating import ask, threat_of
from ardbench.verbs.measuring import Norm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ardbench.data.batches import Split
    from ardbench.evaluation.verdicts import Verdicts
    from ardbench.progress import Progress


@dataclass(frozen=True)
class Attacked:
    """What came of an attack.

    Args:
        x_adv: (n, C, H, W), float32, where x is: the image that took the point, or else x itself.
        robust: (n,) bool: whether each image is still classified right.
        predictions: (n,) classes under attack, int64.
        verdicts: all that an evaluation records.
    """

    x_adv: Tensor
    robust: Tensor
    predictions: Tensor
    verdicts: Verdicts


def attack(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    protocol: str = "pgd20",
    *,
    eps: float = 8 / 255,
    norm: Norm = "linf",
    batch: int = 500,
    seed: int = 0,
    surrogate: nn.Module | None = None,
    progress: Progress | None = None,
) -> Attacked:
    """Return x' and verdicts of images that are misclassified within a ball around them; nothing is kept on disk.

    Args:
        net: x (b, C, H, W) goes in, logits (b, K) come out; it is attacked in eval mode and is afterwards as before.
        x: (n, C, H, W) floating point in [0, 1], on the network's device.
        y: (n,) integer classes in [0, K).
        protocol: as `ardbench.evaluate` takes one; images that are misclassified as they are, are not attacked.
        eps: the radius in pixel units.
        norm: linf or l2.
        batch: images at a time; with `seed` it decides the noise.
        surrogate: the network on which the protocol `transfer` crafts its images.
        progress: as in `ardbench.train`.

    Raises:
        ArdbenchError: shapes, ranges or the protocol do not fit, or logits are not finite.
    """
    question = ask([protocol], eps=eps, norm=norm, batch=batch, seed=seed, surrogate=surrogate)
    threat = threat_of(USUAL, norm, eps)
    import torch

    from ardbench.evaluation.adversarial import read_images
    from ardbench.evaluation.measure import Surrogate, evaluate
    from ardbench.evaluation.verdicts import Paused, file_name
    from ardbench.listeners.screen import heard_by
    from ardbench.models import objects

    split = _given(net, x, y)
    source = (
        None if surrogate is None else Surrogate(surrogate, objects.class_of(surrogate), objects.identity(surrogate))
    )
    rules = question.rules[0]
    with TemporaryDirectory() as folder, heard_by(progress) as listener:
        try:
            found = evaluate(
                net, split, rules, threat, batch=batch, seed=seed, store=Path(folder), surrogate=source, progress=listener,
                keep_adversarial=True,
            )  # fmt: skip
        except Paused:
            raise KeyboardInterrupt from None
        kept = read_images((Path(folder) / file_name(rules.name)).with_suffix(".adversarial.safetensors"))
    said = torch.tensor(found.predictions, device=x.device)
    return Attacked(kept["x_adv"].to(x.device), said == split.labels, said, found)


def _given(net: nn.Module, x: Tensor, y: Tensor) -> Split:
    """Return a caller's images as a split, after everything about them that can be refused."""
    import torch

    from ardbench.data import DatasetInfo
    from ardbench.data.batches import Split
    from ardbench.models import objects

    if not is_object(net):
        raise ArdbenchError(f"{net!r} is no network: give a torch.nn.Module; a function can be its forward.")
    for name, given in (("x", x), ("y", y)):
        if not isinstance(given, torch.Tensor):
            raise ArdbenchError(f"{name} is a {type(given).__name__}: give a tensor, such as torch.as_tensor({name}).")
    if not x.is_floating_point() or x.dim() != 4 or len(x) == 0:
        raise ArdbenchError(
            f"x is {x.dtype} {tuple(x.shape)}: give images (n, C, H, W) in floating point, one or more."
        )
    if not x.isfinite().all() or x.min() < 0 or x.max() > 1:
        low, high = x.min().item(), x.max().item()
        raise ArdbenchError(
            f"x lies in [{low:.4g}, {high:.4g}]: give pixels in [0, 1], and let the network normalise them."
        )
    if y.is_floating_point() or y.shape != x.shape[:1]:
        raise ArdbenchError(f"y is {y.dtype} {tuple(y.shape)}: give {len(x)} integer classes, one an image.")
    if not x.device == y.device == objects.device_of(net):
        raise ArdbenchError(
            f"The network lies on {objects.device_of(net)}, x on {x.device}, y on {y.device}: give one device."
        )
    objects.check_answers(net, x[:2].float(), int(y.max()) + 1)
    if y.min() < 0:
        raise ArdbenchError(f"y holds the class {int(y.min())}: classes count from 0.")

    class Given(Split):
        """Images that are pixels already."""

        def pixels(self, rows: Tensor | slice) -> Tensor:
            return self.images[rows]

    size, classes = x.shape[-1], int(y.max()) + 1
    info = DatasetInfo("given", "given", x.shape[1], size, classes, (), (0.0,), (1.0,), 0, len(x), 0, False)
    index = torch.arange(len(x), device=x.device)
    return Given(x.detach().float().contiguous(), y.long(), index, info)
