"""Extra images: how much of each batch they are, what they are known by, and what a file of them must be."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections import Counter
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from small import CPU, recipe
from test_data import cropped_by_hand
from test_engine import equal, loop_of, rows, weights

from ardbench.campaigns.copies import bring
from ardbench.data.batches import TrainBatches, as_pixels
from ardbench.data.epoch import Epoch, Mix
from ardbench.data.load import extra_of, load
from ardbench.data.npz import Npz
from ardbench.errors import ArdbenchError
from ardbench.planning.estimate import images_per_epoch
from ardbench.recipes.differences import differing
from ardbench.runs import Run

SHARE = {"data__extra_share": 0.7}


def arrays(count: int = 90, labels: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random images of the size of the fake data set."""
    source = np.random.default_rng(seed)
    found = {"image": source.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)}
    return found | ({"label": source.integers(0, 10, count)} if labels else {})


def extra_images(folder: Path, compressed: bool = False, **given: Any) -> Path:
    """Return a file of extra images."""
    path = folder / "extra.npz"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        (np.savez_compressed if compressed else np.savez)(path, **arrays(**given))
    return path


def mixed(path: Path, **words: Any) -> TrainBatches:
    """Return the batches of 50 of the fake training images with 70 % extra ones."""
    section = recipe("pgd-at", data__extra=f"npz:{path}", **SHARE).data
    split = load("fake", CPU, validation=32, place=words.pop("place", "device")).train
    return TrainBatches(split, "crop-flip", 50, False, 0, extra=extra_of(section, CPU), **words)


# How much ------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_counted_in_original_images() -> None:
    epoch = Epoch(images=224, batch=50, share=0.7)
    assert (epoch.own, len(epoch)) == (15, 15)
    assert epoch.mix(0) == epoch.mix(13) == Mix(15, 35) and epoch.mix(14) == Mix(14, 33)
    assert epoch.shown == 14 * 50 + 47
    whole = Epoch(images=224, batch=50, drop_last=True, share=0.7)
    assert len(whole) == 14 and whole.shown == 700
    plain = Epoch(images=224, batch=50)
    assert [plain.mix(step) for step in range(5)] == [Mix(50)] * 4 + [Mix(24)] and plain.shown == 224
    with pytest.raises(IndexError):
        plain.mix(5)


def test_a_plan_counts_the_images_that_are_shown(tmp_path: Path) -> None:
    wanted = recipe("pgd-at", data__extra=f"npz:{extra_images(tmp_path)}", **SHARE)
    assert images_per_epoch(wanted) == 14 * 50 + 47 and images_per_epoch(recipe("pgd-at")) == 224


@pytest.mark.parametrize("place", ["device", "host"])
def test_batches_hold_every_original_image_once_and_extra_ones_evenly_among_them(place: str, tmp_path: Path) -> None:
    batches, given = mixed(extra_images(tmp_path), place=place), arrays()
    fake, seen, places = load("fake", CPU).train, Counter[int](), Counter[int]()
    for step in range(len(batches)):
        batch = batches.batch(0, step)
        extra = batch.index >= 256
        assert int(extra.sum()) == (35 if step < 14 else 33)
        gaps = extra.nonzero().flatten().diff()
        assert gaps.max() - gaps.min() <= 1
        own, others = batches.parts(step)
        assert (
            own.tolist() == (~extra).nonzero().flatten().tolist()
            and others.tolist() == extra.nonzero().flatten().tolist()
        )
        for x, y, index, (dy, dx, flip) in zip(
            batch.x, batch.y, batch.index.tolist(), batch.view.tolist(), strict=True
        ):
            (places if index >= 256 else seen)[index] += 1
            here = (
                torch.from_numpy(given["image"][index - 256]).permute(2, 0, 1) if index >= 256 else fake.images[index]
            )
            assert y == (given["label"][index - 256] if index >= 256 else fake.labels[index])
            assert torch.equal(x, as_pixels(cropped_by_hand(here, dy, dx, flip, 1)))
    assert seen == dict.fromkeys(batches.split.index.tolist(), 1)
    assert places.keys() <= set(range(256, 256 + 90)) and len(places) == 90  # 523 draws with replacement


