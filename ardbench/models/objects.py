"""Networks that a caller hands over as objects: by what they are named, and whether they answer as a network must."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ardbench.errors import ArdbenchError
from ardbench.models.robustbench import digest

PLAIN = (bool, int, float, str, bytes, type(None))


def class_of(net: nn.Module) -> str:
    """Return the class of a network, with the module that it is in."""
    return f"{type(net).__module__}.{type(net).__qualname__}"


def sha256(net: nn.Module) -> str:
    """Return the sha256 of a network's weights and buffers."""
    return digest(net)


def identity(net: nn.Module) -> str:
    """Return the sha256 of a network's weights and class, and of what stands beside the weights.

    Two networks with one state dict may compute different things: the classes of their parts count, and so does every
    buffer that is not saved and every plain value or tensor that a part holds as an attribute. Code does not.
    """
    found = hashlib.sha256(f"{class_of(net)} {digest(net)}".encode())
    for name, module in net.named_modules():
        told = dict(sorted((key, value) for key, value in _facts(module)))
        found.update(f"{name} {class_of(module)} {told}".encode())
    return found.hexdigest()


def _facts(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield what a module holds beside what its state dict has, its modules and its mode, in words."""
    unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
    for name, value in (vars(module) | unsaved).items():
        if not name.startswith("_") and name != "training" and (said := _words(value)):
            yield name, said


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_words, value))}]"
    return repr(value) if isinstance(value, PLAIN) else ""


def device_of(net: nn.Module) -> torch.device:
    """Return where the first of a network's numbers lies; the CPU for one without any."""
    first = next((tensor for both in (net.parameters(), net.buffers()) for tensor in both), None)
    return torch.device("cpu") if first is None else first.device


def check_answers(net: nn.Module, x: Tensor, classes: int, exactly: bool = False) -> None:
    """Refuse a network that gives no logits (b, K), K >= classes, of pixels.

    Args:
        x: (b, C, H, W) in [0, 1], where the network is.
        exactly: K = classes.
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        with torch.no_grad():
            said = net.eval()(x)
    except Exception as error:  # of a stranger's code
        why = str(error).partition("\n")[0]
        raise ArdbenchError(
            f"{class_of(net)} cannot take images {tuple(x.shape)} ({type(error).__name__}: {why}): give a network of pixels "
            "(b, C, H, W) in [0, 1]."
        ) from None
    finally:
        for module, training in modes:
            module.training = training
    shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
    right = isinstance(said, Tensor) and said.dim() == 2 and len(said) == len(x) and said.shape[1] >= classes
    if not right or (exactly and said.shape[1] > classes):
        raise ArdbenchError(
            f"{class_of(net)} gives {shape} for {len(x)} images: a network gives logits ({len(x)}, {classes}), one a class."
        )
