"""Verdicts held against the data set and the network: labels, kept adversarial images, and measuring again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ardbench.config import Threat
from ardbench.data.batches import Split
from ardbench.engine import exported, networks
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.adversarial import Images, read_images
from ardbench.evaluation.confirm import check_allowed, measuring, predict
from ardbench.evaluation.measure import evaluate, examples_digest, subset_of
from ardbench.evaluation.statistics import LIMITS, mcnemar
from ardbench.evaluation.verdicts import Verdicts
from ardbench.evidence import measured
from ardbench.exports import WEIGHTS
from ardbench.models.sealed import check_seal
from ardbench.runs import Run

AGAIN = ("clean", "pgd20")
"""What is measured again: cheap, and there for every run that was measured in full."""
BATCH = 500
ROUNDING = trust.LIMITS.tolerances["verdicts"]
"""The share of images that may fall on the other side of a decision by rounding, on another device or in another batch."""


@dataclass(frozen=True)
class Replay:
    """Checks of one run against its data set.

    Args:
        run: finished, and checked by its files.
        split: the test set, on the device that computes.
    """

    run: Run
    split: Split

    def data(self) -> None:
        """Check that every verdict is of the images and labels of the data set.

        Raises:
            ArdbenchError: one is not.
        """
        for path, verdicts in measured(self.run):
            chosen = subset_of(self.split, verdicts.n)
            same = verdicts.index == chosen.index.tolist() and verdicts.labels == chosen.labels.tolist()
            if not same or verdicts.key.get("examples") != examples_digest(chosen):
                raise ArdbenchError(
                    f"{path} has other labels or images than {self.split.info.name}: restore it, or delete it to measure "
                    "again."
                )

    def images(self) -> int:
        """Classify kept adversarial images again in fp32; return how many files of them there are.

        Raises:
            ArdbenchError: an image left ball or box, or is not classified as its verdict says.
        """
        files = 0
        for path, verdicts in measured(self.run):
            kept = Images(path).path
            if kept.is_file():
                self._replay(kept, verdicts, self._network(path.parent.name))
                files += 1
        return files

    def _replay(self, path: Path, verdicts: Verdicts, net: nn.Module) -> None:
        chosen = subset_of(self.split, verdicts.n)
        x, x_adv = chosen.pixels(slice(None)), read_images(path)["x_adv"].to(chosen.labels.device)
        try:
            check_allowed(x, x_adv, Threat.model_validate(verdicts.threat), path.name)
        except ArdbenchError as error:
            raise ArdbenchError(f"{path} has changed: {str(error).partition(';')[0].rstrip('.')}.") from None
        robust = torch.tensor(verdicts.robust, device=x.device)
        touched = (x_adv != x).flatten(1).any(dim=1) & robust
        if touched.any():
            raise ArdbenchError(
                f"{path} has changed: image {verdicts.index[int(touched.nonzero()[0])]} withstood every attack, and is not "
                "the clean one there."
            )
        with measuring(net, x.device):
            said = torch.cat([predict(net, part) for part in torch.split(x_adv, BATCH)])
        otherwise = int(((said == chosen.labels) != robust).sum())
        if otherwise > verdicts.n * ROUNDING:
            raise ArdbenchError(
                f"{path} does not give its verdicts: {otherwise} of {verdicts.n} images are classified otherwise in fp32."
            )

    def again(self, n: int) -> list[str]:
        """Measure `AGAIN` on n images once more, and return for each checkpoint and protocol how the verdicts agree.

        Clean predictions must be the same; an attack draws other noise on other images, so it must be as strong, by
        McNemar's test.

        Raises:
            ArdbenchError: they do not agree.
        """
        said = []
        chosen = subset_of(self.split, n)
        for checkpoint in self.run.checkpoints:
            for protocol in AGAIN:
                then = self._stored(checkpoint, protocol, chosen.index.tolist())
                if then is not None:
                    now = evaluate(
                        self._network(checkpoint), self.split, protocol, self.run.recipe.evaluation, batch=BATCH, n=n
                    )
                    said.append(self._agree(checkpoint, protocol, then, now))
        return said

    def _stored(self, checkpoint: str, protocol: str, index: list[int]) -> list[int] | None:
        """Return the stored predictions on these images, from the verdicts that hold them all."""
        for path, verdicts in measured(self.run):
            at = dict(zip(verdicts.index, verdicts.predictions, strict=True))
            of_these = path.parent == self.run.path / "eval" / checkpoint and at.keys() >= set(index)
            if of_these and verdicts.protocol == protocol:
                return [at[position] for position in index]
        return None

    def _agree(self, checkpoint: str, protocol: str, then: list[int], now: Verdicts) -> str:
        before = [label == said for label, said in zip(now.labels, then, strict=True)]
        lost = sum(was and not held for was, held in zip(before, now.robust, strict=True))
        won = sum(held and not was for was, held in zip(before, now.robust, strict=True))
        moved = sum(a != b for a, b in zip(then, now.predictions, strict=True))
        told = f"{protocol} of {checkpoint}: {sum(now.robust)} of {now.n} right, {sum(before)} as stored"
        if (moved > now.n * ROUNDING) if protocol == "clean" else (mcnemar(lost, won) < LIMITS.significant):
            raise ArdbenchError(
                f"{self.run.path}, {told}, {moved} predictions differ: the stored verdicts are not its own."
            )
        return told

    def _network(self, checkpoint: str) -> nn.Module:
        return networks.of_run(self.run, checkpoint, self.split.labels.device)


def check_export(folder: Path) -> None:
    """Check that an exported folder's weights are those that its config.json describes, whole, and load.

    Raises:
        ArdbenchError: they are not.
    """
    exported.load(folder)
    check_seal(folder / WEIGHTS)