def test_draws_of_extra_images_are_a_function_of_their_position(tmp_path: Path) -> None:
    one, other = mixed(extra_images(tmp_path)), mixed(extra_images(tmp_path), place="host")
    forwards = {at: one.batch(*at) for at in itertools.product(range(2), range(15))}
    for at in reversed(forwards):
        again = other.batch(*at)
        assert torch.equal(again.x, forwards[at].x) and torch.equal(again.index, forwards[at].index)
    assert not torch.equal(forwards[0, 0].index, forwards[1, 0].index)


def test_processes_share_every_batch(tmp_path: Path) -> None:
    path = extra_images(tmp_path)
    whole, parts = mixed(path), [mixed(path, rank=rank, world=3) for rank in range(3)]
    for step in (0, 14):
        expected, found = whole.batch(0, step), [part.batch(0, step) for part in parts]
        for name in ("x", "y", "index", "view"):
            assert torch.equal(torch.cat([getattr(one, name) for one in found]), getattr(expected, name))
        share = int((expected.index >= 256).sum()) / len(expected.index)
        assert all(abs(int((one.index >= 256).sum()) - share * len(one.index)) < 1 for one in found)
        assert torch.cat([one.draws.uniform("a", one.x) for one in found]).equal(
            expected.draws.uniform("a", expected.x)
        )


# In a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [True, False])
def test_a_run_with_extra_images_resumes_at_any_batch(labels: bool, tmp_path: Path) -> None:
    sets = {"data__extra": f"npz:{extra_images(tmp_path, labels=labels)}", "schedule__epochs": 2, **SHARE}
    assert loop_of("rslad", tmp_path / "whole", **sets).fit()
    for asked, place in ((3, "host"), (16, "device")):
        count = itertools.count(1)
        stop = lambda count=count, asked=asked: next(count) >= asked  # noqa: E731
        assert not loop_of("rslad", tmp_path / "parts", stop, data__place=place, **sets).fit()
    assert loop_of("rslad", tmp_path / "parts", **sets).fit()
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert [row["images"] for row in rows(tmp_path / "whole")] == [747, 747]
    assert equal(weights(tmp_path / "whole", "last"), weights(tmp_path / "parts", "last"))


def test_images_without_labels_have_those_that_the_teacher_sees(tmp_path: Path) -> None:
    sets = {"data__extra": f"npz:{extra_images(tmp_path, labels=False)}", **SHARE}
    loop = loop_of("rslad", tmp_path / "run", **sets)
    images = torch.from_numpy(arrays()["image"]).permute(0, 3, 1, 2)
    expected = loop.method.teachers[0](as_pixels(images)).argmax(1)  # of the images as they are, not of crops
    batch = loop.batches.batch(0, 0)
    extra = batch.index >= 256
    assert torch.equal(batch.y[extra], expected[batch.index[extra] - 256])
    assert len(expected.unique()) > 1


def test_the_teacher_is_asked_about_extra_images_each_time_and_about_others_once(tmp_path: Path) -> None:
    sets = {"data__extra": f"npz:{extra_images(tmp_path)}", **SHARE}
    loop = loop_of("rslad", tmp_path / "run", **sets)
    for _ in range(2):
        batch = loop.batches.batch(0, 0)
        asked = loop.method.teachers[0](batch.x)
        assert torch.allclose(loop.method.teacher_logits(batch), asked, rtol=0, atol=1e-5)
    assert loop.cache is not None
    store = loop.cache._store(0)
    assert store is not None and int(store.known.sum()) == 224  # one view of each image: an epoch is known


# What it is known by -------------------------------------------------------------------------------------------------


def test_settings_of_extra_images_are_told_apart(tmp_path: Path) -> None:
    plain, mixed_in = recipe("pgd-at"), recipe("pgd-at", data__extra=f"npz:{extra_images(tmp_path)}", **SHARE)
    told = differing([plain, mixed_in])
    assert told == ["usual extra, usual extra_share", "extra extra.npz, extra_share 0.7"]


