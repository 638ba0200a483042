"""Networks of timm and torchvision as ours: `timm:NAME?key=value&key=value`, `torchvision:NAME?...`.

The library builds them, without pretrained weights; classes, channels and, where a network asks for it, the side of the
images come from the data set. `stem=small` is ours: a first convolution of 3x3 that keeps the size, and no pooling after it.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ardbench.errors import ArdbenchError, unknown
from ardbench.models.names import split
from ardbench.models.network import Network
from ardbench.untrusted import PARAMETERS_LIMIT

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo

SMALL = 64
"""Sides up to which a stem that was made for ImageNet leaves little of an image."""
STEMS = (
    "conv1", "conv1.0", "conv_stem", "features.0.0", "features.conv0", "layers.0", "stem.0", "stem.0.0", "stem.0.conv",
    "stem.conv",
)  # fmt: skip
"""Where networks of the families that know `stem=small` have their first convolution."""
DROPS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath", "DropBlock2d", "StochasticDepth")
"""Modules of torch and the libraries that drop at random while a network trains."""
POOLS = ("maxpool", "features.pool0")
"""Where they pool after it."""
WARNING = ("googlenet", "inception_v3")
"""Networks of torchvision that ask to be told whether they draw their weights."""
OF_THE_DATA = ("num_classes", "in_chans", "in_channels")
"""Options that the data set gives."""
NO_OPTIONS = ("self", "device", "dtype")
SIDES = ("img_size", "image_size", "input_size")
"""What constructors call the side of the images."""
CLASSIFIERS = ("fc", "classifier", "head", "heads")
"""Where torchvision's networks have theirs."""


class LibraryNetwork(Network):
    """A library's network: its body gives the features, its classifier is the head.

    Args:
        body: gives features (b, d) of normalised pixels.
        head: the classifier, taken out of it.
    """

    def __init__(self, info: DatasetInfo, normalise: bool, body: nn.Module, head: nn.Linear) -> None:
        super().__init__(info, normalise)
        self.body, self.head = body, head

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, d) of pixels x (b, C, H, W) in [0, 1]."""
        features: Tensor = self.body(self.normalise(x))
        return features


def build(name: str, info: DatasetInfo, normalise: bool) -> LibraryNetwork:
    """Return a freshly initialised network of a library, drawn from torch's global generator.

    Args:
        name: LIBRARY:NAME or LIBRARY:NAME?key=value&key=value.

    Raises:
        ArdbenchError: no such network or option, one that does not take images of this size, or whose classifier is no single
            linear layer.
    """
    if torch.get_default_device().type != "meta":
        check(name, info)  # before weights take memory
    library, model, options = split(name)
    stem = options.pop("stem", "")
    if stem not in ("", "small"):
        raise unknown("stem", stem, ["small"])
    check_listed(library, model)
    accepted = _accepted(library, model)
    _check_options(f"{library}:{model}", options, accepted)
    sides = {side: info.size for side in SIDES if side in accepted and side not in options}
    made = _made(name, lambda: LIBRARIES[library](model, info.channels, info.num_classes, sides | options))
    if stem:
        _shrink(made, name)
    notes = _without_dropout(name, made)
    whole = _said(made, info)
    path = _classifier(made, name, info.num_classes)
    head = made.get_submodule(path)
    assert isinstance(head, nn.Linear)
    made.set_submodule(path, nn.Identity())
    net = LibraryNetwork(info, normalise, made, head)
    features = _said(made, info)
    with torch.no_grad():
        same = whole is None or (features is not None and torch.allclose(whole, head(features), equal_nan=True))
    if not same:
        raise ArdbenchError(
            f"{name} does more with its features than one linear layer, as with several heads: choose another."
        )
    net.notes = (*notes, *_about_stem(name, made, info, accepted, options if not stem else {"stem": stem}))
    return net


def _check_options(name: str, options: dict[str, Any], accepted: tuple[str, ...]) -> None:
    """Refuse options that the network has not, and those that are not for a name to say.

    Raises:
        ArdbenchError: with the nearest option.
    """
    for key, value in options.items():
        if key in OF_THE_DATA:
            raise ArdbenchError(f"{name}: {key} comes from the data set: leave it out of the name.")
        if key not in accepted:
            raise unknown(f"option of {name}:", key, ["stem", *(set(accepted) - set(OF_THE_DATA))])
        if ("drop" in key or key == "stochastic_depth_prob") and value:
            raise ArdbenchError(
                f"{name}: {key}={value} draws random numbers, which a run that is resumed could not draw again: leave it out."
            )


@cache
def _accepted(library: str, model: str) -> tuple[str, ...]:
    """Return the options of a network: what the constructor of its class takes by name, and nothing of the library's loader."""
    with torch.device("meta"):
        kind = type(_made(model, lambda: LIBRARIES[library](model, 3, 10, {})))
    inits = [
        vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base) and base not in (nn.Module, object)
    ]
    found = [one for init in inits for one in inspect.signature(init).parameters.values()]
    return tuple(
        dict.fromkeys(one.name for one in found if one.kind is not one.VAR_KEYWORD and one.name not in NO_OPTIONS)
    )


