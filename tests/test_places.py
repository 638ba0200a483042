"""Where images lie is no part of a run: the device, the host and the files give the same batches to the bit."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from PIL import Image
from small import CPU, method, recipe
from test_engine import equal, rows, weights

from ardbench import data
from ardbench.data import load as loading
from ardbench.data import places
from ardbench.data.batches import TrainBatches
from ardbench.data.images import HostImages
from ardbench.data.load import load
from ardbench.data.places import in_bytes, place_of
from ardbench.data.raw import Raw, Undecoded
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import examples_digest
from ardbench.progress import Progress
from ardbench.recipes.differences import differing
from ardbench.runs import Run

ELSEWHERE = ("host", "files")


def fake_in_files(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the fake data set be read from files of its images where these lie in their files."""
    original = loading._read

    def undecoded(images: torch.Tensor, kind: str) -> Undecoded:
        folder.mkdir(exist_ok=True)
        names = [f"{kind}-{row}.png" for row in range(len(images))]
        for name, image in zip(names, images, strict=True):
            if not (folder / name).exists():
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
        return Undecoded(names, (3, 8, 8), lambda name: np.asarray(Image.open(folder / name)))

    def read(facts: data.DatasetInfo, *words: Any) -> Raw:
        raw = original(facts, *words)
        if facts.name != "fake" or words[-1] != "files":
            return raw
        assert isinstance(raw.train_images, torch.Tensor) and isinstance(raw.test_images, torch.Tensor)
        found = {
            "train_images": undecoded(raw.train_images, "train"),
            "test_images": undecoded(raw.test_images, "test"),
        }
        return replace(raw, **found)  # type: ignore[arg-type]

    patch.setattr(loading, "_read", read)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_in_files(monkeypatch, tmp_path / "files")
    return tmp_path / "files"


def loop_of(folder: Path, place: str, stop: Any = lambda: False, **sets: Any) -> Loop:
    wanted = recipe("rslad", schedule__epochs=2, data__place=place, **sets)
    splits = load("fake", CPU, validation=wanted.data.validation, place=place)
    folder.mkdir(exist_ok=True, parents=True)
    return Loop(Run(folder), wanted, method(wanted), splits, stop, Progress())


def test_rows_of_an_array_on_the_host_are_its_rows() -> None:
    array = np.arange(5 * 2 * 3 * 4, dtype=np.uint8).reshape(5, 2, 3, 4)
    chosen = torch.tensor([4, 0, 4])
    for images in (HostImages(array, CPU), HostImages(array.transpose(0, 2, 3, 1).copy(), CPU, channels_last=True)):
        assert (len(images), images.shape) == (5, (5, 2, 3, 4))
        assert np.array_equal(images[chosen].numpy(), array[[4, 0, 4]]) and images[chosen].is_contiguous()
        assert np.array_equal(images[1:].numpy(), array[1:])
        fewer = images.take(torch.tensor([3, 1, 0])).take(torch.tensor([2, 0]))
        assert len(fewer) == 2 and np.array_equal(fewer[:].numpy(), array[[0, 3]])


@pytest.mark.parametrize("place", ELSEWHERE)
def test_splits_are_the_same_wherever_their_images_lie(place: str) -> None:
    words = ("fake", CPU, None, 32, 100)
    here, there = load(*words, place="device"), load(*words, place=place)
    for one, other in ((here.train, there.train), (here.validation, there.validation), (here.test, there.test)):
        assert one is not None and other is not None
        assert isinstance(one.images, torch.Tensor) and not isinstance(other.images, torch.Tensor)
        assert torch.equal(one.pixels(slice(None)), other.pixels(slice(None)))
        assert torch.equal(one.labels, other.labels) and torch.equal(one.index, other.index)
        assert torch.equal(one.subset(20, 3).pixels(slice(3, 9)), other.subset(20, 3).pixels(slice(3, 9)))
        assert examples_digest(one) == examples_digest(other)


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize(
    ("augment", "drop_last", "world"),
    [("crop-flip", False, 1), ("none", True, 1), ("crop", False, 3), ("resized-crop-flip", False, 2)],
)
def test_batches_are_the_same_wherever_images_lie(place: str, augment: str, drop_last: bool, world: int) -> None:
    here, there = (load("fake", CPU, place=name).train for name in ("device", place))
    for rank in range(world):
        expected, found = (
            TrainBatches(split, augment, 60, drop_last, 3, rank=rank, world=world) for split in (here, there)
        )
        in_order = [(epoch, step) for epoch in range(2) for step in range(len(found))]
        for epoch, step in (*in_order, (0, 2), (0, 3), (0, 1), (1, 0), (0, 0)):
            one, other = expected.batch(epoch, step), found.batch(epoch, step)
            for name in ("x", "y", "index", "view"):
                assert torch.equal(getattr(one, name), getattr(other, name)), (epoch, step, name)


