"""Which network lies in a file, and by what its inputs are normalised: whatever makes it know the images that it learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ardbench.data import DATASETS, DatasetInfo
from ardbench.errors import ArdbenchError
from ardbench.evaluation.running_statistics import statistics_gap
from ardbench.evaluation.statistics import wilson
from ardbench.evaluation.trust import LIMITS
from ardbench.models import build
from ardbench.models.files import fitting, load_into, read_state
from ardbench.models.network import Network, Normalise
from ardbench.models.normalisation import NAMED, Normalisation, named, normalisation
from ardbench.progress import Progress

if TYPE_CHECKING:
    from ardbench.data.batches import Split

NONE, OWN = "none", "the file's"
BYTES = ("0", "1/255")
"""What is typed for a network whose inputs are pixels up to 255."""


@dataclass(frozen=True)
class Candidate:
    """An architecture and a normalisation that a file may be of.

    Args:
        model: the architecture.
        label: of the normalisation, for people.
        typed: what is typed as --mean and --std; empty where nothing is.
        correct, n: clean test images that it classifies correctly, of so many.
        chance: the accuracy of guessing, in [0, 1].
        gap: how far inputs of BatchNorms lie from what these remember, the largest over layers; None without BatchNorm.
    """

    model: str
    label: str
    typed: tuple[str, ...]
    correct: int
    n: int
    chance: float
    gap: float | None = None

    @property
    def clean(self) -> float:
        """The clean accuracy, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the clean accuracy."""
        return wilson(self.correct, self.n)

    @property
    def fits(self) -> bool:
        """Whether it knows more than chance, and its BatchNorms see what they remember."""
        return self.interval[0] > self.chance and (self.gap is None or self.gap < LIMITS.statistics.note)

    def worse(self, other: Candidate) -> bool:
        """Return whether it is less often right than another one, their intervals lying apart."""
        return self.interval[1] < other.interval[0]


def identify(path: Path, split: Split, part: str = "", progress: Progress | None = None) -> list[Candidate]:
    """Return every architecture that a file's weights fit with every usual normalisation, the likeliest first.

    Those come first that know more than chance, and of them the one whose BatchNorms' inputs lie nearest to what they
    remember; without BatchNorm clean accuracy alone decides.

    Args:
        path: the file.
        split: test images of the data set that its network was trained on.
        part: of a file that holds several networks.

    Raises:
        ArdbenchError: the file is refused, or no architecture has its names and shapes.
    """
    listener, states, images = progress or Progress(), read_state(path), split.pixels(slice(None))
    models = fitting(states, split.info, part)
    if not models:
        names = sorted({key for state in states.values() for key in state})
        raise ArdbenchError(
            f"{path} has the names and shapes of no architecture of ardbench on {split.info.name} ({len(names)} weights: "
            f"{', '.join(name[:60] for name in names[:3])}, ...): see `ardbench list models`."
        )
    found = []
    for model in models:
        net = build(model, split.info)
        load_into(net, states, path, part)
        net.to(images.device).eval()
        ways = list(_ways(net))
        listener.task(model, len(ways), "normalisations")
        for done, (label, typed, first) in enumerate(ways, 1):
            net.normalise = first.to(images.device)
            found.append(_looked(net, images, split.labels, Candidate(model, label, typed, 0, len(split), 0)))
            listener.update(done)
    return sorted(found, key=_likelihood)


def reversed_channels(path: Path, split: Split, best: Candidate, part: str = "") -> Candidate:
    """Return a candidate again, its network fed with blue, green and red in place of red, green and blue."""
    net = build(best.model, split.info)
    load_into(net, read_state(path), path, part)
    images = split.pixels(slice(None))
    net.normalise = next(first for label, _, first in _ways(net) if label == best.label)
    return _looked(net.to(images.device).eval(), images.flip(1), split.labels, best)


def _likelihood(one: Candidate) -> tuple[bool, float, float]:
    return one.interval[0] <= one.chance, one.gap or 0.0, -one.clean


def _ways(net: Network) -> Iterator[tuple[str, tuple[str, ...], nn.Module]]:
    """Yield the name of each normalisation, what is typed for it, and the first layer that does it."""
    seen = set()
    if isinstance(net.normalise, Normalise):
        yield OWN, (), net.normalise
        seen.add(Normalisation(*(tuple(numbers.flatten().tolist()) for numbers in net.normalise.buffers())))
    yield NONE, ("0", "1") if seen else (), nn.Identity()
    for label, typed in _usual(net.info):
        found = normalisation(*typed)
        assert found is not None
        if found not in seen and {len(found.mean), len(found.std)} <= {1, net.info.channels}:
            seen.add(found)
            info = found.of(net.info)
            yield label, typed, Normalise(info.mean, info.std)


def _usual(info: DatasetInfo) -> Iterable[tuple[str, tuple[str, str]]]:
    """Return names of normalisations and what is typed for them, that of the data set first."""
    others = [name for name, one in DATASETS.items() if not one.synthetic and len(named(name).mean) == info.channels]
    names = dict.fromkeys((info.name, "half", *NAMED, *others))
    return [(name, (name, name)) for name in names] + [("x255", BYTES)]


def _looked(net: Network, images: Tensor, labels: Tensor, one: Candidate) -> Candidate:
    """Return a candidate with what its network says of images (N, C, H, W) and labels (N)."""
    right: list[Tensor] = []
    hook = net.register_forward_hook(lambda _, __, logits: right.append(logits.argmax(dim=1)))
    try:
        gaps = statistics_gap(net, images)
    finally:
        hook.remove()
    said = [label for some in right for label in some.tolist()]
    correct = sum(a == b for a, b in zip(said, labels.tolist(), strict=True))
    gap = max(gaps.values()) if gaps else None
    return replace(one, correct=correct, gap=gap, chance=1 / net.info.num_classes)
