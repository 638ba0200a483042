"""Networks of RobustBench's model zoo, by way of its own package, which is optional and loaded only here.

Source: Croce et al., "RobustBench: a standardized adversarial robustness benchmark", NeurIPS 2021 (data sets track).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from ardbench.errors import ArdbenchError
from ardbench.models.zoo import folder as teachers_folder

THREATS = {"linf": "Linf", "l2": "L2"}
"""Our names of norms -> RobustBench's."""


def folder() -> Path:
    """Return where RobustBench keeps what it downloads: DATASET/THREAT/NAME.pt below it."""
    return teachers_folder() / "robustbench"


def load(name: str, dataset: str) -> nn.Module:
    """Return a network that takes pixels in [0, 1], on the CPU, in eval mode; it is downloaded the first time.

    Args:
        name: THREAT/NAME, both as RobustBench calls them, such as Linf/Rade2021Helper_R18_ddpm.
        dataset: as both call it.

    Raises:
        ArdbenchError: the package is not installed, or does not know or cannot get the network.
    """
    threat, _, model = name.partition("/")
    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise ArdbenchError(
            f"robustbench:{model} needs the package robustbench, which cannot be imported ({error}): docs/teachers.md "
            "says how to install it."
        ) from None
    try:
        net: nn.Module = load_model(model_name=model, model_dir=folder(), dataset=dataset, threat_model=threat)
    except Exception as error:  # a package of others, which names no errors of its own
        raise ArdbenchError(
            f"RobustBench gave no {model} for {dataset} and {threat} ({type(error).__name__}: {error}): choose a name of "
            "its model zoo for this data set and threat."
        ) from None
    return net.cpu().eval()


def digest(net: nn.Module) -> str:
    """Return the sha256 of a network's weights and buffers: names in order, each with its bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
