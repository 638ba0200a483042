"""Resized crops: what torchvision makes of the same boxes, drawn as its are, the same in every process, and asked for anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_call import call
from scipy.stats import ks_2samp
from small import CPU, recipe
from test_teacher_cache import loop_of, pixels
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop as reference

from ardbench import data
from ardbench.config import Data
from ardbench.data.batches import TrainBatches
from ardbench.data.load import load
from ardbench.data.views import draw_views, resized_crop
from ardbench.errors import ArdbenchError


def views(count: int, side: int, area: float = 0.08, augment: str = "resized-crop-flip") -> torch.Tensor:
    info = replace(data.info("fake"), size=side)
    return draw_views(augment, area, count, info, torch.Generator().manual_seed(0), CPU)


@pytest.mark.parametrize(("side", "channels"), [(8, 3), (17, 1), (64, 4)])
def test_a_crop_is_what_torchvision_makes_of_the_same_box(side: int, channels: int) -> None:
    source = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, channels, side, side), generator=source, dtype=torch.uint8)
    view, rows = views(60, side), torch.randint(0, 5, (60,), generator=source)
    view[0] = torch.tensor([0, 0, side, side, 0])
    view[1] = torch.tensor([side - 1, 0, 1, side, 1])
    got = resized_crop(images, rows, view)
    for place, (top, left, height, width, flip) in enumerate(view.tolist()):
        words = top, left, height, width, [side, side], InterpolationMode.BILINEAR
        want = reference(images[rows[place]].double(), *words, antialias=True)
        assert (got[place] - (want.flip(-1) if flip else want)).abs().max() < 1e-4
    assert torch.equal(got[0], images[rows[0]].float()), "a box around all of an image is the image"


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    side, count = 224, 4000
    ours = views(count, side).double()
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(count)]
    ).double()
    for measured in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: (box[:, 3] / box[:, 2]).log(),
        lambda box: box[:, 0] / (side - box[:, 2] + 1),
        lambda box: box[:, 1] / (side - box[:, 3] + 1),
    ):
        assert ks_2samp(measured(ours).numpy(), measured(theirs).numpy()).pvalue > 1e-3
    assert (ours[:, :2] + ours[:, 2:4] <= side).all() and (ours[:, 2:4] >= 1).all() and (ours[:, :2] >= 0).all()
    assert abs(ours[:, 4].mean() - 0.5) < 0.03 and not views(50, 8, augment="resized-crop")[:, 4].any()


def test_a_crop_of_all_of_the_area_is_the_image() -> None:
    assert views(200, 100, area=1.0)[:, :4].unique(dim=0).tolist() == [[0, 0, 100, 100]]


def test_processes_see_parts_of_one_batch_and_views_are_a_function_of_their_position() -> None:
    fake = load("fake", CPU).train
    words = (fake, "resized-crop-flip", 100, False, 0)
    whole, later = TrainBatches(*words, area=0.25), TrainBatches(*words, area=0.25)
    parts = [TrainBatches(*words, rank=rank, world=3, area=0.25) for rank in range(3)]
    for at in ((1, 2), (0, 0), (1, 0)):
        one, several = later.batch(*at), [part.batch(*at) for part in parts]
        for name in ("x", "y", "index", "view"):
            assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in several]))
            assert torch.equal(getattr(one, name), getattr(whole.batch(*at), name))
        assert one.view.shape == (len(one.y), 5) and one.x.min() >= 0 and one.x.max() <= 1
    assert not torch.equal(whole.batch(0, 0).view, whole.batch(0, 1).view)
    assert TrainBatches(*words).batch(0, 0).view[:, 2:4].prod(1).min() < 0.25 * 64


def test_teachers_are_asked_about_each_crop(tmp_path: Path) -> None:
    loop, asked = loop_of(tmp_path, data__augment="resized-crop-flip")
    asked.teacher = pixels
    assert loop.cache is not None
    for epoch in range(2):
        batch = loop.batches.batch(epoch, 0)
        assert torch.equal(loop.cache.logits(batch, 0), pixels(batch.x))
    assert len(asked.sizes) == 2


def test_the_least_area_is_part_of_a_run_and_of_no_other_augmentation() -> None:
    words = {"data__augment": "resized-crop-flip"}
    usual, wider = recipe("pgd-at", **words), recipe("pgd-at", **words, data__crop_area="1/4")
    assert usual.identity() != wider.identity() and usual.identity() != recipe("pgd-at").identity()
    assert usual.identity() == recipe("pgd-at", **words, data__crop_area=0.08).identity()
    with pytest.raises(ValueError, match="crop_area is for augment = 'resized-crop-flip' or 'resized-crop', not for"):
        Data(name="fake", validation=0, augment="crop", batch=8, crop_area=0.5)
    with pytest.raises(ArdbenchError, match="mirrored digit of digits is no digit: choose 'resized-crop' or 'none'"):
        data.check_augment(data.info("digits"), "resized-crop-flip")


def test_a_recipe_trains_by_resized_crops(tmp_path: Path) -> None:
    sets = ("--set", "data.augment=resized-crop", "--set", "data.crop_area=1/4", "--set", "data.train_images=100")
    line = ("train", "pgd-at-digits", "--student", "resnet8-tiny", "--epochs", 1, "--runs", tmp_path, "--device", "cpu")
    assert (said := call(*line, *sets, "--set", "attack.steps=1")).exit_code == 0, said.stderr
    refused = call(*line, "--set", "data.crop_area=0.25")
    assert refused.exit_code == 2 and "crop_area is for augment = 'resized-crop-flip'" in refused.stderr
