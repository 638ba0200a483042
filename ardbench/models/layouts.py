"""The names that others give to weights, told as ours: nesting, prefixes, heads, input normalisation.

A network is found by what fits: a place in the file below which names and shapes are those of the architecture that is
wanted. No word of a name is known beforehand but those of `RULES`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor, nn

from ardbench.models.pickles import StandIn

State = dict[str, Tensor]
Shapes = Mapping[str, Size]

DEEP = 32
"""How deep mappings in a file, and the components of a name, are looked into."""
UNUSED = re.compile(r"n_averaged|sub_block1\..*|(.*\.)?num_batches_tracked")
"""Weights no forward reads: the counter of AveragedModel, WideResNet's spare first block in TRADES' files, counters."""
COUNTER = "num_batches_tracked"
"""BatchNorm's step counter, which no forward reads: it may be missing or extra."""

RULES = (
    (re.compile(r"(?:linear|fc|classifier|logits|output)\.(weight|bias)"), r"head.\1"),
    (re.compile(r"(.*)\.downsample\.(.*)"), r"\1.shortcut.\2"),
    (re.compile(r"(.+)"), r"body.\1"),
)
"""Foreign name -> ours, used where the network has the new name and not the old one."""

NORMALISER = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
"""Last component of a name -> its part in an input normalisation."""


@dataclass
class Fit:
    """A network that was found in a file.

    Args:
        place: where, such as "state_dict.student"; empty: the whole file.
        weights: under our names; complete where it fits.
        normalisations: the mean and the deviation of each input normalisation that stands before it, by place.
        numbers: single numbers beside or in it that belong to no layer.
        beside: other weights in the same mapping.
        behind: a component of its place that says that something without weights stood before it, as in a Sequential.
    """

    place: str
    weights: State
    normalisations: dict[str, State] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    behind: str = ""


def networks_in(payload: object) -> dict[str, State]:
    """Return every network's weights found in a loaded checkpoint, by the part of it that holds them ("" is all of it).

    A network is a mapping with at least one tensor called `*.weight`; what else such a mapping holds is left out.
    """
    found: dict[str, State] = {}
    seen, waiting = set[int](), [(payload, "", 0)]
    while waiting:
        one, place, depth = waiting.pop()
        if not isinstance(one, dict | list | tuple) or id(one) in seen or depth > DEEP:
            continue
        seen.add(id(one))  # shared parts would be walked again and again
        pairs = list(dict.items(one) if isinstance(one, dict) else enumerate(one))
        tensors = {
            key: tensor for key, value in pairs if isinstance(key, str) and (tensor := _tensor(value)) is not None
        }
        if any(key.endswith(".weight") for key in tensors):
            found[place] = tensors
        inner = [(value, f"{place}.{key}".lstrip("."), depth + 1) for key, value in pairs if isinstance(key, str | int)]
        waiting += reversed([one for one in inner if isinstance(one[0], dict | list | tuple)])
    return found


def _tensor(value: object) -> Tensor | None:
    """Return a value as plain numbers in memory, if that is what it is."""
    if isinstance(value, StandIn):
        return value.tensor()
    if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
        return None
    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    return value.detach() if plain and not value.is_complex() else None


def fits(networks: Mapping[str, State], wanted: Shapes, part: str = "") -> list[Fit]:
    """Return each network of a file whose names and shapes are the wanted ones, whatever its number of classes.

    Args:
        networks: as `networks_in` returns them.
        wanted: the names and shapes of the architecture.
        part: dotted components that stand in the place of the network, such as "ema" or "student.backbone".
    """
    found = []
    for place, state, prefix in _places(networks, sum(not key.endswith(COUNTER) for key in wanted), part):
        one = _fit(place, state, prefix, wanted, part)
        if not any(misfits({key: tensor.shape for key, tensor in one.weights.items()}, wanted)):
            found.append(one)
    return found


