"""What the tests of AutoAttack stand on: short attacks, images and networks for them, and a process that is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from pyautoattack import autoattack as package
from torch import nn
from torch.nn.functional import cross_entropy

from ardbench.config import Threat
from ardbench.data import DATASETS
from ardbench.data.batches import Split
from ardbench.evaluation import autoattack
from ardbench.evaluation.autoattack import State, load_state
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.verdicts import Verdicts

LINF = Threat(norm="linf", eps=0.1)
KEY = {"weights": "abc"}


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the package's attacks few steps from their construction on, for whoever uses the package."""

    def steps(kind: Any) -> Any:
        return lambda *given, **known: kind(*given, **known | {"n_iter": 6})

    class Square(pyautoattack.square.SquareAttack):  # type: ignore[misc]
        n_queries = property(lambda self: 60, lambda self, value: None)

    for name in ("APGDAttack", "APGDAttack_targeted", "FABAttack_PT"):
        monkeypatch.setattr(package, name, steps(getattr(package, name)))
    monkeypatch.setattr(package, "SquareAttack", Square)


def data(n: int, classes: int, seed: int) -> Split:
    """Return noisy 8x8 images around one random image a class."""
    centres = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=source)
    pixels = centres[labels] + 0.5 * torch.randn(n, 1, 8, 8, generator=source)
    return Split((pixels.clamp(0, 1) * 255).byte(), labels, torch.arange(n), DATASETS["digits"])


def trained(classes: int) -> nn.Module:
    """Return a small network, trained for a moment, in train mode and with dropout as training leaves it.

    It is trained in float64: 40 steps then make the same fp32 weights, but for a last bit, on every processor.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, classes),
    ).double()  # fmt: skip
    split, optimizer = data(500, classes, seed=1), torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        loss = cross_entropy(net(split.pixels(slice(None)).double()), split.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.float()


class Killed(BaseException):
    """What no handler in between may catch: the process is gone."""


def killed_at_every_save(monkeypatch: pytest.MonkeyPatch, before: bool, **how: Any) -> tuple[Verdicts, list[State]]:
    """Run to the end although the process dies at each write of the state, and return the verdicts and the states.

    With `before`, every second write is lost as well, and its batch is run again.
    """
    write, count = autoattack.write_json, [0]
    seen: list[State] = []

    def dying(path: Path, document: Any) -> None:
        count[0] += 1
        if not before or count[0] % 2:
            write(path, document)
            raise Killed
        if count[0] % 4:
            raise Killed
        write(path, document)

    monkeypatch.setattr(autoattack, "write_json", dying)
    for _ in range(300):
        try:
            verdicts = evaluate(**how)
        except Killed:
            seen.append(load_state(next(how["store"].glob("*.state.json"))))
        else:
            monkeypatch.setattr(autoattack, "write_json", write)
            return verdicts, seen
    raise AssertionError("no progress")
