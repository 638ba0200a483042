"""The benchmark of the three places: the same images in each, and a row for each of them and each work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from small import CPU

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import places


def test_the_same_images_lie_in_each_place(tmp_path: Path) -> None:
    device, host, files = places.places(5, tmp_path, CPU, 1).values()
    assert device.shape == host.shape == files.shape == (5, 3, 64, 64)
    assert torch.equal(host[:], device[:]) and torch.equal(files[:], device[:])
    assert len({image.float().mean().item() for image in device[:]}) == 5


def test_every_place_and_work_has_its_row_and_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "WARM", 2)
    words = ["--model", "resnet8", "--batch", "2", "--images", "5", "--workers", "1", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["places.py", *words, "--out", str(tmp_path)])
    places.main()
    rows = (tmp_path / "places-cpu.csv").read_text().splitlines()
    assert len(rows) == 7
    page = (tmp_path / "places-cpu.md").read_text()
    assert page.count("| device |") == 2 and page.count("+0 %") == 2 and page.count("| files | 1 |") == 2
    capsys.readouterr()
    places.main()
    assert capsys.readouterr().out.count("already") == 6
