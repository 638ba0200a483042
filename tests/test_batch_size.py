"""`--batch auto`: when it stops doubling, and that it asks only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ardbench.errors import ArdbenchError
from ardbench.evaluation import batch_size
from ardbench.evaluation.batch_size import remembered, useful

IMAGE = torch.rand(1, 3, 8, 8)


class Device(nn.Module):
    """A network on a device with room for so many images, on a clock that it moves itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], room: int = 10**6) -> None:
        super().__init__()
        self.now, self.seconds, self.room, self.seen = 0.0, seconds, room, list[int]()
        monkeypatch.setattr(batch_size.time, "perf_counter", lambda: self.now)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        self.now += self.seconds[len(x)]
        return x.flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("seconds", "room", "batch"),
    [
        ({32: 1.0, 64: 1.0, 128: 1.9, 256: 3.8}, 10**6, 64),  # 32, 64, 67 images a second: the last gains 5 %
        ({32: 1.0, 64: 1.0, 128: 1.7, 256: 3.4}, 10**6, 128),  # 32, 64, 75, 75
        ({32: 1.0, 64: 1.0, 128: 1.0, 256: 1.0}, 200, 128),  # it would gain on, but 256 do not fit
        (dict.fromkeys(batch_size.SIZES, 1.0), 10**6, 8192),
        (
            {size: size / 32 * 1e-3 for size in batch_size.SIZES},
            10**6,
            4096,
        ),  # no gain, but 4096 take 0.13 s, 8192 0.26
        ({32: 1e-3, 64: 3e-3}, 10**6, 32),  # short, and it loses
    ],
)
def test_it_doubles_until_that_gains_nothing_or_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], room: int, batch: int
) -> None:
    assert useful(Device(monkeypatch, seconds, room), IMAGE) == batch


def test_no_room_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArdbenchError, match="Not even 32 images at a time fit"):
        useful(Device(monkeypatch, {}, room=31), IMAGE)


def test_it_is_tried_once_for_a_name_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, file = Device(monkeypatch, {32: 1.0, 64: 2.0}), tmp_path / "batches.json"
    assert [remembered(file, "net on cpu", net, IMAGE) for _ in range(2)] == [32, 32]
    assert net.seen == [32] * batch_size.TRIALS + [64] * batch_size.TRIALS
    assert remembered(file, "net on cuda", net, IMAGE) == 32
    assert json.loads(file.read_text()) == {"net on cpu": 32, "net on cuda": 32}
    file.write_text('{"net on cpu": "many"}')
    with pytest.raises(ArdbenchError, match="gives 'many' as the batch of net on cpu: delete the file"):
        remembered(file, "net on cpu", net, IMAGE)
