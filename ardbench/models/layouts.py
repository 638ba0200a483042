"""The names that others give to weights, told as ours: nesting, wrappers, heads, input normalisation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

WRAPPERS = frozenset(
    (
        "module",
        "_orig_mod",
        "model",
        "net",
        "network",
        "backbone",
        "basic_net",
        "1",
        "student",
        "teacher",
        "peer",
        "ema",
        "ema_model",
    )
)
"""First components that a wrapper adds to every name: DataParallel, torch.compile, attack and normalising modules."""

UNUSED = re.compile(r"n_averaged|sub_block1\..*|.*\.num_batches_tracked")
"""Weights no forward reads: the counter of AveragedModel, WideResNet's spare first block in TRADES' files, counters."""

RULES = (
    (re.compile(r"(?:linear|fc|classifier|logits|output)\.(weight|bias)"), r"head.\1"),
    (re.compile(r"(.*)\.downsample\.(.*)"), r"\1.shortcut.\2"),
)
"""Foreign name -> ours, used where the network has the new name and not the old one."""

_NORMALISER = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}


def networks_in(payload: object) -> dict[str, State]:
    """Return every network's weights found in a loaded checkpoint, by the part of it that holds them ("" is all of it).

    A network is a mapping with at least one tensor called `*.weight`; what else such a mapping holds is left out.
    """
    found: dict[str, State] = {}
    for part, state in _walk(payload, ""):
        named = _name_normaliser(state)
        owners = {key.split(".")[0] for key in named if "." in key and not key.startswith("normalise.")}
        if len(owners) > 1 and owners <= WRAPPERS:  # several networks side by side, as in Lightning's files
            for owner in sorted(owners):
                inside = {key: tensor for key, tensor in named.items() if key.startswith(f"{owner}.")}
                found[f"{part}.{owner}".lstrip(".")] = strip_wrappers(inside)
        else:
            found[part] = strip_wrappers(named)
    return found


def _walk(payload: object, path: str) -> Iterator[tuple[str, State]]:
    """Yield (dotted path, weights) of every network in nested mappings."""
    if not isinstance(payload, Mapping):
        return
    state = {key: value for key, value in payload.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if any(key.endswith(".weight") for key in state):
        yield path, state
        return
    for key, value in payload.items():
        yield from _walk(value, f"{path}.{key}".lstrip("."))


def _name_normaliser(state: Mapping[str, Tensor]) -> State:
    """Return the weights with an input mean and deviation, wherever they sit, called normalise.mean and normalise.std."""
    named: State = {}
    for key, tensor in state.items():
        role = _NORMALISER.get(key.rpartition(".")[2])
        named[f"normalise.{role}" if role and tensor.numel() <= 4 else key] = tensor
    return named


def strip_wrappers(state: State) -> State:
    """Return the weights without first components that all names share and only wrappers have."""
    while True:
        dotted = [key for key in state if "." in key and not key.startswith("normalise.")]
        first = {key.split(".")[0] for key in dotted}
        if len(first) != 1 or not first <= WRAPPERS:
            return state
        (prefix,) = first
        state = {key.removeprefix(f"{prefix}."): tensor for key, tensor in state.items()}


def rename(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights under the names of the network that wants them, without those that no forward reads."""
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        new = key if key in wanted else _ours(key, wanted, state)
        if new in wanted or not UNUSED.fullmatch(new):
            renamed[new] = value
    return renamed


def _ours(key: str, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the name that the network has for a foreign one, or the foreign one where it has none."""
    for pattern, replacement in RULES:
        new = pattern.sub(replacement, key) if pattern.fullmatch(key) else key
        if new != key and new in wanted and new not in given:
            return new
    return key
