"""The zoo: networks that others trained, and robust teachers of our own, as data of `zoo.toml`. Torch-free."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from datetime import date
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ardbench import data
from ardbench.config import Section, Threat
from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError, unknown

PREFIX = "zoo:"
Count = Annotated[int, Field(ge=0)]


class Measured(Section):
    """An accuracy that was measured on the entry's file.

    Args:
        protocol, version: how.
        n: test images, the class-balanced subset where it is not all of them.
        correct: of these n.
        within: how many images a measurement on another device may differ by.
    """

    protocol: str
    version: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    correct: Count
    within: Count
    date: date


class Entry(Section):
    """A network of the zoo.

    Args:
        model: the architecture; `size` is the side of the images it sees, where that is not the data set's.
        dataset: what it was trained on.
        threat: the ball it was trained for; None: clean images.
        by: who trained it, and where that is published.
        get: what to download and from where, in words.
        file: its name below a folder of teachers, or below `package`'s folder.
        package: an installed package that carries the file; ardbench itself carries the small ones of our own.
        sha256: of the file, where another one under its name would be none; empty where it is downloaded as it comes.
        mean, std: of the input, where the network normalises by numbers that its file does not hold.
        measured: on the file, none where we have not seen it.
    """

    name: str
    model: str
    dataset: str
    threat: Threat | None = None
    by: str
    get: str
    file: str
    package: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    size: Annotated[int, Field(ge=1)] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    measured: tuple[Measured, ...] = ()

    @property
    def info(self) -> DatasetInfo:
        """The images that it sees and the classes that it knows."""
        facts = data.info(self.dataset)
        return replace(facts, size=self.size or facts.size, mean=self.mean or facts.mean, std=self.std or facts.std)

    @property
    def path(self) -> Path:
        """Where the file is; where it belongs, if it is nowhere."""
        checkout = Path(str(resources.files("ardbench"))).parent / "results" / "teachers"
        folders = [checkout, folder()]
        package = find_spec(self.package) if self.package else None  # finding imports nothing: torch stays out
        if package is not None:
            folders[:0] = [Path(place) for place in package.submodule_search_locations or ()]
        paths = [place / self.file for place in folders]
        return next((path for path in paths if path.is_file()), paths[-1])

    @property
    def absence(self) -> str:
        """The sentence for a file that is not there."""
        return f"{PREFIX}{self.name} is not here: get {self.get}, and put it at {self.path}."


def folder() -> Path:
    """Return the folder of downloaded teachers: $ARDBENCH_TEACHERS, else `teachers` where one stands."""
    return Path(os.environ.get("ARDBENCH_TEACHERS") or "teachers").expanduser()


def entry(source: str) -> Entry:
    """Return the entry that `zoo:NAME` names.

    Raises:
        ArdbenchError: there is none of that name.
    """
    name = source.removeprefix(PREFIX)
    if name not in ENTRIES:
        raise unknown("teacher of the zoo", name, ENTRIES)
    return ENTRIES[name]


def present(source: str) -> Entry:
    """Return the entry that `zoo:NAME` names, whose file is here.

    Raises:
        ArdbenchError: it is not, with what to download and where to put it.
    """
    found = entry(source)
    if not found.path.is_file():
        raise ArdbenchError(found.absence)
    return found


def _read() -> dict[str, Entry]:
    text = (resources.files("ardbench.models") / "zoo.toml").read_text(encoding="utf-8")
    return {name: Entry.model_validate({"name": name, **table}) for name, table in tomllib.loads(text).items()}


ENTRIES = _read()
