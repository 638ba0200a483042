"""What differs between two recipes or runs, and where each value comes from. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ardbench.errors import ArdbenchError
from ardbench.recipes import resolve
from ardbench.recipes.origins import every_value, origins
from ardbench.runs import Run

MACHINE = ("ardbench", "torch", "python", "device_name", "processes", "git_sha", "git_dirty")
"""What env.json tells that may move a number."""
NAMES = ("name", "title", "family")
"""Keys of a recipe that decide nothing."""
ABSENT = "absent"


@dataclass(frozen=True)
class Side:
    """A recipe or a run: its values by dotted key, where each comes from, and what only runs have, with its origin."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    of_run: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    def beside(self, other: Side) -> Side:
        """Return the side with what only runs have, if the other is a run as well."""
        if not (self.of_run and other.of_run):
            return self
        more = {key: value for key, (value, _) in self.of_run.items()}
        return Side(
            {**self.values, **more}, {**self.origins, **{key: where for key, (_, where) in self.of_run.items()}}
        )


@dataclass(frozen=True)
class Different:
    """One key whose values differ; None where a side has no such key."""

    key: str
    a: Any
    b: Any
    from_a: str
    from_b: str


def differences(a: str, b: str) -> list[Different]:
    """Return what differs between two recipes or runs, in the order of a recipe.

    Args:
        a, b: run directories, or recipes as `ardbench.recipes.resolve` takes them.

    Raises:
        ArdbenchError: one of them is neither.
    """
    one, other = side(a), side(b)
    first, second = one.beside(other), other.beside(one)
    keys = dict.fromkeys((*first.values, *second.values))
    return [
        Different(
            key, first.values.get(key), second.values.get(key), first.origins.get(key, ABSENT),
            second.origins.get(key, ABSENT),
        )
        for key in keys
        if (key in first.values) != (key in second.values) or first.values.get(key) != second.values.get(key)
    ]  # fmt: skip


def side(named: str) -> Side:
    """Return the values of a recipe or a run and where they come from."""
    if Path(named).is_dir():
        return _of_run(Run.open(Path(named)))
    recipe = resolve(named)
    values = {key: value for key, value in every_value(recipe).items() if key not in NAMES}
    given, _ = origins(named, recipe.data.name)
    return Side(values, {key: given.get(key, "default") for key in values})


def _of_run(run: Run) -> Side:
    """Return a run's values: what its recipe would give as well comes from there, the rest from its command line.

    Of a recipe that is none of ours the file is not at hand: all of its values come from the run.
    """
    recipe = run.recipe
    values = {key: value for key, value in every_value(recipe).items() if key not in NAMES}
    try:
        usual, given = side(recipe.name), origins(recipe.name, recipe.data.name)[0]
        told = {
            key: given.get(key, "default") if usual.values.get(key) == value else "command line"
            for key, value in values.items()
        }
    except ArdbenchError:
        told = dict.fromkeys(values, "run")
    taught, sources = [], [one.source for one in run.teachers]
    for teacher in run.teachers:
        identity, at, checkpoint = teacher.identity.partition("@")
        taught.append(f"{teacher.role}={identity[:8]}{at}{checkpoint}")
    machine = {key: (run.environment[key], "env.json") for key in MACHINE if key in run.environment}
    return Side(values, told, {"teachers": (", ".join(taught) or None, ", ".join(sources) or ABSENT), **machine})
