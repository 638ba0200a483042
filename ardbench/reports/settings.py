"""Which runs are one setting, that is alike but for the seed, and how settings of one name are told apart. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ardbench.campaigns.cells import Cell, state_of
from ardbench.recipes.differences import differing
from ardbench.runs import Run, Teacher


def cells_of(runs: Sequence[Run]) -> list[Cell]:
    """Return runs as cells of no suite, teachers of other runs first."""
    teaching = {teacher.identity.partition("@")[0] for run in runs for teacher in run.teachers}
    ordered = sorted(runs, key=lambda run: run.identity not in teaching)
    return [Cell("", run, run.recipe, run.teachers, state_of(run), ()) for run in ordered]


def setting_of(cell: Cell) -> str:
    """Return the hash of everything that decides a run but its seed."""
    identities = [teacher.identity for teacher in cell.teachers]
    return cell.recipe.model_copy(update={"seed": 0}).identity(identities)[:8]


def teachers_in_words(teachers: Sequence[Teacher]) -> str:
    """Return the teachers' names as tables have them."""
    return " + ".join(Path(teacher.source).name for teacher in teachers)


def settings_of(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return for each cell its setting, and what tells that from others of its name, student and teachers.

    The second is "" where there is no other.
    """
    settings = [setting_of(cell) for cell in cells]
    alike: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell, setting in zip(cells, settings, strict=True):
        name = cell.name or cell.recipe.name
        place = (name, cell.recipe.data.name, cell.recipe.student, teachers_in_words(cell.teachers))
        alike.setdefault(place, {}).setdefault(setting, cell)
    words = {setting: text for several in alike.values() for setting, text in _told_apart(several).items()}
    return [(setting, words[setting]) for setting in settings]


def _told_apart(several: Mapping[str, Cell]) -> dict[str, str]:
    if len(several) == 1:
        return dict.fromkeys(several, "")
    recipes = differing([cell.recipe for cell in several.values()])
    taught = [[teacher.identity for teacher in cell.teachers] for cell in several.values()]
    others = [i for i, found in enumerate(zip(*taught, strict=False)) if len(set(found)) > 1]
    words = [
        ", ".join(filter(None, [text, *(f"teacher {i + 1} #{identities[i].partition('@')[0][:8]}" for i in others)]))
        for text, identities in zip(recipes, taught, strict=True)
    ]
    return {
        setting: text if text and words.count(text) == 1 else ", ".join(filter(None, [text, f"#{setting}"]))
        for setting, text in zip(several, words, strict=True)
    }


def by_setting(cells: Sequence[Cell]) -> dict[str, list[Run]]:
    """Return the runs of each setting by its name for people; a run without others of its setting has its own name.

    In a suite settings are called as the suite calls them.
    """
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell, told in zip(cells, settings_of(cells), strict=True):
        found.setdefault((cell.name, *told), []).append(cell)
    called = [_called(group, words) for (_, _, words), group in found.items()]
    return {
        f"{name} #{setting}" if called.count(name) > 1 else name: [cell.run for cell in group]
        for name, ((_, setting, _), group) in zip(called, found.items(), strict=True)
    }


def _called(group: Sequence[Cell], words: str) -> str:
    first = group[0]
    if not first.name and len(group) == 1:
        return first.run.path.name
    taught = f" from {teachers_in_words(first.teachers)}" if first.teachers else ""
    own = first.name or f"{first.recipe.name}, {first.recipe.student}{taught}"
    about = ", ".join(filter(None, [words, f"{len(group)} seeds" if len(group) > 1 else ""]))
    return f"{own} ({about})" if about else own