@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop-flip"])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_run_is_the_same_wherever_images_lie_and_goes_on_anywhere(place: str, augment: str, tmp_path: Path) -> None:
    words = {"data__augment": augment}
    assert loop_of(tmp_path / "device", "device", **words).fit()
    assert loop_of(tmp_path / place, place, **words).fit()
    for asked, where in ((2, place), (3, "device"), (2, place)):
        count = itertools.count(1)
        assert not loop_of(
            tmp_path / "parts", where, lambda count=count, asked=asked: next(count) >= asked, **words
        ).fit()
    assert loop_of(tmp_path / "parts", place, **words).fit()
    for other in (place, "parts"):
        assert rows(tmp_path / other) == rows(tmp_path / "device")
        assert equal(weights(tmp_path / other, "last"), weights(tmp_path / "device", "last"))


def test_the_place_is_no_part_of_a_run() -> None:
    usual, moved = recipe("pgd-at"), recipe("pgd-at", data__place="host", data__workers=2)
    assert usual.identity() == moved.identity()
    assert differing([usual, moved]) == ["", ""]


def test_images_stay_on_the_host_where_they_would_fill_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (50_000 + 10_000) * 3 * 32 * 32
    for free, expected in ((2 * size, "device"), (2 * size - 1, "host")):
        monkeypatch.setattr(places, "free_memory", lambda device, free=free: free)
        found = place_of(data.info("cifar10"), CPU)
        assert found.name == expected and "they take 184 MB, and 369 MB are free on cpu" in found.why
    assert place_of(data.info("cifar10"), CPU, "device").name == "device"
    sizes = (999, 1_000, 1_234_567, 999_999, 2 * 10**9, 5 * 10**15)
    assert list(map(in_bytes, sizes)) == ["999 bytes", "1 kB", "1.23 MB", "1000 kB", "2 GB", "5000 TB"]


def test_images_that_were_put_on_a_device_without_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.Tensor.to

    def full(tensor: torch.Tensor, to: Any) -> torch.Tensor:
        if to == CPU:
            raise torch.OutOfMemoryError("60 GiB")
        return original(tensor, to)

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(ArdbenchError, match=r"^The images of fake do not fit on cpu: give --set data\.place=host"):
        load("fake", CPU, place="device")


def test_a_run_says_where_its_images_lie(tmp_path: Path) -> None:
    words = ("train", "pgd-at-digits", "--student", "resnet8-tiny", "--epochs", "1", "--runs", tmp_path)
    result = call(*words, "--set", "data.place=host", "--set", "data.train_images=50", "--set", "selection.every=9")
    assert result.exit_code == 0 and "Images lie on the host: data.place = host (they take 115 kB" in result.output


def test_an_image_that_cannot_be_read_stops_a_run_with_its_sentence(files: Path, tmp_path: Path) -> None:
    loop = loop_of(tmp_path / "run", "files")

    def refusing(name: str) -> np.ndarray:
        raise ArdbenchError(f"{name} is no image: take it away.")

    object.__setattr__(loop.splits.train.images._source, "decode", refusing)  # type: ignore[union-attr]
    with pytest.raises(ArdbenchError, match=r"^train-\d+\.png is no image: take it away\.$"):
        loop.fit()


def test_a_data_set_without_files_of_images_is_not_decoded_from_them() -> None:
    with pytest.raises(ArdbenchError, match="those of digits do not lie in a file each: give 'host' or 'auto'"):
        load("digits", CPU, place="files")


KILLED = """
import multiprocessing, os, signal
import numpy as np, torch
from ardbench.data.images import FileImages
from ardbench.data.raw import Undecoded

images = FileImages(Undecoded(["a"] * 8, (1, 2, 2), lambda name: np.zeros((2, 2, 1), np.uint8)), "cpu", workers=2)
stream = images.stream([torch.arange(8)] * 50)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends orphans on Linux alone")
def test_processes_that_decode_end_with_the_one_that_trains(tmp_path: Path) -> None:
    with (tmp_path / "pids").open("w") as file:  # a pipe would end with the last of them
        done = subprocess.run([sys.executable, "-c", KILLED], stdout=file, check=False)
    workers = list(map(int, (tmp_path / "pids").read_text().split()))
    assert done.returncode == -signal.SIGKILL and len(workers) == 2
    time.sleep(0.5)
    states = [
        path.read_text().rpartition(")")[2].split()[0]
        for pid in workers
        if (path := Path(f"/proc/{pid}/stat")).exists()
    ]
    assert set(states) <= {"Z"}  # nobody may have collected them yet
