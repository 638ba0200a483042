"""What `ardbench export` writes beside the weights, read from folders that anybody may have made. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ardbench import data, models, plugins
from ardbench.config import Threat
from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError
from ardbench.models.normalisation import Normalisation
from ardbench.models.sealed import facts_of
from ardbench.runs import EXPORT, Run, checked, is_checkpoint, read_json, sha256_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Numbers = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


class Normalised(BaseModel):
    """What the network subtracts from its input, and divides it by."""

    mean: Numbers
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]


class Export(BaseModel):
    """An exported network, as its config.json describes it."""

    architecture: str
    dataset: str
    normalise: Normalised | None
    sha256: str
    run: str = ""
    checkpoint: str = ""
    recipe: dict[str, Any] = {}

    @property
    def info(self) -> DatasetInfo:
        """The data set, with the numbers that the network normalises by."""
        facts = data.info(self.dataset)
        return replace(facts, mean=self.normalise.mean, std=self.normalise.std) if self.normalise else facts

    @property
    def threat(self) -> Threat | None:
        """The threat that it was to be measured under, where its recipe says it."""
        try:
            return Threat.model_validate(self.recipe.get("evaluation"))
        except ValidationError:
            return None


_EXPORT = TypeAdapter(Export)


def export_in(folder: Path) -> Export | None:
    """Return what config.json of an exported folder says, or None where the folder is none: hubs keep such files too.

    Raises:
        ArdbenchError: it calls itself an export and is damaged, or of an architecture or data set that there is none of.
    """
    path = folder / CONFIG
    document = read_json(path) if path.is_file() else {}
    if document.get("format") != EXPORT:
        return None
    found: Export = checked(_EXPORT, document, path, "description of an exported network", "export it again")
    if isinstance(wanted := found.recipe.get("outside", {}), dict):
        plugins.check({str(key): str(sha256) for key, sha256 in wanted.items()}, str(folder))
    wrong = not models.known(found.architecture) or not data.known(found.dataset)
    channels = {len(numbers) for numbers in vars(found.normalise).values()} if found.normalise else set[int]()
    if wrong or not channels <= {found.info.channels}:
        raise ArdbenchError(
            f"{path} describes no network of this ardbench ({found.architecture[:100]} on {found.dataset[:100]}): export it "
            "again, or install the version that did."
        )
    return found


def intact(folder: Path, export: Export) -> Path:
    """Return the file of an exported network's weights.

    Raises:
        ArdbenchError: it is gone, damaged or replaced.
    """
    path = folder / WEIGHTS
    if not path.is_file() or sha256_of(path) != export.sha256:
        raise ArdbenchError(f"{path} is not the file that {CONFIG} describes: copy or download both again.")
    return path


def owner(file: Path) -> Run | Export | None:
    """Return the run or the export that a file of weights is of, by what lies beside it; None for a file of others.

    A config.json of somebody else's, such as one of a model hub, says nothing here.
    """
    if not (file.parent / CONFIG).is_file() or file.suffix != ".safetensors":
        return None
    if file.name == WEIGHTS:
        return export_in(file.parent)
    if not is_checkpoint(file.stem) or not {"recipe", "identity"} <= read_json(file.parent / CONFIG).keys():
        return None
    return Run.open(file.parent)


def recorded(file: Path) -> tuple[bool, Normalisation | None]:
    """Return whether it is written down by what the network in a file normalises its inputs, and what that is.

    A run or an export says it beside the file, and one of ours that was copied away from them in its metadata. None means
    that nothing is said, or with True that nothing is normalised.
    """
    found, facts = owner(file), facts_of(file)
    if isinstance(found, Run):
        dataset, normalises = found.recipe.data.name, found.recipe.data.normalise
    elif found is not None:
        dataset, normalises = found.dataset, found.normalise is not None
    elif {"dataset", "normalise"} <= facts.keys() and data.known(facts["dataset"]):
        dataset, normalises = facts["dataset"], facts["normalise"] == "true"
    else:
        return False, None
    info = found.info if isinstance(found, Export) else data.info(dataset)
    return True, Normalisation(info.mean, info.std) if normalises else None
