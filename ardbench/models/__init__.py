"""The networks: a literal table of names, and building one by its name. Importing this loads no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ardbench import plugins
from ardbench.errors import ArdbenchError
from ardbench.models import names

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo
    from ardbench.models.network import Network

MODELS: dict[str, str] = {
    "mobilenetv2": "ardbench.models.mobilenet:MobileNetV2",
    "preactresnet18": "ardbench.models.preactresnet:PreActResNet18",
    "preactresnet18-fast": "ardbench.models.preactresnet:PreActResNet18Fast",
    "preactresnet18-no-last-bn": "ardbench.models.preactresnet:PreActResNet18NoLastBN",
    "resnet8": "ardbench.models.resnet:resnet8",
    "resnet8-tiny": "ardbench.models.resnet:resnet8_tiny",
    "resnet18": "ardbench.models.resnet:resnet18",
    "resnet20": "ardbench.models.resnet:resnet20",
    "resnet56": "ardbench.models.resnet:resnet56",
    "vit-micro": "ardbench.models.vit:vit_micro",
    "vit-small": "ardbench.models.vit:vit_small",
    "vit-tiny": "ardbench.models.vit:vit_tiny",
    "wrn-16-2": "ardbench.models.wideresnet:wrn_16_2",
    "wrn-22-6": "ardbench.models.wideresnet:wrn_22_6",
    "wrn-28-10": "ardbench.models.wideresnet:wrn_28_10",
    "wrn-28-10-swish": "ardbench.models.wideresnet_swish:wrn_28_10_swish",
    "wrn-34-10": "ardbench.models.wideresnet:wrn_34_10",
    "wrn-34-20": "ardbench.models.wideresnet:wrn_34_20",
    "wrn-70-16": "ardbench.models.wideresnet:wrn_70_16",
    "wrn-70-16-swish": "ardbench.models.wideresnet_swish:wrn_70_16_swish",
    "wrn-94-16": "ardbench.models.wideresnet:wrn_94_16",
    "wrn-94-16-swish": "ardbench.models.wideresnet_swish:wrn_94_16_swish",
}
"""Name -> what builds it from (info, normalise)."""


@dataclass(frozen=True)
class ModelRow:
    """A line of `ardbench list models`: what a network costs on one image of a data set."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulates of one forward of one image; 1 MAC = 2 FLOP."""


def build(name: str, info: DatasetInfo, normalise: bool = False) -> Network:
    """Return a freshly initialised network for a data set, drawn from torch's global generator.

    Args:
        name: of `MODELS` or a plugin, or timm:NAME or torchvision:NAME, with options behind a ?.
        info: the data set whose images go in and whose classes come out.
        normalise: whether the first layer normalises by the data set's mean and deviation.

    Raises:
        ArdbenchError: for an unknown name, with the nearest one; for another's network that cannot be one of ours.
    """
    check_known(name)
    if names.of_library(name):
        net: Network = resolve_name("ardbench.models.library:build")(name, info, normalise)
    elif name in MODELS:
        net = resolve_name(MODELS[name])(info, normalise)
    else:
        net = resolve_name("ardbench.models.outside:build")(name, info, normalise)
    net.name = name
    return net


def known(name: str) -> bool:
    """Return whether a name is of a network that can be built; of a library's only its form is looked at."""
    return name in MODELS or names.of_library(name) or plugins.find("model", name) is not None


def check_known(name: str) -> None:
    """Refuse a name of no network, and options that have another form.

    Raises:
        ArdbenchError: with the nearest name.
    """
    if name.startswith(names.OBJECT):
        raise ArdbenchError(
            f"The network is an object of Python, of class {name.removeprefix(names.OBJECT)}, which has no name here: with one "
            "of that class, type ardbench.evaluate(RUN, model=net), or load the weights of the run into it, and give that."
        )
    if names.of_library(name):
        library, model, _ = names.split(name)
        if not names.stands_in_source(library, model):
            resolve_name("ardbench.models.library:check_listed")(library, model)
    elif not known(name):
        raise plugins.unknown("model", name, available(), "model")


def available() -> list[str]:
    """Return every network by name but those of libraries: ours, those of plugins and of installed packages."""
    return [*MODELS, *plugins.of("model")]


def describe_models(
    info: DatasetInfo, pattern: str = "*", tell: Callable[[str], None] = lambda text: None
) -> list[ModelRow]:
    """Return what each network costs on one image of the data set, the cheapest first.

    Args:
        pattern: of names, of a library where it begins like timm:mobilenetv3*; what takes no such images is left out.
        tell: hears of networks from outside that are broken.

    Raises:
        ArdbenchError: no name fits, or none of those that do takes the images.
    """
    from ardbench.models.cost import cost

    library = names.of_library(pattern)
    found = resolve_name("ardbench.models.library:names")(pattern) if library else fnmatch.filter(available(), pattern)
    if not found:
        raise plugins.unknown("model", pattern, available(), "model")
    rows, refused = [], list[str]()
    for name in found:
        try:
            one = plugins.find("model", name)
            rows.append(ModelRow(name, *(plugins.called(one, cost, name, info) if one else cost(name, info))))
        except ArdbenchError as error:  # of a library: another kind of classifier, or images that are too small
            refused.append(str(error))
            if one:
                tell(str(error))
    if not rows:
        raise ArdbenchError(refused[0])
    return sorted(rows, key=lambda row: row.macs)
