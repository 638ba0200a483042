"""The views of an image under augmentation: how they are drawn, how many there are, their numbers, and what they show.

A view is (dy, dx, flip), a crop of the image padded with zeros, or (top, left, height, width, flip), a part of the image made
as large as it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ardbench.data import RESIZED, DatasetInfo

TRIES = 10
"""A crop whose random shape does not fit into the image is drawn again; after so many it is the whole image."""
RATIO = 4 / 3
"""Largest width over height of a resized crop, and height over width."""


def draw_views(
    augment: str, area: float, rows: int, info: DatasetInfo, source: torch.Generator | None, device: torch.device
) -> Tensor:
    """Return the views of so many images, (rows, 3) or (rows, 5) int64.

    Args:
        augment: one of `AUGMENTS`.
        area: the least share of an image's area that a resized crop shows.
    """
    if augment in RESIZED:
        view = _boxes(area, rows, info.size, source, device)
    else:
        view = torch.full((rows, 3), info.pad, device=device)
        view[:, 2] = 0
        if augment != "none":
            view[:, :2] = torch.randint(0, 2 * info.pad + 1, (rows, 2), generator=source, device=device)
    if augment.endswith("flip"):
        view[:, -1] = torch.randint(0, 2, (rows,), generator=source, device=device)
    return view


def _boxes(area: float, rows: int, side: int, source: torch.Generator | None, device: torch.device) -> Tensor:
    """Return parts (top, left, height, width, 0) of square images: of a uniform share of the area from `area` to all of it, and
    of a ratio of the sides whose logarithm is uniform."""
    share, shape = torch.rand(rows, TRIES, 2, generator=source, device=device, dtype=torch.float64).unbind(2)
    pixels, ratio = (area + (1 - area) * share) * side**2, RATIO ** (2 * shape - 1)
    tries = torch.stack([(pixels / ratio).sqrt(), (pixels * ratio).sqrt()], 2).round().long()  # height and width
    fits = ((tries >= 1) & (tries <= side)).all(2)
    first = fits.int().argmax(1)
    sides = torch.where(fits.any(1, keepdim=True), tries[torch.arange(rows, device=device), first], side)
    corner = torch.rand(rows, 2, generator=source, device=device, dtype=torch.float64) * (side - sides + 1)
    return torch.cat([corner.long(), sides, torch.zeros_like(sides[:, :1])], 1)


def count_views(augment: str, pad: int) -> int | None:
    """Return how many views an image has; None where there are too many for one to come back often."""
    if augment in RESIZED:
        return None
    return {"crop-flip": 2, "crop": 1}[augment] * (2 * pad + 1) ** 2 if augment != "none" else 1


def number_views(view: Tensor, augment: str, pad: int) -> Tensor:
    """Return the number (b,) of each view (b, 3), from 0 to `count_views` - 1."""
    dy, dx, flip = view.unbind(1)
    if augment == "none":
        return torch.zeros_like(dy)
    return (flip * (2 * pad + 1) + dy) * (2 * pad + 1) + dx


def shown(images: Tensor, rows: Tensor, view: Tensor, pad: int) -> Tensor:
    """Return some rows (b,) of uint8 images (N, C, H, W), each under its own view, as (b, C, H, W) in [0, 255]."""
    return crop_flip(images, rows, view, pad) if view.shape[1] == 3 else resized_crop(images, rows, view)


def crop_flip(images: Tensor, rows: Tensor, view: Tensor, pad: int) -> Tensor:
    """Return flip(crop(pad(image))) of some rows as one gather, each under its own view.

    Args:
        images: (N, C, H, W), contiguous.
        rows: (b,) int64.
        view: (b, 3) int64, (dy, dx, flip): the crop begins at row dy and column dx of the image padded with zeros.
        pad: zero pixels on every side.

    Returns:
        (b, C, H, W), of the type of `images`.
    """
    _, channels, height, width = images.shape
    dy, dx, flip = view.unsqueeze(-1).unbind(1)  # (b, 1) each
    across = torch.arange(width, device=images.device)  # (W,)
    down = torch.arange(height, device=images.device) + dy - pad  # (b, H)
    across = across + flip * (width - 1 - 2 * across) + dx - pad  # (b, W)
    inside = _within(down, height).unsqueeze(2) & _within(across, width).unsqueeze(1)  # (b, H, W)
    place = down.clamp(0, height - 1).unsqueeze(2) * width + across.clamp(0, width - 1).unsqueeze(1)  # (b, H, W)
    plane = rows.unsqueeze(1) * channels + torch.arange(channels, device=images.device)  # (b, C)
    flat = plane.view(-1, channels, 1, 1) * (height * width) + place.unsqueeze(1)  # (b, C, H, W)
    return torch.take(images, flat) * inside.unsqueeze(1)


def resized_crop(images: Tensor, rows: Tensor, view: Tensor) -> Tensor:
    """Return parts of square images made as large as these, bilinearly, each under its own view.

    A part is never larger than the image, so nothing is to be smoothed before. Numbers are whole until the last division:
    every device has the same.

    Args:
        images: (N, C, S, S) uint8, contiguous.
        rows: (b,) int64.
        view: (b, 5) int64, (top, left, height, width, flip).

    Returns:
        (b, C, S, S) fp32 in [0, 255].
    """
    _, channels, side, _ = images.shape
    top, left, height, width, flip = view.unsqueeze(-1).unbind(1)  # (b, 1) each
    along = torch.arange(side, device=images.device)  # (S,)
    down, across = _taps(along, top, height, side), _taps(along + flip * (side - 1 - 2 * along), left, width, side)
    plane = rows.unsqueeze(1) * channels + torch.arange(channels, device=images.device)  # (b, C)
    begin = plane.view(-1, channels, 1, 1) * side**2
    total = torch.zeros((), dtype=torch.int32, device=images.device)
    for y, share in down:
        for x, part in across:
            place = y.unsqueeze(2) * side + x.unsqueeze(1)  # (b, S, S)
            weight = (share.unsqueeze(2) * part.unsqueeze(1)).int().unsqueeze(1)
            total = total + torch.take(images, begin + place.unsqueeze(1)) * weight
    whole = torch.full(
        (), 4.0 * side**2, device=images.device
    )  # CUDA would multiply by the reciprocal of a number of the host
    return (total.float() / whole).clamp(max=255)  # of which rounding may make a little more


def _taps(along: Tensor, begin: Tensor, length: Tensor, side: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the two pixels (b, S) between which each of S lies in a part of an image, with their weights in 2S-ths.

    The i-th lies at (i + 1/2) length / S - 1/2 from the part's begin, in the middle of its share of it.
    """
    at = ((2 * along + 1) * length - side).clamp(min=0)  # in 2S-ths of a pixel, (b, S)
    low, weight = at // (2 * side), at % (2 * side)
    high = torch.minimum(low + 1, length - 1)
    return (begin + low, 2 * side - weight), (begin + high, weight)


def _within(place: Tensor, size: int) -> Tensor:
    return (place >= 0) & (place < size)
