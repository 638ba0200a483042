"""Splits, batches and views: drawn by class, the same everywhere, and equal to the bit to plain loops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

from ardbench.data import DATASETS, check_augment, check_sizes, data_root, info
from ardbench.data.batches import Split, TrainBatches, as_pixels
from ardbench.data.load import load
from ardbench.data.stratify import stratified
from ardbench.data.verify import describe
from ardbench.data.views import crop_flip
from ardbench.errors import ArdbenchError


@pytest.fixture(scope="module")
def fake() -> Split:
    return load("fake", "cpu").train


def cropped_by_hand(image: Tensor, dy: int, dx: int, flip: int, pad: int) -> Tensor:
    """Return flip(crop(pad(image))) of one image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = i + dy - pad, (width - 1 - j if flip else j) + dx - pad
                if 0 <= row < height and 0 <= column < width:
                    out[c, i, j] = image[c, row, column]
    return out


def test_gather_equals_loops_in_every_view() -> None:
    images = torch.randint(1, 256, (3, 2, 5, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pad = 2
    views = [(dy, dx, flip) for dy in range(2 * pad + 1) for dx in range(2 * pad + 1) for flip in (0, 1)]
    rows = torch.arange(len(views)) % 3
    got = crop_flip(images, rows, torch.tensor(views), pad)
    assert got.dtype == torch.uint8
    for place, (dy, dx, flip) in enumerate(views):
        assert torch.equal(got[place], cropped_by_hand(images[rows[place]], dy, dx, flip, pad)), (dy, dx, flip)


def test_gather_equals_pad_slice_flip_at_the_size_of_cifar() -> None:
    source = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=source).to(torch.uint8)
    rows = torch.randint(0, 20, (64,), generator=source)
    view = torch.cat(
        [torch.randint(0, 9, (64, 2), generator=source), torch.randint(0, 2, (64, 1), generator=source)], 1
    )
    padded = zero_pad(images, (4, 4, 4, 4))
    got = crop_flip(images, rows, view, 4)
    for place, (dy, dx, flip) in enumerate(view.tolist()):
        want = padded[rows[place], :, dy : dy + 32, dx : dx + 32]
        assert torch.equal(got[place], want.flip(-1) if flip else want)


def test_pixels_are_the_levels_over_255_correctly_rounded() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_pixels(levels), (levels.double() / 255).float())


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [1, 64, 100, 256, 300])
def test_every_example_appears_once_an_epoch(fake: Split, size: int, drop_last: bool) -> None:
    if drop_last and size > len(fake):
        with pytest.raises(ArdbenchError, match=r"data\.batch = 300"):
            TrainBatches(fake, "none", size, drop_last, 0)
        return
    batches = TrainBatches(fake, "none", size, drop_last, 0)
    seen = [index for step in range(len(batches)) for index in batches.batch(2, step).index.tolist()]
    assert len(set(seen)) == len(seen) == (len(fake) // size * size if drop_last else len(fake))
    with pytest.raises(IndexError):
        batches.batch(0, len(batches))


def test_a_batch_is_what_its_index_and_view_say(fake: Split) -> None:
    part = fake.take(list(range(100, 200)))
    batch = TrainBatches(part, "crop-flip", 40, False, 5).batch(1, 2)
    assert len(batch.y) == 20 and batch.draws.rows == 20
    assert torch.equal(batch.y, fake.labels[batch.index]) and batch.index.min() >= 100
    for x, index, (dy, dx, flip) in zip(batch.x, batch.index, batch.view.tolist(), strict=True):
        assert torch.equal(x, as_pixels(cropped_by_hand(fake.images[index], dy, dx, flip, 1)))


def test_batches_depend_on_seed_epoch_and_step_and_on_nothing_before_them(fake: Split) -> None:
    first, second = TrainBatches(fake, "crop-flip", 64, False, 3), TrainBatches(fake, "crop-flip", 64, False, 3)
    wanted = [first.batch(epoch, step) for epoch in range(2) for step in range(4)]
    for place in (7, 0, 5):
        batch = second.batch(place // 4, place % 4)
        for name in ("x", "y", "index", "view"):
            assert torch.equal(getattr(batch, name), getattr(wanted[place], name))
    other = TrainBatches(fake, "crop-flip", 64, False, 4).batch(0, 0)
    assert not torch.equal(other.index, wanted[0].index) and not torch.equal(other.view, wanted[0].view)
    assert not torch.equal(wanted[0].index, wanted[4].index) and not torch.equal(wanted[0].view, wanted[1].view)


def test_views_are_uniform_and_obey_the_recipe(fake: Split) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    flips = TrainBatches(fake, "crop-flip", 256, False, 0)
    for epoch in range(40):
        counts.update(map(tuple, flips.batch(epoch, 0).view.tolist()))
    expected = 40 * 256 / 18  # 3 x 3 x 2 views
    assert len(counts) == 18
    assert (
        sum((count - expected) ** 2 / expected for count in counts.values()) < 40.8
    )  # chi-squared, 17 d.f., p = 0.001
    crop = TrainBatches(fake, "crop", 256, False, 0).batch(0, 0)
    assert torch.equal(crop.view[:, :2], flips.batch(0, 0).view[:, :2]) and not crop.view[:, 2].any()
    plain = TrainBatches(fake, "none", 256, False, 0).batch(0, 0)
    assert torch.equal(plain.view, torch.tensor([1, 1, 0]).expand(256, 3))
    assert torch.equal(plain.x, fake.pixels(plain.index))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_global_batch(fake: Split, world: int) -> None:
    whole = TrainBatches(fake, "crop-flip", 100, False, 0)
    parts = [TrainBatches(fake, "crop-flip", 100, False, 0, rank=rank, world=world) for rank in range(world)]
    for step in range(3):
        want, got = whole.batch(1, step), [part.batch(1, step) for part in parts]
        for name in ("x", "y", "index", "view"):
            assert torch.equal(torch.cat([getattr(part, name) for part in got]), getattr(want, name))
        noise = torch.cat([part.draws.uniform("start", part.x) for part in got])
        assert torch.equal(noise, want.draws.uniform("start", want.x))


def test_a_batch_moves_to_meta(fake: Split) -> None:
    batch = TrainBatches(fake, "crop", 16, False, 0).batch(0, 0).to("meta")
    assert {getattr(batch, name).device.type for name in ("x", "y", "index", "view")} == {"meta"}
    assert batch.x.shape == (16, 3, 8, 8)


def test_prefixes_are_stratified_and_nested() -> None:
    labels = [0] * 500 + [1] * 300 + [2] * 190 + [3] * 10
    order = stratified(labels, range(1000), "a key")
    assert sorted(order) == list(range(1000))
    for n in (1, 7, 100, 333, 999):
        counts = Counter(labels[place] for place in order[:n])
        for label, size in Counter(labels).items():
            assert abs(counts[label] - n * size / 1000) < 1
    assert order == stratified(labels, range(1000), "a key") != stratified(labels, range(1000), "another")
    assert order[:4] == [451, 757, 916, 363]  # pinned: the split of a published run must never move


@pytest.mark.parametrize(("name", "validation"), [("digits", 144), ("fake", 50)])
def test_splits_are_disjoint_and_by_class(name: str, validation: int) -> None:
    whole, parts = load(name, "cpu"), load(name, "cpu", validation=validation)
    assert whole.validation is None and parts.validation is not None
    train, held = set(parts.train.index.tolist()), set(parts.validation.index.tolist())
    assert not train & held and train | held == set(whole.train.index.tolist()) and len(held) == validation
    assert torch.equal(parts.test.images, whole.test.images)
    for part in (parts.train, parts.validation):
        assert torch.equal(part.images, whole.train.images[part.index])
        assert torch.equal(part.labels, whole.train.labels[part.index])
    sizes, counts = torch.bincount(whole.train.labels), torch.bincount(parts.validation.labels, minlength=10)
    assert ((counts - sizes * validation / len(whole.train)).abs() <= 1).all()


def test_validation_ignores_run_seeds_and_subset_sizes() -> None:
    torch.manual_seed(1)
    a = load("digits", "cpu", validation=100)
    torch.manual_seed(2)
    b = load("digits", "cpu", validation=100, train_images=200)
    c = load("digits", "cpu", validation=100, train_images=300)
    assert a.validation is not None and b.validation is not None and c.validation is not None
    assert torch.equal(a.validation.index, b.validation.index) and len(b.train) == 200
    assert set(b.train.index.tolist()) < set(c.train.index.tolist()) < set(a.train.index.tolist())
    assert torch.bincount(b.train.labels).tolist() == pytest.approx([20] * 10, abs=1)


def test_subset_is_seeded_nested_and_in_proportion() -> None:
    test = load("digits", "cpu").test
    small, large = test.subset(50, 0), test.subset(200, 0)
    assert set(small.index.tolist()) < set(large.index.tolist())
    assert small.index.tolist() == sorted(small.index.tolist()) == test.subset(50, 0).index.tolist()
    assert small.index.tolist() != test.subset(50, 1).index.tolist()
    assert torch.bincount(small.labels).tolist() == pytest.approx([5] * 10, abs=1)
    assert torch.equal(test.subset(360, 7).images, test.images)
    for n in (0, 361):
        with pytest.raises(ArdbenchError, match="give 1 to 360"):
            test.subset(n, 0)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    splits, bunch = load("digits", "cpu"), load_digits()
    assert len(splits.train) == 1437 and len(splits.test) == 360
    images = torch.cat([splits.train.images, splits.test.images]).squeeze(1)
    levels = (images.double() * 16 / 255).round()
    got = sorted(
        map(
            tuple,
            torch.cat([levels.flatten(1), torch.cat([splits.train.labels, splits.test.labels])[:, None]], 1).tolist(),
        )
    )
    assert got == sorted((*image.ravel(), label) for image, label in zip(bunch.images, bunch.target, strict=True))
    assert images.min() == 0 and images.max() == 255
    pixels = splits.train.pixels(slice(None)).double()
    assert info("digits").mean[0] == pytest.approx(pixels.mean().item(), abs=5e-5)
    assert info("digits").std[0] == pytest.approx(pixels.std(unbiased=False).item(), abs=5e-5)


def test_fake_is_learnable_by_its_class_means() -> None:
    splits = load("fake", "cpu")
    x, y = splits.train.pixels(slice(None)).flatten(1), splits.train.labels
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    nearest = torch.cdist(splits.test.pixels(slice(None)).flatten(1), means).argmin(1)
    assert (nearest == splits.test.labels).float().mean() > 0.95
    assert torch.equal(splits.train.images, load("fake", "cpu").train.images)


def test_facts_agree_with_themselves() -> None:
    for name, facts in DATASETS.items():
        assert facts.name == name and len(facts.mean) == len(facts.std) == facts.channels
        assert facts.pad == (4 if facts.size >= 32 else 1)
        assert len(set(facts.classes)) == (0 if name == "tiny-imagenet" else facts.num_classes)
    assert [name for name, facts in DATASETS.items() if facts.synthetic] == ["fake"]


@pytest.mark.parametrize("name", ["digits", "svhn"])
def test_mirrored_digits_are_refused(name: str) -> None:
    check_augment(info(name), "crop")
    with pytest.raises(ArdbenchError, match=rf"mirrored digit of {name} .* choose 'crop' or 'none'"):
        check_augment(info(name), "crop-flip")


def test_refusals_offer_what_is_allowed() -> None:
    with pytest.raises(ArdbenchError, match="did you mean 'cifar10'"):
        load("cifar-10", "cpu")
    with pytest.raises(ArdbenchError, match="did you mean 'crop'"):
        check_augment(info("cifar10"), "crops")
    check_sizes(info("fake"), 56, 200)
    for validation, train_images in ((256, None), (57, 200), (-1, None), (0, 0)):
        with pytest.raises(ArdbenchError, match="256 training images of fake"):
            check_sizes(info("fake"), validation, train_images)


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARDBENCH_DATA", raising=False)
    assert data_root() == Path("data") and data_root("x") == Path("x")
    monkeypatch.setenv("ARDBENCH_DATA", "/somewhere")
    assert data_root() == Path("/somewhere") and data_root("x") == Path("x")


def test_describe_counts() -> None:
    told = describe("digits")
    assert told["shape"] == [1, 8, 8] and told["files"] == [] and told["root"] is None
    assert told["train"]["images"] == 1437 and told["test"] == {
        "images": 360,
        "fewest_of_a_class": 35,
        "most_of_a_class": 37,
    }


def test_facts_need_no_torch() -> None:
    code = "import sys, ardbench.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.data
def test_real_cifar10() -> None:
    root = os.environ.get("ARDBENCH_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("ARDBENCH_DATA names no folder with cifar-10-batches-py")
    from torchvision.datasets import CIFAR10

    splits, facts = load("cifar10", "cpu", root, validation=1000, download=False), info("cifar10")
    plain = CIFAR10(root, train=True, download=False)
    assert plain.classes == list(facts.classes)
    assert splits.validation is not None and torch.bincount(splits.validation.labels).tolist() == [100] * 10
    image, label = plain[int(splits.train.index[123])]
    assert label == splits.train.labels[123]
    assert bytes(splits.train.images[123].permute(1, 2, 0).flatten().tolist()) == image.tobytes()
    pixels = splits.train.pixels(slice(0, 20000))
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(facts.mean, abs=0.005)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx(facts.std, abs=0.005)
    told = describe("cifar10", root, download=False)
    assert [file["verdict"] for file in told["files"]] == ["ok"] * 7 and told["train"]["most_of_a_class"] == 5000