def nearest(networks: Mapping[str, State], wanted: Shapes, part: str = "") -> Fit | None:
    """Return what in a part of a file has most names of the wanted network, or None where there is no such part."""
    places = _places(networks, max(1, len(wanted) // 4), part)
    made = (_fit(place, state, prefix, wanted, part) for place, state, prefix in places)
    return max(made, key=lambda one: (len(one.weights.keys() & wanted.keys()), -len(one.weights)), default=None)


def misfits(given: Shapes, wanted: Shapes) -> tuple[list[str], list[str], list[str]]:
    """Return the names that are missing, unexpected, and of another shape, the number of classes left aside."""
    missing = [key for key in wanted if key not in given and not key.endswith(COUNTER)]
    unexpected = [key for key in given if key not in wanted]
    differing = [key for key in given if key in wanted and _body(key, given[key]) != _body(key, wanted[key])]
    return missing, unexpected, differing


def _body(key: str, shape: Size) -> tuple[int, ...]:
    """Return a shape without the number of classes that the last layer of a network has."""
    return (-1, *shape[1:]) if key in ("head.weight", "head.bias") else tuple(shape)


def _places(networks: Mapping[str, State], least: int, part: str) -> Iterator[tuple[str, State, str]]:
    """Yield (mapping, its weights, prefix) for every prefix that `least` names or more share, the empty one first."""
    for place, state in networks.items():
        counts = Counter(prefix for key in state for prefix in _prefixes(key))
        for prefix in ["", *(prefix for prefix, count in counts.items() if count >= least)]:
            if _within(part, f"{place}.{prefix}"):
                yield place, state, prefix


def _within(part: str, place: str) -> bool:
    return not part or f".{part}." in f".{place}."


def _prefixes(key: str) -> Iterator[str]:
    components = key.split(".", DEEP)[:-1]
    for depth in range(1, len(components) + 1):
        yield ".".join(components[:depth]) + "."


def _fit(place: str, state: State, prefix: str, wanted: Shapes, part: str) -> Fit:
    """Return what lies below a prefix under our names, and what stands around it."""
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    inner = {key: tensor for key, tensor in inside.items() if key in wanted or not _role(key, tensor)}
    layers, weights = _layers(inside), rename(inner, wanted)
    numbers = [key for key in weights if key not in wanted and weights[key].numel() == 1
               and key.rpartition(".")[0] not in layers]  # fmt: skip
    made = Fit(f"{place}.{prefix}".strip("."), {key: t for key, t in weights.items() if key not in numbers})
    made.numbers, layers = [prefix + key for key in numbers], _layers(state)
    for key, tensor in state.items():
        module, _, last = key.rpartition(".")
        under = key.startswith(prefix)
        if under and key.removeprefix(prefix) in inner:
            continue
        if role := _role(key, tensor):
            if under or _stands_before(module, prefix, layers):
                made.normalisations.setdefault(module, {})[role] = tensor
        elif tensor.numel() == 1 and last not in ("weight", "bias", COUNTER):
            made.numbers.append(key)
        elif not UNUSED.fullmatch(key) and _within(part, f"{place}.{key}"):
            made.beside.append(key)
    made.behind = _behind(prefix, state)
    return made


def _role(key: str, tensor: Tensor) -> str:
    """Return whether a tensor is the "mean" or the "std" of an input normalisation, by its name and size; "" for neither."""
    return NORMALISER.get(key.rpartition(".")[2], "") if tensor.numel() <= 4 else ""


def _layers(state: State) -> set[str]:
    """Return the modules that have weights, or whose parts have: all but those of single numbers and normalisations."""
    heavy = (key for key, tensor in state.items() if tensor.numel() > 1 and not _role(key, tensor))
    return {prefix[:-1] for key in heavy for prefix in _prefixes(key)}


def _stands_before(module: str, prefix: str, layers: set[str]) -> bool:
    """Return whether a normalisation in `module` is that of the network below `prefix`: around it, or beside it."""
    above = module.rpartition(".")[0]
    around = not module or prefix.startswith(f"{module}.")
    return around or (module not in layers and (not above or prefix.startswith(f"{above}.")))


def _behind(prefix: str, state: Mapping[str, Tensor]) -> str:
    """Return the component of a prefix that is a place in a sequence, not the first, where nothing lies in the first ones."""
    above = ""
    for component in prefix.split("."):
        earlier = (key.removeprefix(above).partition(".")[0] for key in state if key.startswith(above))
        if (
            component.isdecimal()
            and component.strip("0")
            and not any(one.isdecimal() and one != component for one in earlier)
        ):
            return f"{above}{component}"
        above += f"{component}."
    return ""


def rename(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights under the names of the network that wants them, without those that no forward reads."""
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        new = key if key in wanted else _ours(key, wanted, state)
        if new in wanted or not UNUSED.fullmatch(new):
            renamed[new] = value
    return _with_head(renamed, wanted)


def _ours(key: str, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the name that the network has for a foreign one, or the foreign one where it has none."""
    for pattern, replacement in RULES:
        new = pattern.sub(replacement, key) if pattern.fullmatch(key) else key
        if new != key and new in wanted and new not in given:
            return new
    return key


def _with_head(given: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights with the one layer that is left over as the head, where that alone is missing and it has its width."""
    missing = {key for key in wanted if key not in given and not key.endswith(COUNTER)}
    extra = [key for key in given if key not in wanted]
    owners = {key.rpartition(".")[0] for key in extra}
    if missing != {"head.weight", "head.bias"} or len(owners) != 1 or len(extra) != 2:
        return given
    (owner,) = owners
    weight, bias = given.get(f"{owner}.weight"), given.get(f"{owner}.bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != wanted["head.weight"][1]:
        return given
    moved = {f"{owner}.weight": "head.weight", f"{owner}.bias": "head.bias"}
    return {moved.get(key, key): value for key, value in given.items()}
