"""The views of an image under augmentation: how many there are, their numbers, and the images that they show."""

from __future__ import annotations

import torch
from torch import Tensor


def count_views(augment: str, pad: int) -> int:
    """Return how many views an image has."""
    return {"crop-flip": 2, "crop": 1}[augment] * (2 * pad + 1) ** 2 if augment != "none" else 1


def number_views(view: Tensor, augment: str, pad: int) -> Tensor:
    """Return the number (b,) of each view (b, 3), from 0 to `count_views` - 1."""
    dy, dx, flip = view.unbind(1)
    if augment == "none":
        return torch.zeros_like(dy)
    return (flip * (2 * pad + 1) + dy) * (2 * pad + 1) + dx


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


def _within(place: Tensor, size: int) -> Tensor:
    return (place >= 0) & (place < size)