def _without_dropout(name: str, made: nn.Module) -> list[str]:
    """Switch off what a network drops at random by default, and say so."""
    found = False
    for one in made.modules():
        for rate in ("p", "drop_prob"):
            if type(one).__name__ in DROPS and getattr(one, rate, None):
                setattr(one, rate, 0.0)
                found = True
    return [f"{name} trains without its dropout, which a run that is resumed could not draw again."] if found else []


@torch.no_grad()
def _said(made: nn.Module, info: DatasetInfo) -> Tensor | None:
    """Return what a network says of two grey images, or None where that is no tensor, or has no numbers."""
    device = next(made.parameters()).device
    if device.type == "meta":
        return None
    try:
        said = made.eval()(torch.full((2, info.channels, info.size, info.size), 0.5, device=device))
    except Exception:  # of the library's code: `check` says what it was
        return None
    finally:
        made.train()
    return said if isinstance(said, Tensor) else None


def _about_stem(
    name: str, made: nn.Module, info: DatasetInfo, accepted: tuple[str, ...], options: dict[str, Any]
) -> list[str]:
    """Return what is to be said of how a network looks at small images."""
    patch, fitting = getattr(getattr(made, "patch_embed", None), "patch_size", 0), max(2, info.size // 8)
    patch = patch[0] if isinstance(patch, tuple) else patch
    if info.size > SMALL or {"stem", "patch_size"} & options.keys():
        return []
    if _first(made) is not None:
        option = "stem=small"
    elif "patch_size" in accepted and patch > fitting:
        option = f"patch_size={fitting}"
    else:
        return []
    return [
        f"{name} has a stem that was made for ImageNet, on images of {info.size}x{info.size}: {name}"
        f"{'&' if '?' in name else '?'}{option} keeps more of them."
    ]


@cache
def check(name: str, info: DatasetInfo) -> None:
    """Refuse a library's network that gives no logits (b, K) of the data set's images; it is built without weights.

    Raises:
        ArdbenchError: as `build`, it answers otherwise, or is larger than any machine.
    """
    with torch.device("meta"), torch.no_grad():
        net = build(name, info, False).train()
        if (parameters := sum(one.numel() for one in net.parameters())) > PARAMETERS_LIMIT:
            raise ArdbenchError(
                f"{name} has {parameters:.3g} parameters, and a network here {PARAMETERS_LIMIT} at most."
            )
        try:
            said = net.features(torch.empty(2, info.channels, info.size, info.size))
            said = net.head(said) if isinstance(said, Tensor) else said
        except Exception as error:  # of the library's code, such as of images that are too small
            why = str(error).strip().partition("\n")[0]
            raise ArdbenchError(
                f"{name} takes no images of {info.channels}x{info.size}x{info.size} ({type(error).__name__}: {why}): choose "
                "another network, another size of images, or an option of its own behind a ?."
            ) from None
    wanted = (2, info.num_classes)
    if not isinstance(said, Tensor) or tuple(said.shape) != wanted:
        given = tuple(said.shape) if isinstance(said, Tensor) else f"{type(said).__name__}, which is no tensor,"
        raise ArdbenchError(
            f"{name} gives {given} for 2 images, and a network here gives logits {wanted}: choose another, or an option that "
            "leaves one output, such as ?aux_logits=false."
        )


def names(pattern: str) -> list[str]:
    """Return the networks of a library that a pattern fits, such as timm:mobilenetv3* or timm:resnet*?stem=small.

    Raises:
        ArdbenchError: none does.
    """
    library, _, wanted = pattern.partition(":")
    if options := re.search(r"\?\w+=.*", wanted):
        wanted = wanted[: options.start()]
    query = options.group() if options else ""
    found = [f"{library}:{name}{query}" for name in _known(library) if fnmatch.fnmatchcase(name, wanted)]
    if not found:
        raise unknown(f"network of {library}", wanted, _known(library))
    return found


def check_listed(library: str, model: str) -> None:
    """Refuse a network that a library has not, with the nearest of its own."""
    if model not in _known(library):
        raise unknown(f"network of {library}", model, _known(library))


@cache
def _known(library: str) -> list[str]:
    if library == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return [
        name for name in models.list_models() if models.get_model_builder(name).__module__.count(".") == 2
    ]  # not of detection, segmentation, video


def _timm(model: str, channels: int, classes: int, options: dict[str, Any]) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(model, pretrained=False, in_chans=channels, num_classes=classes, **options)
    return made


def _torchvision(model: str, channels: int, classes: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if isinstance(side := options.get("input_size"), int):
        options = options | {"input_size": (side, side)}
    if model in WARNING:
        options = {"init_weights": True} | options
    made: nn.Module = models.get_model(model, weights=None, num_classes=classes, **options)
    place, first = next((place, one) for place, one in made.named_modules() if isinstance(one, nn.Conv2d))
    if first.in_channels != channels:
        made.set_submodule(place, _like(first, in_channels=channels))
    return made


LIBRARIES: dict[str, Callable[[str, int, int, dict[str, Any]], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}
"""Library -> what builds (name, channels, classes, options) without pretrained weights."""


def _made(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Return what a library makes, or say in a sentence what it said."""
    try:
        try:
            return make()
        except NotImplementedError:  # it draws weights by numbers, which the meta device has not
            with torch.device("cpu"):
                made = make()
            return made.to(torch.get_default_device())
    except (
        Exception
    ) as error:  # of the library's code: an option that the network has not, a size that it does not take
        why = str(error).strip().partition("\n")[0][:300]
        raise ArdbenchError(
            f"{name} cannot be built ({type(error).__name__}: {why}): change what stands behind the ?."
        ) from None


def _classifier(net: nn.Module, name: str, classes: int) -> str:
    """Return the path of the one linear layer that gives the logits.

    Raises:
        ArdbenchError: there are several, or it is none.
    """
    if callable(asked := getattr(net, "get_classifier", None)):
        found = asked()
        if isinstance(found, tuple | list):
            raise ArdbenchError(f"{name} has {len(found)} heads, and a network here has one: choose another.")
        places = [place for place, one in net.named_modules() if one is found]
    else:
        below = next((place for place in CLASSIFIERS if hasattr(net, place)), "")
        linear = [place for place, one in net.named_modules() if isinstance(one, nn.Linear) and place.startswith(below)]
        places = linear[-1:]
    layer = net.get_submodule(places[0]) if places else None
    if not isinstance(layer, nn.Linear) or layer.out_features != classes:
        kind = type(layer).__name__ if layer is not None else "no linear layer"
        raise ArdbenchError(
            f"{name} classifies by {kind}, and a network here by a single linear layer: choose another."
        )
    return str(places[0])


def _first(net: nn.Module) -> str | None:
    """Return where the first convolution of a stem that can be made small is, if it halves the size and the family is known."""
    place = next((place for place, one in net.named_modules() if isinstance(one, nn.Conv2d)), "")
    conv = net.get_submodule(place)
    halves = (
        isinstance(conv, nn.Conv2d) and conv.stride != (1, 1) and conv.stride != conv.kernel_size
    )  # these are patches
    return place if place in STEMS and halves else None


def _shrink(net: nn.Module, name: str) -> None:
    """Let the first convolution be one of 3x3 that keeps the size, and drop the pooling after it.

    Raises:
        ArdbenchError: the family has no such stem.
    """
    place = _first(net)
    if place is None:
        raise ArdbenchError(
            f"{name} does not begin with a convolution of stride 2, which is what stem=small changes: leave it out."
        )
    conv = net.get_submodule(place)
    assert isinstance(conv, nn.Conv2d)
    net.set_submodule(place, _like(conv, kernel_size=3, stride=1, padding=1))
    for pool in POOLS:
        parent, _, last = pool.rpartition(".")
        if (not parent or hasattr(net, parent)) and hasattr(net.get_submodule(parent), last):
            net.set_submodule(pool, nn.Identity())


def _like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    """Return a new plain convolution that differs from another in what is said."""
    same = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    words: dict[str, Any] = {name: getattr(conv, name) for name in same} | {"bias": conv.bias is not None}
    made = nn.Conv2d(**words | changes)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