def test_a_run_is_known_by_the_arrays_and_not_by_where_they_lie(tmp_path: Path) -> None:
    stored = extra_images(tmp_path / "a")
    compressed = extra_images(tmp_path / "b", compressed=True)
    other = extra_images(tmp_path / "c", seed=1)
    unlabelled = extra_images(tmp_path / "d", labels=False)
    found = [recipe("rslad", data__extra=f"npz:{path}", **SHARE) for path in (stored, compressed, other, unlabelled)]
    identities = [one.identity() for one in found]
    assert identities[0] == identities[1] and len(set(identities)) == 3
    assert recipe("rslad").identity() not in identities
    assert recipe("rslad", data__extra=f"npz:{stored}", data__extra_share=0.6).identity() not in identities


def test_an_array_is_mapped_where_it_lies_and_a_compressed_one_decoded_once(tmp_path: Path) -> None:
    stored = Npz(extra_images(tmp_path / "a"))
    compressed = Npz(extra_images(tmp_path / "b", compressed=True))
    for file in (stored, compressed):
        assert file.label is not None
        for name, member in (("image", file.image), ("label", file.label)):
            found = file.array(member)
            assert isinstance(found.base, mmap) and np.array_equal(found, arrays()[name])
    (decoded,) = compressed.folder.glob("image-*.raw")
    assert not any(stored.folder.glob("*.raw"))
    before = decoded.stat().st_mtime_ns
    compressed.array(compressed.image)
    assert decoded.stat().st_mtime_ns == before


def with_label(**given: Any) -> dict[str, np.ndarray]:
    return arrays() | {key: np.asarray(value) for key, value in given.items()}


REFUSED = [
    (with_label(image=np.zeros((4, 9, 8, 3), np.uint8), label=[0] * 4), "are 9x8x3 (height, width, channels), and"),
    (with_label(image=np.zeros((4, 8, 8), np.uint8), label=[0] * 4), "are 8x8x1"),
    (with_label(image=np.zeros((4, 8, 8, 3))), "`image` is float64 of (4, 8, 8, 3), and uint8"),
    (with_label(label=[10] * 90), "has the label 10, and those of fake are 0 to 9"),
    (with_label(label=[*[9] * 89, -1]), "has the label -1"),
    (with_label(label=np.zeros(90)), "`label` is float64 of (90,), and 90 whole numbers"),
    (with_label(label=[1]), "`label` is int64 of (1,)"),
    (with_label(label=np.array([None] * 90, object)), "`label` holds pickled objects"),
    (with_label(image=np.asfortranarray(arrays()["image"])), "Fortran order"),
    ({"x": np.zeros(3)}, "it has no array `image`, only x"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_a_file_that_does_not_fit_is_refused(given: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **given)  # type: ignore[arg-type]
    with pytest.raises(ArdbenchError) as refusal:
        recipe("pgd-at", data__extra=f"npz:{tmp_path / 'x.npz'}", **SHARE)
    assert said in str(refusal.value) and str(tmp_path / "x.npz") in str(refusal.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_refused(compressed: bool, tmp_path: Path) -> None:
    path = extra_images(tmp_path, compressed=compressed)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[: len(whole) // 2], whole[:3000] + b"x" * 50 + whole[3050:], b"", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(ArdbenchError, match=r"extra\.npz is no \.npz file of images: it cannot be read"):
            recipe("pgd-at", data__extra=f"npz:{path}", **SHARE)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"data__extra": "npz:absent.npz", **SHARE}, "There is no file absent.npz"),
        ({"data__extra": "generated.npz", **SHARE}, "data.extra = 'generated.npz' names no file of images"),
        ({"data__extra": "npz:x.npz"}, "go together"),
        (SHARE, "go together"),
        ({"data__extra": "npz:x.npz", "data__extra_share": 0.999}, "leaves no original or no extra image"),
        ({"data__extra": "npz:x.npz", "data__extra_share": 1}, "less than 1"),
    ],
)
def test_what_names_no_extra_images_is_refused(sets: dict[str, Any], said: str) -> None:
    with pytest.raises(ArdbenchError) as refusal:
        recipe("pgd-at", **sets)
    assert said in str(refusal.value)


