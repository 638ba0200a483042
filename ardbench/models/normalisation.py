"""By which numbers a network's inputs are normalised, as people type them: FILE:ARCH+mean=NUMBERS+std=NUMBERS. Torch-free."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from ardbench import data
from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError

FORM = "+mean=NUMBERS+std=NUMBERS"
IN_CODE = frozenset({"wrn-28-10-swish", "wrn-70-16-swish", "wrn-94-16-swish"})
"""Architectures whose published networks all normalise in code, so that no file of weights holds by which numbers."""


@dataclass(frozen=True)
class Normalisation:
    """A mean to subtract and a deviation to divide by, of pixels in [0, 1]: one number, or one a channel.

    Numbers for pixels up to 255, known by a mean above 1, become those for pixels in [0, 1]; equal ones become one.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        of_bytes = max(self.mean) > 1
        for name in ("mean", "std"):
            numbers = tuple(number / 255 if of_bytes else number for number in getattr(self, name))
            object.__setattr__(self, name, numbers[:1] if len(set(numbers)) == 1 else numbers)

    def __str__(self) -> str:
        return "".join(f"+{name}={typed(numbers)}" for name, numbers in vars(self).items())

    def of(self, info: DatasetInfo) -> DatasetInfo:
        """Return the data set with these numbers, one a channel.

        Raises:
            ArdbenchError: there are more or fewer numbers than channels.
        """
        for name, numbers in vars(self).items():
            if len(numbers) not in (1, info.channels):
                raise ArdbenchError(
                    f"A {name} of {len(numbers)} numbers ({typed(numbers)}) fits no image of {info.name}, which has "
                    f"{info.channels} channel{'s' * (info.channels > 1)}: give {'1 or ' * (info.channels > 1)}{info.channels}."
                )
        mean, std = (numbers * (info.channels // len(numbers)) for numbers in (self.mean, self.std))
        return replace(info, mean=mean, std=std)


def normalisation(mean: str | None, std: str | None) -> Normalisation | None:
    """Return what was typed as mean and deviation: numbers, a data set's name, or one of normalisation.toml.

    Raises:
        ArdbenchError: one stands without the other, or is neither a name nor finite numbers (above 0 for a deviation).
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, lacking = ("mean", "std") if std is None else ("std", "mean")
        raise ArdbenchError(f"A {given} was given and no {lacking}: inputs are normalised by both, so give both.")
    return Normalisation(_numbers("mean", mean), _numbers("std", std))


def named(name: str) -> Normalisation:
    """Return the normalisation of a name, a data set's or one of normalisation.toml."""
    found = normalisation(name, name)
    assert found is not None
    return found


def split_normalisation(text: str) -> tuple[str, Normalisation | None]:
    """Return ARCH and the normalisation of ARCH+mean=NUMBERS+std=NUMBERS.

    Raises:
        ArdbenchError: as `normalisation` does, and for any other word after a +.
    """
    arch, *words = text.split("+")
    said = dict(word.partition("=")[::2] for word in words)
    if len(said) != len(words) or not said.keys() <= {"mean", "std"}:
        raise ArdbenchError(f"{text!r} is no architecture with a normalisation: give {arch}{FORM}.")
    return arch, normalisation(said.get("mean"), said.get("std"))


def typed(numbers: Sequence[float]) -> str:
    """Return numbers as they are typed."""
    return ",".join(f"{number:.9g}" for number in numbers)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    if data.known(text):
        found: tuple[float, ...] = getattr(data.info(text), name)
        return found
    if text in NAMED:
        return NAMED[text][name]
    try:
        numbers = tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise ArdbenchError(
            f"{name} = {text!r} is neither a number, nor one a channel with commas between, nor a name: give such as "
            f"0.5, 0.49,0.48,0.45 or 1/255, or one of {', '.join((*NAMED, *data.DATASETS))}."
        ) from None
    if not all(math.isfinite(number) and (number > 0 or name == "mean") for number in numbers):
        raise ArdbenchError(f"{name} = {text!r} must be finite{'' if name == 'mean' else ' and above 0'}.")
    return numbers


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / (float(below) if slash else 1)


NAMED: dict[str, dict[str, tuple[float, ...]]] = {
    name: {part: tuple(numbers) for part, numbers in table.items()}
    for name, table in tomllib.loads(
        (resources.files("ardbench.models") / "normalisation.toml").read_text(encoding="utf-8")
    ).items()
}
"""Name -> mean and std."""
