"""A network, a data set, a method and its recipe in one file: `ardbench --plugin examples/mine.py COMMAND ...`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, Share
from ardbench.data import Dataset, DatasetInfo
from ardbench.data.batches import Batch
from ardbench.data.raw import Raw
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step
from ardbench.models.network import Network


class MyNet(Network):
    """Two convolutions and a mean over the image. `features` ends before the linear layer, which is `head`."""

    def __init__(self, info: DatasetInfo, normalise: bool, width: int = 16) -> None:
        super().__init__(info, normalise)
        self.body = nn.Sequential(
            nn.Conv2d(info.channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, info.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (b, 32) of pixels x (b, C, H, W) in [0, 1]."""
        out: Tensor = self.body(self.normalise(x))
        return out.mean(dim=(2, 3))


def read_parity(info: DatasetInfo, root: Path) -> Raw:
    """Return scikit-learn's digits with the classes even and odd; your own would be read below `root`, or from anywhere."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (torch.from_numpy(bunch.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).to(torch.int64) % 2
    cut = info.train_images
    return Raw(images[:cut], labels[:cut], images[cut:], labels[cut:], info.classes)


PARITY = DatasetInfo(
    name="my-parity",
    title="scikit-learn's digits, even or odd",
    channels=1,
    size=8,
    num_classes=2,
    classes=("even", "odd"),
    mean=(0.3053,),
    std=(0.3760,),
    train_images=1400,
    test_images=397,
    pad=1,
    flip=False,
)


class MyLossConfig(MethodConfig):
    """alpha: share of the adversarial term."""

    alpha: Share


class MyLoss(Method[MyLossConfig]):
    """The teacher's word at x', the label's at x: an example, of no paper.

    min  alpha KL(T(x) || S(x')) + (1 - alpha) CE(S(x), y),    x' = argmax CE(S(x'), y)
    """

    Config = MyLossConfig
    roles = ("robust",)

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two means."""
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        adversarial = kl(self.logits(x_adv), self.teacher_logits(batch)).mean()
        clean = cross_entropy(self.logits(batch.x), batch.y).mean()
        alpha = self.config.alpha
        return Step(alpha * adversarial + (1 - alpha) * clean, {"kl_adv": adversarial, "ce_clean": clean})


METHODS = {"my-loss": MyLoss}
MODELS = {"my-net": MyNet}
DATASETS = {"my-parity": Dataset(PARITY, read_parity)}
RECIPES = {
    "my-loss-my-parity": {
        "extends": "rslad-digits",
        "title": "My loss on my images",
        "student": "my-net",
        "data": {"name": "my-parity"},
        "method": {"name": "my-loss", "alpha": "5/6"},
    }
}