def test_images_without_labels_need_a_teacher(tmp_path: Path) -> None:
    path = extra_images(tmp_path, labels=False)
    with pytest.raises(ArdbenchError, match="has no array `label`, and trades has no teacher"):
        recipe("trades", data__extra=f"npz:{path}", **SHARE)


def test_a_file_that_has_changed_under_a_recipe_is_refused(tmp_path: Path) -> None:
    wanted = recipe("trades", data__extra=f"npz:{extra_images(tmp_path)}", **SHARE)
    np.savez(tmp_path / "extra.npz", **arrays(seed=1))  # type: ignore[arg-type]
    with pytest.raises(ArdbenchError, match="holds other arrays than the run is of"):
        extra_of(wanted.data, CPU)


def test_a_recipe_that_names_the_sha256_is_planned_without_the_file(tmp_path: Path) -> None:
    path = extra_images(tmp_path)
    found = recipe("trades", data__extra=f"npz:{path}", **SHARE)
    named = {"data__extra": "npz:elsewhere.npz", "data__extra_sha256": found.data.extra_sha256, **SHARE}
    assert recipe("trades", **named).identity() == found.identity()
    with pytest.raises(ArdbenchError, match=r"There is no file elsewhere\.npz"):
        extra_of(recipe("trades", **named).data, CPU)
    with pytest.raises(ArdbenchError, match="holds other arrays"):
        recipe("trades", data__extra=f"npz:{path}", data__extra_sha256="0" * 64, **SHARE)


def test_a_disk_without_room_for_what_is_compressed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe("trades", data__extra=f"npz:{extra_images(tmp_path, compressed=True)}", **SHARE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ArdbenchError, match="17280 bytes are needed there, and 100 are free"):
        extra_of(wanted.data, CPU)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ardbench.data.npz.os.replace", full)
    with pytest.raises(ArdbenchError, match=r"cannot be decoded into .* \(No space left on device\): make room"):
        extra_of(wanted.data, CPU)
    assert [path.name for path in (tmp_path / "extra.npz.ardbench").iterdir()] == ["contents.json"]


def test_the_command_line_trains_with_extra_images_and_keeps_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", image=np.zeros((20, 8, 8), np.uint8), label=np.arange(20) % 10)
    words = ("train", "pgd-at-digits", "--student", "resnet8-tiny", "--epochs", "1", "--runs", tmp_path / "runs")
    sets = (f"data.extra=npz:{tmp_path / 'more.npz'}", "data.extra_share=0.5", "data.train_images=64")
    result = call(*words, *(word for one in sets for word in ("--set", one)))
    assert result.exit_code == 0, result.output
    assert "50 % of each batch are of the 20 images of npz:" in result.output
    (path,) = (tmp_path / "runs").iterdir()
    written = json.loads((path / "config.json").read_text())["recipe"]["data"]
    assert written["extra_sha256"] == Npz(tmp_path / "more.npz").contents.sha256
    (row,) = Run.open(path).metrics
    assert row["images"] == 128
    assert call("eval", path, "--protocol", "clean", "--n", "20").exit_code == 0
    assert call("report", path, "--out", tmp_path / "report").exit_code == 0
    table, provenance = (next((tmp_path / "report").glob(f"*.{kind}")).read_text() for kind in ("md", "json"))
    assert "pgd-at-digits + extra data |" in table and "+ extra data: a share of each training batch" in table
    told = {"source": "more.npz", "share": 0.5, "sha256": written["extra_sha256"]}
    assert json.loads(provenance)["runs"][0]["extra"] == told
    copied = Run(tmp_path / "kept" / path.name)
    bring(Run.open(path), copied)
    assert copied.recipe.data.extra == "npz:more.npz" and copied.recipe.identity() == Run.open(path).identity
